// Text files of any size as blocks that workers encode on their own, in bounded memory. Files that
// are no text at all are refused (data/text_check.h).
// text: the file is one document; a block is a segment of it. jsonl: a block is whole lines, each
// {"text": "..."}, a document, or a conversation (data/conversation.h). A byte order mark at the
// start of the file is not text.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/conversation.h"
#include "data/file.h"
#include "data/json_line.h"

namespace fucina {

// A longer line is skipped: it would not be a document but a damaged file.
inline constexpr int64_t kLongestLine = int64_t{64} << 20;  // bytes

struct TextBlock {
    std::string bytes;
    bool too_long = false;  // stands for one line that was longer than kLongestLine
};

struct BlockOptions {
    int64_t block_bytes = int64_t{1} << 20;  // about so large
    int64_t longest_line = kLongestLine;
};

class BlockReader {
  public:
    virtual ~BlockReader() = default;
    // False at the end of the file. A block is larger than block_bytes only where a line is, or
    // where the text cannot be cut.
    virtual bool next(TextBlock& block) = 0;
    virtual int64_t bytes_read() const = 0;
    virtual int64_t bytes_total() const = 0;
};

std::unique_ptr<BlockReader> read_lines(const std::filesystem::path& path, BlockOptions options);

// Cuts before lines, or else before the space between two words, and only if `encode` gives the
// same ids for the 256 bytes on both sides together and apart. So the ids of the segments, joined,
// are those of the whole.
std::unique_ptr<BlockReader> read_segments(const std::filesystem::path& path, BlockOptions options,
                                           EncodeText encode);

struct EncodedBlock {
    struct Bad {
        int64_t line = 0;  // within the block, from 0
        LineFault fault;
    };
    std::vector<int32_t> ids;
    std::vector<uint8_t> supervised;     // 0 or 1 of each id; empty: all
    std::vector<int64_t> document_ends;  // into ids; empty for text, whose document goes on
    std::vector<Bad> bad;
    // The kinds of its rows in the order in which they first come, each with its line.
    std::vector<std::pair<RowKind, int64_t>> kinds;
    std::vector<int64_t> unsupervised;  // lines whose row is left out: it has nothing to learn
    int64_t unended = 0;                // conversations whose last turn has no end-of-turn token
    int64_t lines = 0;                  // blank ones included
    int64_t records = 0;                // lines that are not blank
    int64_t broken_bytes = 0;           // text: that are not UTF-8 and were read as U+FFFD
};

// Conversations are only checked where the encoder encodes none. What it fails with but
// Error(data) goes through, and BrokenTemplate.
EncodedBlock encode_lines(TextBlock& block, int64_t longest_line,
                          const ConversationEncoder& encoder, bool checks_only = false);
EncodedBlock encode_segment(const TextBlock& block, const EncodeText& encode);

}  // namespace fucina
