#include "data/documents.h"

#include <simdjson.h>

#include <algorithm>

#include "data/json_line_reader.h"
#include "data/text_check.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// Reads a text file in order; drops a byte order mark.
class Stream {
  public:
    Stream(const std::filesystem::path& path, int64_t block_bytes, bool lines)
        : file_(path), block_bytes_(block_bytes) {
        if (file_.size() == 0) fail(ExitCode::data, path.string(), ": is empty");
        std::string head(static_cast<size_t>(std::min(file_.size(), kTextHead)), '\0');
        file_.read(0, std::as_writable_bytes(std::span(head)));
        check_is_text(path.string(), head);
        if (lines) check_is_lines(path.string(), head);
        if (head.starts_with("\xef\xbb\xbf")) at_ = 3;
    }

    // Appends the next bytes; false when there are none.
    bool append_to(std::string& text) {
        const int64_t count = std::min(block_bytes_, file_.size() - at_);
        if (count == 0) return false;
        const size_t old = text.size();
        text.resize(old + static_cast<size_t>(count));
        file_.read(at_, std::as_writable_bytes(std::span(text).subspan(old)));
        at_ += count;
        return true;
    }

    int64_t at() const { return at_; }
    int64_t size() const { return file_.size(); }

  private:
    InputFile file_;
    int64_t block_bytes_;
    int64_t at_ = 0;
};

class LineReader final : public BlockReader {
  public:
    LineReader(const std::filesystem::path& path, BlockOptions options)
        : stream_(path, options.block_bytes, true), longest_line_(options.longest_line) {}

    bool next(TextBlock& block) override {
        block = {.bytes = std::exchange(after_dropped_, {})};
        if (!block.bytes.empty()) return true;
        for (;;) {
            const size_t searched = rest_.size();
            const bool more = stream_.append_to(rest_);
            const size_t end = std::string_view(rest_).substr(searched).rfind('\n');
            if (end != std::string::npos) {
                block.bytes = rest_.substr(0, searched + end + 1);
                rest_.erase(0, searched + end + 1);
                if (dropping_) end_dropped_line(block);
                return true;
            }
            if (dropping_) rest_.clear();
            if (!more) {
                block.bytes = std::exchange(rest_, {});
                block.too_long = std::exchange(dropping_, false);
                return block.too_long || !block.bytes.empty();
            }
            if (static_cast<int64_t>(rest_.size()) > longest_line_) dropping_ = true;
        }
    }

    int64_t bytes_read() const override { return stream_.at(); }
    int64_t bytes_total() const override { return stream_.size(); }

  private:
    // The block begins with the end of the dropped line; the whole lines behind it come next.
    void end_dropped_line(TextBlock& block) {
        after_dropped_ = block.bytes.substr(block.bytes.find('\n') + 1);
        block = {.bytes = {}, .too_long = true};
        dropping_ = false;
    }

    Stream stream_;
    int64_t longest_line_;
    std::string rest_;  // the beginning of a line that has not ended yet
    std::string after_dropped_;
    bool dropping_ = false;  // inside a line that is too long
};

constexpr size_t kContext = 256;  // bytes on each side of a cut that must agree

bool is_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

class SegmentReader final : public BlockReader {
  public:
    SegmentReader(const std::filesystem::path& path, BlockOptions options, EncodeText encode)
        : stream_(path, options.block_bytes, false), encode_(std::move(encode)) {}

    bool next(TextBlock& block) override {
        block = {};
        for (;;) {
            const size_t old = rest_.size();
            if (!stream_.append_to(rest_)) {
                block.bytes = std::exchange(rest_, {});
                return !block.bytes.empty();
            }
            if (stream_.at() == stream_.size()) continue;
            if (const size_t cut = find_cut(old); cut != 0) {
                block.bytes = rest_.substr(0, cut);
                rest_.erase(0, cut);
                return true;
            }
        }
    }

    int64_t bytes_read() const override { return stream_.at(); }
    int64_t bytes_total() const override { return stream_.size(); }

  private:
    // The last confirmed cut behind `begin`, 0 if there is none among the candidates tried: first
    // beginnings of lines, then spaces between words.
    size_t find_cut(size_t begin) const {
        constexpr int kTries = 16;
        const size_t last = rest_.size() - std::min(rest_.size(), kContext);
        for (const bool at_lines : {true, false}) {
            int tries = 0;
            for (size_t cut = last; cut > begin && tries < kTries; --cut) {
                if (!is_candidate(cut, at_lines)) continue;
                if (is_boundary(cut)) return cut;
                ++tries;
            }
        }
        return 0;
    }

