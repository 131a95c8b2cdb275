// Weights as Hugging Face directories hold them, read as fp32: F32, BF16, F16, and F8_E4M3 with a
// tensor NAME_scale_inv, F32, of a scale for each block of 128 x 128 (kernels/block_fp8.h), as
// DeepSeek-V3 and R1 are released.
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/tensor_file.h"
#include "model/weight_map.h"

namespace fucina {

constexpr const char* kScaleSuffix = "_scale_inv";

// Fails (exit 2), naming key and value, where config.json has a quantization_config of another
// kind than E4M3 in blocks of 128 x 128.
void check_quantization(const nlohmann::json& config, const std::string& source);

// The spelling of the parameter that the file uses; the hub's if it has none.
std::vector<WeightPiece> spelling_of(const WeightEntry& entry, const TensorFile& file);

// A tensor that is a piece of a parameter, and its scales. Threads may share one once scale_values
// was called.
class StoredWeight {
  public:
    // Fails (exit 3) where the tensor or its scales are missing, or have another shape or dtype;
    // only headers are looked at. The file must outlive it.
    StoredWeight(const TensorFile& file, const WeightPiece& piece);

    const TensorInfo& tensor() const { return *tensor_; }
    const TensorInfo* scales() const { return scales_; }  // null unless F8_E4M3

    // Elements [begin, end) of the parameter, as far as they lie in the piece, go to `to`, where
    // element `begin` is first. Fails (exit 3) on values that are not finite and on scales that are
    // not positive and finite. Memory: some MiB, and the scales.
    void read(int64_t begin, int64_t end, float* to) const;
    // The tensor's elements from `first` on in the file's dtype, as many as fill `into`.
    void read_stored(int64_t first, std::span<std::byte> into) const;
    std::span<const float> scale_values() const;  // read once

  private:
    std::string where() const;

    const TensorFile* file_;
    const TensorInfo *tensor_, *scales_ = nullptr;
    int64_t offset_;  // of the piece, in elements of the parameter
    mutable std::vector<float> scale_values_;
};

// A line about the tensors that no parameter is made of, or "". Fails (exit 3) on one that lies
// inside what runs.
std::string left_aside(const TensorFile& file, const WeightMap& map,
                       const std::set<std::string_view>& used);

}  // namespace fucina
