// `fucina tokenizer`: encode and decode lines of standard input, and train a tokenizer on text.
#include "data/tokenizer/tokenizer.h"

#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/file.h"
#include "data/ids_file.h"
#include "data/text_check.h"
#include "data/tokenizer/trainer.h"
#include "kernels/error.h"
#include "launch/commands.h"
#include "launch/process.h"

namespace fucina {
namespace {

// Calls `each` with every line of standard input. Only \n ends a line; the last one may lack it.
template <class Each>
void for_each_line(Each each) {
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);
    std::string line;
    for (int64_t number = 1; std::getline(std::cin, line); ++number) each(line, number);
    std::cout.flush();
    if (!std::cout) fail(ExitCode::storage, "standard output: a write failed");
}

void encode_lines(const std::string& path) {
    const Tokenizer tokenizer = Tokenizer::load(path);
    std::string out;
    for_each_line([&](const std::string& line, int64_t number) {
        if (number == 1) check_is_text("standard input", line);
        out = "[";
        for (const int32_t id : tokenizer.encode(line)) {
            if (out.size() > 1) out += ", ";
            out += std::to_string(id);
        }
        std::cout << out << "]\n";
    });
}

void decode_lines(const std::string& path) {
    const Tokenizer tokenizer = Tokenizer::load(path);
    for_each_line([&](const std::string& line, int64_t number) {
        std::cout << tokenizer.decode(parse_ids(line, concat("standard input:", number))) << '\n';
    });
}

void add_lines_command(Command parent, const std::string& name, const std::string& help,
                       void (*run)(const std::string&)) {
    Command command = parent.subcommand(name, help);
    auto path = std::make_shared<std::string>();
    command.option("--tokenizer", *path, "A tokenizer.json").path().required();
    command.run([path, run] {
        if (process().rank() == 0) run(*path);
    });
}

void train(const TokenizerTraining& training, const std::string& output) {
    const TrainedTokenizer trained = train_tokenizer(training);
    OutputFile file(output);
    file.append(std::as_bytes(std::span(trained.json)));
    file.commit();
    std::cout << output << ": " << trained.vocab_size << " tokens from " << trained.words
              << " different words in " << trained.bytes << " bytes of text\n";
    if (trained.broken_bytes > 0)
        std::cout << "note: " << trained.broken_bytes
                  << " bytes are not UTF-8 and are read as U+FFFD\n";
    if (trained.vocab_size < training.vocab_size) {
        std::cout << "note: the text yields fewer than the " << training.vocab_size
                  << " tokens asked for\n";
    }
}

void add_tokenizer_train_command(Command parent) {
    Command command =
        parent.subcommand("train", "Learn a tokenizer.json from text: byte-level BPE");
    auto training = std::make_shared<TokenizerTraining>();
    auto inputs = std::make_shared<std::vector<std::string>>();
    auto output = std::make_shared<std::string>();
    command.option("--input", *inputs, "Text files").path().required();
    command.option("--vocab-size", training->vocab_size, "Tokens in all, EOS included").required();
    command.option("--output", *output, "The file to write").path().required();
    command.option("--eos", training->eos, "The end-of-text token").show_default();
    command
        .option("--broken-limit", training->broken_limit,
                "fail if a larger share of a text's bytes is not UTF-8")
        .range(0.0, 1.0)
        .show_default();
    command.run([training, inputs, output] {
        training->inputs.assign(inputs->begin(), inputs->end());
        if (process().rank() == 0) train(*training, *output);
    });
}

}  // namespace

void add_tokenizer_command(Command app) {
    Command command = app.subcommand("tokenizer", "Encode, decode, or train a tokenizer");
    add_lines_command(command, "encode", "Each line of standard input to a list of token ids",
                      encode_lines);
    add_lines_command(command, "decode", "Each list of token ids of standard input to text",
                      decode_lines);
    add_tokenizer_train_command(command);
}

}  // namespace fucina
