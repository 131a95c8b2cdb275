// A safetensors file, or, if it begins with a brace, the index of a directory of them.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/safetensors_header.h"
#include "data/tensor_file.h"
#include "tests/fuzz/fuzz.h"

namespace fucina {
namespace {

void check_index(std::string_view input) {
    std::map<std::string, std::string> shards;
    if (!fuzz::accepts([&] { shards = parse_safetensors_index(input, "index.json"); })) return;
    HOLDS(!shards.empty());
    for (const auto& [tensor, shard] : shards) {
        HOLDS(std::filesystem::path(shard).filename() == shard && shard != ".." && shard != ".");
        HOLDS(shard.find('\0') == shard.npos);
    }
    const nlohmann::json again{{"weight_map", shards}};
    HOLDS(parse_safetensors_index(again.dump(), "again") == shards);
}

void check_file(std::string_view input) {
    const auto path = fuzz::file_of(input, "model.safetensors");
    std::vector<TensorInfo> tensors;
    std::vector<std::byte> bytes(input.size());
    const bool accepted = fuzz::accepts([&] {
        const TensorFile file(path);
        tensors = file.tensors();
        for (const TensorInfo& tensor : tensors)
            file.read(tensor, std::span(bytes).first(static_cast<size_t>(tensor.nbytes)));
    });
    if (!accepted) return;
    // What was accepted tiles the end of the file, and says the same when written and read again.
    std::ranges::sort(tensors, {},
                      [](const TensorInfo& t) { return std::pair(t.offset, t.nbytes); });
    int64_t sum = 0;
    for (const TensorInfo& tensor : tensors) sum += tensor.nbytes;
    const int64_t start = static_cast<int64_t>(input.size()) - sum;
    nlohmann::json header = nlohmann::json::object();
    for (int64_t end = start; const TensorInfo& tensor : tensors) {
        HOLDS(tensor.offset == end);
        __int128 bytes_there = tensor.foreign.empty() ? size_of(tensor.dtype) : 0;
        for (const int64_t dim : tensor.shape) bytes_there *= dim;
        HOLDS(!tensor.foreign.empty() || bytes_there == tensor.nbytes);
        end += tensor.nbytes;
        header[tensor.name] = {
            {"dtype", tensor.foreign.empty() ? std::string(name_of(tensor.dtype)) : tensor.foreign},
            {"shape", tensor.shape},
            {"data_offsets", {tensor.offset - start, end - start}}};
    }
    const auto again = parse_safetensors_header(header.dump(), sum, "again");
    HOLDS(again.size() == tensors.size());
    for (const TensorInfo& tensor : again) {
        const auto same = std::ranges::find(tensors, tensor.name, &TensorInfo::name);
        HOLDS(same != tensors.end() && same->shape == tensor.shape && same->dtype == tensor.dtype &&
              same->nbytes == tensor.nbytes && same->offset == tensor.offset + start);
    }
}

}  // namespace
}  // namespace fucina

FUZZ(input) {
    if (input.starts_with('{'))
        fucina::check_index(input);
    else
        fucina::check_file(input);
}
