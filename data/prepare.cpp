#include "data/prepare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "data/ids_file.h"
#include "data/run_on_threads.h"
#include "data/token_store.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// Adds encoded blocks to the store in the order of the file.
class Collector {
  public:
    Collector(const PrepareOptions& options, const TextTokenizer& tokenizer)
        : options_(options),
          begin_(tokenizer.begin),
          end_(options.append_eos ? tokenizer.end : std::nullopt),
          writer_(options.output, tokenizer.vocab_size, tokenizer.hash) {}

    void add(const EncodedBlock& block) {
        report_.count(block, options_.input.string(), lines_);
        lines_ += block.lines;
        const std::span<const int32_t> ids(block.ids);
        const std::span<const uint8_t> supervised(block.supervised);
        size_t begin = 0;
        for (const int64_t document_end : block.document_ends) {
            const auto end = static_cast<size_t>(document_end);
            if (supervised.empty()) {
                begin_document();
                writer_.append(ids.subspan(begin, end - begin));
                end_document();
            } else {  // conversations have their beginnings and ends
                writer_.append(ids.subspan(begin, end - begin),
                               supervised.subspan(begin, end - begin));
                writer_.end_document();
            }
            begin = end;
        }
        if (block.document_ends.empty() && supervised.empty()) writer_.append(ids);
    }

    void begin_document() { writer_.append(begin_); }
    void end_document() {
        if (end_) writer_.append(std::span(&*end_, 1));
        writer_.end_document();
    }

    void show_progress(int64_t bytes, int64_t total_bytes) const {
        if (options_.progress) {
            options_.progress({bytes, total_bytes, writer_.documents(), writer_.tokens()});
        }
    }

    PrepareReport finish(int64_t bytes) {
        report_.bytes = bytes;
        report_.check_broken(options_.input.string(), options_.broken_limit);
        if (writer_.tokens() == 0 && report_.unsupervised > 0)
            fail(ExitCode::data, report_.first_unsupervised, ": nothing is supervised in this ",
                 name_of(report_.kind->first), " row, nor in any other of the file's ",
                 report_.records, "; an answer of the assistant, or a completion, is wanted");
        if (writer_.tokens() == 0) fail(ExitCode::data, options_.input.string(), ": holds no text");
        writer_.commit();
        report_.documents = writer_.documents();
        report_.tokens = writer_.tokens();
        return report_;
    }

  private:
    const PrepareOptions& options_;
    const std::vector<int32_t> begin_;
    const std::optional<int32_t> end_;
    TokenStoreWriter writer_;
    PrepareReport report_;
    int64_t lines_ = 0;
};

PrepareReport prepare_blocks(const PrepareOptions& options, const TextTokenizer& tokenizer) {
    if (options.append_eos && !tokenizer.end) {
        fail(ExitCode::usage, options.input.string(),
             ": the tokenizer names no end-of-text token to append; name one (data.end_token, or "
             "--end-token), or ask for none (data.append_eos = false, or --no-eos)");
    }
    const bool lines = options.format == SourceFormat::jsonl;
    const auto reader = lines ? read_lines(options.input, options.blocks)
                              : read_segments(options.input, options.blocks, tokenizer.encode);
    const ConversationEncoder encoder = conversation_encoder(tokenizer, options.append_eos);
    Collector collector(options, tokenizer);
    if (!lines) collector.begin_document();
    const int64_t threads = options.threads > 0
                                ? options.threads
                                : std::max<int64_t>(1, std::thread::hardware_concurrency());
    // A round of about four blocks a thread is read, encoded in parallel, and written in order.
    const auto round_bytes = static_cast<size_t>(4 * threads * options.blocks.block_bytes);
    std::vector<TextBlock> blocks;
    std::vector<EncodedBlock> encoded;
    for (bool more = true; more;) {
        blocks.clear();
        for (size_t bytes = 0; bytes < round_bytes; bytes += blocks.back().bytes.size()) {
            TextBlock block;
            more = reader->next(block);
            if (!more) break;
            blocks.push_back(std::move(block));
        }
        encoded.assign(blocks.size(), {});
        run_on_threads(static_cast<int64_t>(blocks.size()), threads, [&](int64_t i) {
            const auto at = static_cast<size_t>(i);
            encoded[at] = lines ? encode_lines(blocks[at], options.blocks.longest_line, encoder)
                                : encode_segment(blocks[at], tokenizer.encode);
        });
        for (const EncodedBlock& block : encoded) collector.add(block);
        collector.show_progress(reader->bytes_read(), reader->bytes_total());
    }
    if (!lines) collector.end_document();
    return collector.finish(reader->bytes_total());
}

