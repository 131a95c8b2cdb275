// Token ids as JSON: a list of lists, [[1, 2, 3], [4, 5]]; one inner list is one document (or one
// sequence of `eval`).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fucina {

// Fails (exit 3) on anything that is not a list of lists of ids in [0, vocab_size), naming list and
// position (both counted from 0) or line:column, and on a file without any id. Inner lists may be
// empty.
std::vector<std::vector<int32_t>> read_ids(const std::filesystem::path& path, int64_t vocab_size);

// Of one list alone, [1, 2]; `name` stands in messages.
std::vector<int32_t> parse_ids(std::string_view list, const std::string& name);

}  // namespace fucina