    bool is_candidate(size_t cut, bool at_lines) const {
        const auto visible = [this](size_t i) {
            return static_cast<unsigned char>(rest_[i]) > ' ';
        };
        if (at_lines) return rest_[cut - 1] == '\n' && visible(cut);
        return rest_[cut] == ' ' && visible(cut - 1) && visible(cut + 1);
    }

    bool is_boundary(size_t cut) const {
        size_t begin = cut - std::min(cut, kContext), end = std::min(rest_.size(), cut + kContext);
        while (begin < cut && is_continuation(rest_[begin])) ++begin;
        while (end < rest_.size() && end > cut && is_continuation(rest_[end])) --end;
        const std::string_view text(rest_);
        std::vector<int32_t> together, apart;
        encode_(text.substr(begin, end - begin), together);
        encode_(text.substr(begin, cut - begin), apart);
        encode_(text.substr(cut, end - cut), apart);
        return together == apart;
    }

    Stream stream_;
    EncodeText encode_;
    std::string rest_;
};

bool is_blank(std::string_view line) {
    return line.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

}  // namespace

std::unique_ptr<BlockReader> read_lines(const std::filesystem::path& path, BlockOptions options) {
    return std::make_unique<LineReader>(path, options);
}

std::unique_ptr<BlockReader> read_segments(const std::filesystem::path& path, BlockOptions options,
                                           EncodeText encode) {
    return std::make_unique<SegmentReader>(path, options, std::move(encode));
}

namespace {

// Adds the row; the fault of one that is no conversation.
std::optional<LineFault> add_row(const Row& row, const ConversationEncoder& encoder,
                                 bool checks_only, EncodedBlock& out) {
    const auto known = [&](const auto& kind) { return kind.first == row.kind; };
    if (std::ranges::none_of(out.kinds, known)) out.kinds.emplace_back(row.kind, out.lines);
    const size_t before = out.ids.size();
    const auto take_back = [&] {
        out.ids.resize(before);
        out.supervised.resize(std::min(out.supervised.size(), before));
    };
    try {
        if (row.kind == RowKind::text) {
            encoder.encode(row.text, out.ids);
        } else if (checks_only) {
            check_conversation(row);
        } else {
            const auto added = encoder.append(row, out.ids, out.supervised);
            if (added.supervised == 0) {
                take_back();
                out.unsupervised.push_back(out.lines);
                return std::nullopt;
            }
            out.unended += added.is_ended ? 0 : 1;
        }
    } catch (const BrokenTemplate&) {
        throw;
    } catch (const Error& error) {
        if (error.code() != ExitCode::data || row.kind == RowKind::text) throw;
        take_back();
        return LineFault{BadLine::conversation, error.what()};
    }
    out.document_ends.push_back(static_cast<int64_t>(out.ids.size()));
    return std::nullopt;
}

}  // namespace

EncodedBlock encode_lines(TextBlock& block, int64_t longest_line,
                          const ConversationEncoder& encoder, bool checks_only) {
    EncodedBlock out;
    if (block.too_long) {
        out.bad.push_back({.line = 0, .fault = {BadLine::too_long, ""}});
        out.lines = out.records = 1;
        return out;
    }
    const size_t size = block.bytes.size();
    block.bytes.append(simdjson::SIMDJSON_PADDING, '\0');
    LineReaderJson json;
    for (size_t begin = 0; begin < size; ++out.lines) {
        size_t end = std::min(block.bytes.find('\n', begin), size);
        const std::string_view line(block.bytes.data() + begin, end - begin);
        begin = end + 1;
        if (is_blank(line)) continue;
        ++out.records;
        LineFault fault{BadLine::too_long, ""};
        std::optional<Row> row;
        if (static_cast<int64_t>(line.size()) <= longest_line) row = json.read(line, fault);
        std::optional<LineFault> wrong = fault;
        if (row) wrong = add_row(*row, encoder, checks_only, out);
        if (wrong) out.bad.push_back({.line = out.lines, .fault = std::move(*wrong)});
    }
    return out;
}

EncodedBlock encode_segment(const TextBlock& block, const EncodeText& encode) {
    EncodedBlock out;
    out.broken_bytes = count_broken_utf8(block.bytes);
    encode(block.bytes, out.ids);
    return out;
}

}  // namespace fucina