PrepareReport prepare_ids(const PrepareOptions& options, const TextTokenizer& tokenizer) {
    const auto lists = read_ids(options.input, tokenizer.vocab_size);
    TokenStoreWriter writer(options.output, tokenizer.vocab_size, tokenizer.hash);
    for (const auto& list : lists) {
        writer.append(list);
        writer.end_document();
    }
    writer.commit();
    PrepareReport report;
    report.documents = writer.documents();
    report.tokens = writer.tokens();
    report.bytes = InputFile(options.input).size();
    return report;
}

}  // namespace

SourceFormat source_format(const std::string& name, const std::filesystem::path& path) {
    constexpr const char* kNames[] = {"text", "jsonl", "tokens", "store"};
    constexpr const char* kEndings[] = {".txt", ".jsonl", ".json", ".h5"};
    for (int i = 0; i < 4; ++i) {
        if (name.empty() ? path.extension() == kEndings[i] : name == kNames[i]) {
            return static_cast<SourceFormat>(i);
        }
    }
    if (!name.empty()) {
        fail(ExitCode::usage, "unknown format \"", printable(name),
             "\"; one of text, jsonl, tokens, store");
    }
    check_file_is_text(path);
    fail(ExitCode::usage, path.string(),
         ": its ending is not .txt, .jsonl, .json or .h5; say the format: text, jsonl, tokens or "
         "store");
}

int64_t PrepareReport::bad_lines() const {
    return std::accumulate(bad.begin(), bad.end(), int64_t{0});
}

void PrepareReport::count(const EncodedBlock& block, const std::string& file,
                          int64_t lines_before) {
    for (const auto& line : block.bad) {
        const LineFault& fault = line.fault;
        ++bad[static_cast<size_t>(fault.reason)];
        if (static_cast<int64_t>(first_bad.size()) >= list_at_most) continue;
        const bool column = fault.reason == BadLine::json;  // the detail begins with it
        first_bad.push_back(concat(file, ":", lines_before + line.line + 1, column ? ":" : ": ",
                                   fault.detail.empty() ? name_of(fault.reason) : fault.detail));
    }
    for (const auto& [found, line] : block.kinds) {
        if (!kind) kind = {found, lines_before + line + 1};
        if (found != kind->first)
            fail(ExitCode::data, file, ":", lines_before + line + 1, ": a row of ", name_of(found),
                 ", in a file that has rows of ", name_of(kind->first), " since line ",
                 kind->second, "; put them into files of their own");
    }
    if (unsupervised == 0 && !block.unsupervised.empty())
        first_unsupervised = concat(file, ":", lines_before + block.unsupervised.front() + 1);
    unsupervised += std::ssize(block.unsupervised);
    unended += block.unended;
    supervised += std::ranges::count(block.supervised, uint8_t{1});
    records += block.records;
    broken_bytes += block.broken_bytes;
}

std::vector<std::string> PrepareReport::notes() const {
    std::vector<std::string> lines;
    if (broken_bytes > 0)
        lines.push_back(
            concat(broken_bytes, " of ", bytes, " bytes are not UTF-8 and are read as U+FFFD"));
    if (unsupervised > 0)
        lines.push_back(concat(unsupervised, " of ", records,
                               " rows left out, as nothing in them is supervised; the first is ",
                               first_unsupervised));
    if (unended > 0)
        lines.push_back(concat("WARNING: the last turn of ", unended, " of ", records,
                               " conversations has no end-of-turn token, so the model does not "
                               "learn to stop; which tokens end turns is said above"));
    if (bad_lines() == 0) return lines;
    lines.push_back(concat(bad_lines(), " of ", records, " lines skipped: ", bad_summary()));
    for (const std::string& line : first_bad) lines.push_back("  " + line);
    if (static_cast<int64_t>(first_bad.size()) < bad_lines())
        lines.emplace_back("  ...; `fucina data check` lists all");
    return lines;
}

