// `fucina data preview`: the first rows of a JSON-lines file as training reads them.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "data/documents.h"
#include "data/json.h"
#include "data/prepare.h"
#include "data/supervision.h"
#include "kernels/error.h"
#include "launch/commands.h"
#include "launch/process.h"

namespace fucina {
namespace {

struct PreviewOptions {
    std::string file, tokenizer, chat_template;
    int64_t rows = 3;
    bool render = false, with_prompt = false, json = false;
};

using Json = nlohmann::ordered_json;

// What becomes of rows, one after the other.
class Preview {
  public:
    explicit Preview(const PreviewOptions& options)
        : options_(options), chat_(ChatFormat::find(options.tokenizer, options.chat_template)) {
        if (options.render) {
            if (!chat_) fail(ExitCode::usage, "no chat template; name one by --chat-template FILE");
            return;
        }
        tokenizer_.emplace(Tokenizer::load(options.tokenizer));
        const TextEnds ends = tokenizer_->ends({.chat_template = chat_ ? chat_->source() : ""});
        if (!options.json) std::printf("%s\n", ends.note.c_str());
        encoder_ = conversation_encoder(text_tokenizer(*tokenizer_, ends, chat_), true);
        begin_ = ends.begin;
        end_ = ends.end;
    }

    Json of(std::string line) {
        Json shown;
        try {
            if (options_.render)
                shown["text"] = chat_->render(parse_ordered_json(line, "", ExitCode::data),
                                              options_.with_prompt);
            else
                encode(std::move(line), shown);
        } catch (const BrokenTemplate&) {
            throw;
        } catch (const Error& error) {
            if (error.code() != ExitCode::data) throw;
            shown["error"] = error.what();
        }
        return shown;
    }

    // What is to be said of all conversations, where there were some.
    std::optional<std::string> note() const {
        return saw_conversation_ && chat_ ? prompt_note(*chat_) : std::nullopt;
    }

  private:
    void encode(std::string line, Json& shown) {
        TextBlock block{.bytes = std::move(line)};
        EncodedBlock row = encode_lines(block, kLongestLine, *encoder_);
        if (!row.bad.empty()) {
            const LineFault& fault = row.bad.front().fault;
            fail(ExitCode::data, fault.reason == BadLine::json ? "column " : "",
                 fault.detail.empty() ? name_of(fault.reason) : fault.detail);
        }
        if (!row.unsupervised.empty()) fail(ExitCode::data, "nothing in it is supervised");
        if (row.supervised.empty()) {  // a document
            row.ids.insert(row.ids.begin(), begin_.begin(), begin_.end());
            if (end_) row.ids.push_back(*end_);
            row.supervised.assign(row.ids.size(), 1);
        } else {
            saw_conversation_ = true;
        }
        const bool colours = isatty(STDOUT_FILENO) == 1 && !options_.json;
        shown["text"] = marked_text(*tokenizer_, row.ids, row.supervised, colours);
        shown["ids"] = row.ids;
        shown["supervised"] = row.supervised;
    }

    const PreviewOptions& options_;
    const std::optional<ChatFormat> chat_;
    std::optional<Tokenizer> tokenizer_;
    std::optional<ConversationEncoder> encoder_;
    std::vector<int32_t> begin_;
    std::optional<int32_t> end_;
    bool saw_conversation_ = false;
};

void run_preview(const PreviewOptions& options) {
    if (process().rank() != 0) return;
    if (options.tokenizer.empty() && !options.render)
        fail(ExitCode::usage,
             "fucina data preview: --tokenizer is needed (with --render, a template does)");
    Preview preview(options);
    const auto reader = read_lines(options.file, {});
    int64_t number = 0, shown = 0;
    for (TextBlock block; shown < options.rows && reader->next(block);) {
        for (size_t begin = 0; begin < block.bytes.size() && shown < options.rows;) {
            const size_t end = std::min(block.bytes.find('\n', begin), block.bytes.size());
            const std::string line = block.bytes.substr(begin, end - begin);
            begin = end + 1;
            ++number;
            if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
            ++shown;
            const Json row = preview.of(line);
            if (options.json)
                std::printf("%s\n", row.dump().c_str());
            else
                std::printf("%s:%lld%s%s\n", options.file.c_str(), static_cast<long long>(number),
                            row.contains("error") ? ": " : "\n",
                            row.begin().value().get<std::string>().c_str());
        }
    }
    const auto note = options.json ? std::nullopt : preview.note();
    if (note) std::printf("%s\n", note->c_str());
}

}  // namespace

void add_preview_command(Command data) {
    Command command =
        data.subcommand("preview", "Show the first rows of JSON lines as training reads them");
    auto options = std::make_shared<PreviewOptions>();
    command.option("file", options->file, "JSON lines").path().required();
    command.option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json").path();
    command
        .option("--chat-template", options->chat_template,
                "of conversations; default: the tokenizer's")
        .path();
    command.option("--rows", options->rows, "so many")
        .range(int64_t{1}, int64_t{1} << 40)
        .show_default();
    command.flag("--render", options->render, "the text alone, as the chat template makes it");
    command.flag("--generation-prompt", options->with_prompt,
                 "with --render: and what an answer begins with");
    command.flag("--json", options->json, "a JSON object a line: text, ids, supervised; or error");
    command.run([options] { run_preview(*options); });
}

}  // namespace fucina
