// `fucina data preview`: what training would read of the first rows of a file.
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "data/chat_format.h"
#include "data/json.h"
#include "kernels/error.h"
#include "launch/commands.h"
#include "launch/process.h"

namespace fucina {
namespace {

struct PreviewOptions {
    std::string file, tokenizer, chat_template;
    int64_t rows = 3;
    bool with_prompt = false, json = false;
};

void run_preview(const PreviewOptions& options) {
    if (process().rank() != 0) return;
    const auto format = ChatFormat::find(options.tokenizer, options.chat_template);
    if (!format) fail(ExitCode::usage, "no chat template; name one with --chat-template FILE");
    std::ifstream in(options.file);
    if (!in) fail(ExitCode::data, options.file, ": cannot be opened");
    std::string line;
    for (int64_t row = 1; row <= options.rows && std::getline(in, line); ++row) {
        nlohmann::ordered_json shown;
        try {
            const auto json =
                parse_ordered_json(line, concat(options.file, ":", row), ExitCode::data);
            shown["text"] = format->render(json, options.with_prompt);
        } catch (const Error& error) {
            shown["error"] = error.what();
        }
        if (options.json)
            std::printf("%s\n", shown.dump().c_str());
        else
            std::printf("%s\n", shown.front().get<std::string>().c_str());
    }
}

}  // namespace

void add_preview_command(Command data) {
    Command command = data.subcommand("preview", "Show what training reads of a file's first rows");
    auto options = std::make_shared<PreviewOptions>();
    command.option("file", options->file, "JSON lines").path().required();
    command.option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json").path();
    command
        .option("--chat-template", options->chat_template, "default: the one beside the tokenizer")
        .path();
    command.option("--rows", options->rows, "so many")
        .range(int64_t{1}, int64_t{1} << 40)
        .show_default();
    command.flag("--generation-prompt", options->with_prompt,
                 "with what an answer begins with, as for generation");
    command.flag("--json", options->json, "a JSON object a line");
    command.run([options] { run_preview(*options); });
}

}  // namespace fucina
