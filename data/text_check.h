// Whether the bytes of a file are text at all, before they are taken for it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace fucina {

inline constexpr int64_t kTextHead = 65536;  // bytes that are looked at

// Fails (exit 3) where `head`, the first bytes of `name`, are those of a compressed file, of UTF-16
// or UTF-32, or of another binary format: says which, and what makes text of it.
void check_is_text(const std::string& name, std::string_view head);

// Fails alike where the file's head says that it is no text; what cannot be opened passes.
void check_file_is_text(const std::filesystem::path& path);

// Fails (exit 3) where `head`, the first bytes of a JSON-lines file, is one JSON value over several
// lines, or a list of objects.
void check_is_lines(const std::string& name, std::string_view head);

// Bytes that are no part of a UTF-8 character.
int64_t count_broken_utf8(std::string_view text);

// The share of a text's bytes, or of a file's lines, that may be broken unless the user says more.
inline constexpr double kBrokenLimit = 0.001;

// "12 of 345 bytes are not UTF-8", and what else they may be.
std::string broken_bytes_in_words(int64_t broken, int64_t bytes);

}  // namespace fucina
