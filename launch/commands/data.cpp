// `fucina data`: make token stores from text, and check what training would read.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "data/ids_file.h"
#include "data/prepare.h"
#include "data/token_store.h"
#include "kernels/error.h"
#include "launch/commands.h"
#include "launch/process.h"

namespace fucina {
namespace {

struct DataOptions {
    std::string tokenizer, input, format, output, chat_template;
    int64_t vocab_size = 0;
    bool no_eos = false;
    TextEndChoice ends;
    double broken_limit = PrepareOptions{}.broken_limit;
    std::vector<std::string> files;
};

// 1234567 -> "1,234,567"
std::string grouped(int64_t value) {
    std::string text = std::to_string(value);
    for (auto at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) {
        text.insert(static_cast<size_t>(at), ",");
    }
    return text;
}

// One line of progress: redrawn on a terminal, a new line every ten seconds in a log.
class ProgressLine {
  public:
    void show(const PrepareProgress& progress) {
        const double seconds = elapsed();
        if (seconds < next_) return;
        next_ = seconds + (terminal_ ? 0.2 : 10);
        const double megabytes = static_cast<double>(progress.bytes) * 1e-6;
        const double total = static_cast<double>(progress.total_bytes) * 1e-6;
        const double rate = megabytes / seconds;
        std::printf("%s%.1f of %.1f MB  %s documents  %s tokens  %.1f MB/s  %.0f s left%s",
                    terminal_ ? "\r" : "", megabytes, total, grouped(progress.documents).c_str(),
                    grouped(progress.tokens).c_str(), rate, (total - megabytes) / rate,
                    terminal_ ? "\x1b[K" : "\n");
        std::fflush(stdout);
        drawn_ = true;
    }
    void clear() const {
        if (terminal_ && drawn_) std::printf("\r\x1b[K");
    }
    double elapsed() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

