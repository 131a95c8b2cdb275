#include "data/supervision.h"

#include <algorithm>
#include <array>

#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kLongest = 600;  // bytes of a stretch that are shown

std::string shown(std::string text) {
    for (char& c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) c = '?';
    }
    return without_middle(std::move(text), kLongest, kLongest / 2);
}

}  // namespace

std::string marked_text(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                        std::span<const uint8_t> supervised, bool colours) {
    std::string out;
    for (size_t begin = 0, end = 0; begin < ids.size(); begin = end) {
        while (end < ids.size() && supervised[end] == supervised[begin]) ++end;
        const std::string text = shown(tokenizer.decode(ids.subspan(begin, end - begin)));
        if (supervised[begin] == 0)
            out += text;
        else
            out += (colours ? "\x1b[32m" : "[[") + text + (colours ? "\x1b[0m" : "]]");
    }
    return out;
}

std::string marked_example(const Tokenizer& tokenizer, const TokenStore& store, bool colours) {
    constexpr int64_t kMost = 1 << 16;  // tokens
    std::array<int64_t, 2> bounds{};
    store.read_offsets(0, bounds);
    const auto count = static_cast<size_t>(std::min(kMost, bounds[1]));
    std::vector<int32_t> ids(count);
    std::vector<uint8_t> supervised(count);
    store.read_tokens(0, ids);
    store.read_supervised(0, supervised);
    return marked_text(tokenizer, ids, supervised, colours);
}

}  // namespace fucina
