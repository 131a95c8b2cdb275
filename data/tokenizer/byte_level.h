// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a
// vocabulary is text.
#pragma once
#include <string>
#include <string_view>

namespace fucina {

// The characters (UTF-8) that stand for these bytes.
std::string to_byte_level(std::string_view bytes);
// The bytes behind such characters; false, and `bytes` undefined, if some character is not of the
// alphabet.
bool from_byte_level(std::string_view text, std::string& bytes);

}  // namespace fucina