  private:
    const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    const bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
    double next_ = terminal_ ? 0.2 : 10;
    bool drawn_ = false;
};

void print_notes(const PrepareReport& report) {
    const char* title = "note     ";
    for (const std::string& note : report.notes()) {
        std::printf("%s %s\n", title, note.c_str());
        title = "         ";
    }
}

void run_prepare(const DataOptions& options) {
    const int threads = process().use_threads(0);  // all ranks take part in this
    if (process().rank() != 0) return;
    PrepareOptions prepare_options{.input = options.input,
                                   .output = options.output,
                                   .format = source_format(options.format, options.input),
                                   .append_eos = !options.no_eos,
                                   .threads = threads,
                                   .broken_limit = options.broken_limit};
    TextTokenizer tokenizer;
    if (!options.tokenizer.empty()) {
        const Tokenizer loaded = Tokenizer::load(options.tokenizer);
        const auto chat = ChatFormat::find(options.tokenizer, options.chat_template);
        TextEndChoice choice = options.ends;
        if (chat) choice.chat_template = chat->source();
        const TextEnds ends = loaded.ends(choice);
        tokenizer = text_tokenizer(loaded, ends, chat);
        std::printf("%s\n", ends.note.c_str());
    } else if (prepare_options.format == SourceFormat::tokens && options.vocab_size > 0) {
        tokenizer.vocab_size = options.vocab_size;
    } else {
        fail(ExitCode::usage,
             "fucina data prepare: --tokenizer is needed (for --format tokens, --vocab-size does)");
    }
    ProgressLine line;
    prepare_options.progress = [&](const PrepareProgress& progress) { line.show(progress); };
    const PrepareReport report = prepare(prepare_options, tokenizer);
    line.clear();
    std::printf("%s\ndocuments %s\ntokens    %s (%.2f bytes a token)\n", options.output.c_str(),
                grouped(report.documents).c_str(), grouped(report.tokens).c_str(),
                static_cast<double>(report.bytes) / static_cast<double>(report.tokens));
    print_notes(report);
    if (tokenizer.chat && report.kind && report.kind->first != RowKind::text)
        if (const auto note = prompt_note(*tokenizer.chat)) std::printf("%s\n", note->c_str());
    std::printf("took      %.1f s (%.1f MB/s)\n", line.elapsed(),
                static_cast<double>(report.bytes) * 1e-6 / line.elapsed());
}

void check_store(const std::string& path) {
    const TokenStore store = TokenStore::open(path);
    store.verify();
    const std::string& hash = store.tokenizer_hash();
    std::printf("%s: token store, whole\ndocuments %s\ntokens    %s\nvocab     %s\ntokenizer %s\n",
                path.c_str(), grouped(store.documents()).c_str(), grouped(store.tokens()).c_str(),
                grouped(store.vocab_size()).c_str(), hash.empty() ? "not recorded" : hash.c_str());
}

void check_ids(const std::string& path, int64_t vocab_size) {
    constexpr int64_t kAnyId = int64_t{1} << 31;
    const auto lists = read_ids(path, vocab_size > 0 ? vocab_size : kAnyId);
    int64_t tokens = 0;
    int32_t largest = 0;
    for (const auto& list : lists) {
        tokens += static_cast<int64_t>(list.size());
        for (const int32_t id : list) largest = std::max(largest, id);
    }
    std::printf("%s: token ids\ndocuments %s\ntokens    %s\nlargest   id %d\n", path.c_str(),
                grouped(static_cast<int64_t>(lists.size())).c_str(), grouped(tokens).c_str(),
                largest);
}

void check_text(const std::string& path, SourceFormat format, double limit) {
    const PrepareReport report = survey_text(path, format);
    std::printf("%s: %s\ndocuments %s\nbytes     %s\n", path.c_str(),
                format == SourceFormat::jsonl ? "JSONL" : "text, one document",
                grouped(report.documents).c_str(), grouped(report.bytes).c_str());
    print_notes(report);
    std::fflush(stdout);
    report.check_broken(path, limit);
    if (report.documents == 0) fail(ExitCode::data, path, ": holds no text");
}

void run_check(const DataOptions& options) {
    if (process().rank() != 0) return;
    for (const std::string& file : options.files) {
        const SourceFormat format = source_format(options.format, file);
        if (format == SourceFormat::store)
            check_store(file);
        else if (format == SourceFormat::tokens)
            check_ids(file, options.vocab_size);
        else
            check_text(file, format, options.broken_limit);
    }
}

void add_broken_limit(Command& command, DataOptions& options) {
    command
        .option("--broken-limit", options.broken_limit,
                "fail if a larger share of lines, or of a text's bytes, is broken")
        .range(0.0, 1.0)
        .show_default();
}

}  // namespace

void add_data_command(Command app) {
    Command command = app.subcommand("data", "Make and check training data");
    auto options = std::make_shared<DataOptions>();
    const std::string format_help = "text, jsonl, tokens or store; default: by the ending";

    Command prepare = command.subcommand("prepare", "Encode text into a token store");
    prepare.option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json").path();
    prepare.option("--input", options->input, "the text, JSONL or id lists").path().required();
    prepare.option("--format", options->format, format_help);
    prepare.option("--output", options->output, "the store to write (.h5)").path().required();
    prepare.option("--vocab-size", options->vocab_size, "for id lists without a tokenizer");
    prepare.flag("--no-eos", options->no_eos, "do not end documents with the end-of-text token");
    prepare.option("--begin-token", options->ends.begin,
                   "before documents: auto, none, or a token");
    prepare.option("--end-token", options->ends.end, "after documents: auto, none, or a token");
    prepare
        .option("--chat-template", options->chat_template,
                "of conversations; default: the tokenizer's")
        .path();
    add_broken_limit(prepare, *options);
    prepare.run([options] { run_prepare(*options); });

    Command check = command.subcommand("check", "Read data whole and report what is in it");
    check.option("files", options->files, "token stores, or text, JSONL or id lists")
        .path()
        .required();
    check.option("--format", options->format, format_help);
    check.option("--vocab-size", options->vocab_size, "ids of lists must be below this");
    add_broken_limit(check, *options);
    check.run([options] { run_check(*options); });

    add_preview_command(command);
}

}  // namespace fucina
