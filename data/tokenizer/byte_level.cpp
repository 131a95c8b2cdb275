// Printable bytes of Latin-1 stand for themselves, the others for U+0100 and on, in order.
#include "data/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "data/tokenizer/unicode.h"

namespace fucina {
namespace {

constexpr bool stands_for_itself(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
    std::array<uint16_t, 256> code{};
    std::array<int16_t, 512> byte{};

    constexpr Alphabet() {
        byte.fill(-1);
        uint16_t next = 256;
        for (int b = 0; b < 256; ++b) {
            const auto c = stands_for_itself(b) ? static_cast<uint16_t>(b) : next++;
            code[static_cast<size_t>(b)] = c;
            byte[c] = static_cast<int16_t>(b);
        }
    }
};
constexpr Alphabet kAlphabet;

}  // namespace

std::string to_byte_level(std::string_view bytes) {
    std::string out;
    out.reserve(bytes.size() * 2);
    for (const char c : bytes) append_utf8(out, kAlphabet.code[static_cast<uint8_t>(c)]);
    return out;
}

bool from_byte_level(std::string_view text, std::string& bytes) {
    bytes.clear();
    size_t length = 0;
    for (size_t at = 0; at < text.size(); at += length) {
        const uint32_t code = decode_utf8(text, at, length);
        if (code >= 512 || kAlphabet.byte[code] < 0) return false;
        bytes.push_back(static_cast<char>(kAlphabet.byte[code]));
    }
    return true;
}

}  // namespace fucina
