// From text, JSONL or id lists to a token store: in parallel, in bounded memory, in the order of
// the file whatever the number of threads.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/text_check.h"
#include "data/tokenizer/tokenizer.h"

namespace fucina {

enum class SourceFormat { text, jsonl, tokens, store };

// By name, or where the name is empty by the file's ending (.txt, .jsonl, .json, .h5).
// Fails (exit 2) when neither tells.
SourceFormat source_format(const std::string& name, const std::filesystem::path& path);

// What text becomes ids with.
struct TextTokenizer {
    EncodeText encode;
    int64_t vocab_size = 0;               // every id is below it
    std::string hash;                     // names the tokenizer in stores and caches
    std::vector<int32_t> begin = {};      // put before every document
    std::optional<int32_t> end = {};      // and after it
    std::vector<std::string> stops = {};  // tokens of which any ends a turn of a conversation
    std::optional<ChatFormat> chat = {};
};

struct PrepareProgress {
    int64_t bytes = 0, total_bytes = 0, documents = 0, tokens = 0;
};

struct PrepareOptions {
    std::filesystem::path input, output;
    SourceFormat format = SourceFormat::text;
    bool append_eos = true;  // `end`, to text and jsonl; `tokens` are taken as they are
    int64_t threads = 0;     // 0: as many as the machine has
    // A larger share of broken lines, or of a text's bytes that are not UTF-8, fails (exit 3).
    double broken_limit = kBrokenLimit;
    BlockOptions blocks = {};
    std::function<void(const PrepareProgress&)> progress = {};  // called now and then
};

struct PrepareReport {
    int64_t documents = 0, tokens = 0, bytes = 0;
    int64_t records = 0;                       // jsonl: lines that are not blank
    std::array<int64_t, kBadLineKinds> bad{};  // of them, skipped, by reason
    std::vector<std::string> first_bad;        // "file:line: reason", as many as are listed
    int64_t broken_bytes = 0;                  // text: not UTF-8, read as U+FFFD
    int64_t list_at_most = 20;
    // jsonl: the kind of its rows and the line of the first of them.
    std::optional<std::pair<RowKind, int64_t>> kind;
    // Of conversations: rows left out as nothing in them is supervised, the first's "file:line",
    // those whose last turn has no end-of-turn token, and supervised tokens of what stays.
    int64_t unsupervised = 0, unended = 0, supervised = 0;
    std::string first_unsupervised;

    int64_t bad_lines() const;
    std::string bad_summary() const;  // "2 bad JSON, 1 empty text"
    // Counts a block whose first line follows `lines_before` lines of the file. Fails (exit 3)
    // where the file has rows of two kinds.
    void count(const EncodedBlock& block, const std::string& file, int64_t lines_before);
    // What was broken and is left out or replaced, a line each; none if nothing was.
    std::vector<std::string> notes() const;
    // Fails when more than `limit` of the records, or of a text's bytes, are broken.
    void check_broken(const std::string& file, double limit) const;
};

// What prepare does with a tokenizer; it shares it.
TextTokenizer text_tokenizer(const Tokenizer& tokenizer, const TextEnds& ends,
                             std::optional<ChatFormat> chat);
ConversationEncoder conversation_encoder(const TextTokenizer& tokenizer, bool append_end);

// Reads a jsonl or text file as prepare does, without encoding: what would be kept (documents and
// bytes, no tokens) and what is broken, every line of it listed. Never fails because of that.
PrepareReport survey_text(const std::filesystem::path& path, SourceFormat format);

// Writes options.output. Of the tokenizer, `tokens` need vocab_size alone. Fails with exit 3 on bad
// input, 2 where options and tokenizer do not fit.
PrepareReport prepare(const PrepareOptions& options, const TextTokenizer& tokenizer);

// Where prepare_text keeps the store of this file: the name holds a hash of the file's bytes, the
// tokenizer and the options. Reads the whole file.
std::filesystem::path cache_path(const PrepareOptions& options, const TextTokenizer& tokenizer,
                                 const std::filesystem::path& cache_directory);

// Whether files can be made in the directory, which is made if it is not there.
bool can_hold_files(const std::filesystem::path& directory);

struct PreparedText {
    std::filesystem::path store;
    std::optional<PrepareReport> report;  // absent when the store was there already
};

// prepare() into the cache, unless a whole store of the same content is there. options.output is
// not used. One process at a time should call it; others find the result.
PreparedText prepare_text(PrepareOptions options, const TextTokenizer& tokenizer,
                          const std::filesystem::path& cache_directory);

}  // namespace fucina