void PrepareReport::check_broken(const std::string& file, double limit) const {
    const auto refuse = [&](int64_t broken, int64_t all, const auto&... what) {
        if (static_cast<double>(broken) <= limit * static_cast<double>(all)) return;
        // Rounded up to three decimals.
        const double wanted =
            std::ceil(static_cast<double>(broken) / static_cast<double>(all) * 1000) / 1000;
        fail(ExitCode::data, file, ": ", what..., ", more than ", limit * 100,
             " %; mend them, or go on without them by data.broken_limit = ", wanted,
             " (--broken-limit ", wanted, ")");
    };
    if (bad_lines() > 0)
        refuse(bad_lines(), records, bad_lines(), " of ", records, " lines are broken (",
               bad_summary(), "; first: ", first_bad.front(), "; `fucina data check` lists all)");
    refuse(broken_bytes, bytes, broken_bytes_in_words(broken_bytes, bytes));
}

std::string PrepareReport::bad_summary() const {
    std::string text;
    for (int i = 0; i < kBadLineKinds; ++i) {
        const int64_t count = bad[static_cast<size_t>(i)];
        if (count == 0) continue;
        if (!text.empty()) text += ", ";
        text += std::to_string(count) + " " + name_of(static_cast<BadLine>(i));
    }
    return text;
}

TextTokenizer text_tokenizer(const Tokenizer& tokenizer, const TextEnds& ends,
                             std::optional<ChatFormat> chat) {
    std::vector<std::string> stops;
    for (const int32_t id : ends.stops) stops.push_back(tokenizer.decode({&id, 1}));
    return {.encode =
                [tokenizer](std::string_view text, std::vector<int32_t>& ids) {
                    const std::vector<int32_t> more = tokenizer.encode(text);
                    ids.insert(ids.end(), more.begin(), more.end());
                },
            .vocab_size = tokenizer.vocab_size(),
            .hash = tokenizer.hash(),
            .begin = ends.begin,
            .end = ends.end,
            .stops = std::move(stops),
            .chat = std::move(chat)};
}

ConversationEncoder conversation_encoder(const TextTokenizer& tokenizer, bool append_end) {
    return {.encode = tokenizer.encode,
            .begin = tokenizer.begin,
            .end = append_end ? tokenizer.end : std::nullopt,
            .stops = tokenizer.stops,
            .chat = tokenizer.chat};
}

PrepareReport survey_text(const std::filesystem::path& path, SourceFormat format) {
    const bool lines = format == SourceFormat::jsonl;
    const EncodeText nothing = [](std::string_view, std::vector<int32_t>&) {};
    const ConversationEncoder checker{
        .encode = nothing, .begin = {}, .end = {}, .stops = {}, .chat = {}};
    const BlockOptions blocks;
    const auto reader = lines ? read_lines(path, blocks) : read_segments(path, blocks, nothing);
    PrepareReport report{.list_at_most = std::numeric_limits<int64_t>::max()};
    int64_t lines_before = 0;
    for (TextBlock block; reader->next(block);) {
        const EncodedBlock found = lines ? encode_lines(block, blocks.longest_line, checker, true)
                                         : encode_segment(block, nothing);
        report.count(found, path.string(), lines_before);
        report.documents += static_cast<int64_t>(found.document_ends.size());
        lines_before += found.lines;
    }
    report.documents += lines ? 0 : 1;
    report.bytes = reader->bytes_total();
    return report;
}

PrepareReport prepare(const PrepareOptions& options, const TextTokenizer& tokenizer) {
    if (options.format == SourceFormat::store) {
        fail(ExitCode::usage, options.input.string(), ": is a token store already");
    }
    if (options.format == SourceFormat::tokens) return prepare_ids(options, tokenizer);
    return prepare_blocks(options, tokenizer);
}

}  // namespace fucina
