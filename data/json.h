// The reader of whole JSON files (config.json, tokenizer.json, an index); data/json_cursor.h reads
// what is too large, or must not be built in memory.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace fucina {

inline constexpr int kJsonDepth = 64;

// JSON as Python's json module reads it: numbers of any size (integers beyond 64 bits become
// floating-point), NaN and Infinity, of a key given twice the last; a byte order mark is passed
// over. Anything else, half of a surrogate pair, bytes that are not UTF-8 and more than kJsonDepth
// levels fail with `code` in one line "name:line:column: not valid JSON: reason".
nlohmann::json parse_json(std::string_view text, const std::string& name, ExitCode code);
// Alike, with keys in the order of the text.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& name,
                                          ExitCode code);

// The same of a file, whose size is limited (exit 3).
nlohmann::json read_json_file(const std::filesystem::path& path, int64_t largest, ExitCode code);

}  // namespace fucina
