// The JSON header of a safetensors file and the index of a sharded directory, parsed without trust.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/tensor_file.h"

namespace fucina {

// The crate's cap on a header, in bytes.
inline constexpr int64_t kLargestHeader = 100'000'000;

// Tensors sorted by offset, relative to the data's start, tiling [0, data_bytes) without gap or
// overlap. `file` is the name that messages begin with.
std::vector<TensorInfo> parse_safetensors_header(std::string_view json, int64_t data_bytes,
                                                 const std::string& file);

// Tensor name -> shard file name (checked: a plain name ending in .safetensors) of
// *.safetensors.index.json.
std::map<std::string, std::string> parse_safetensors_index(std::string_view json,
                                                           const std::string& file);

}  // namespace fucina
