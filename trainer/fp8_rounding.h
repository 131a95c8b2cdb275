// Weights into FP8 in blocks of 128 x 128 (kernels/block_fp8.h), and what that leaves of training.
//
// With the directory that a model came from: a block whose weights are still those of that
// directory, to the last bit, gets that directory's values and scale; and of what training changed
// it is told how much is in what is written, <r(w) - r(b), w - b> / |w - b|^2, where w are the
// weights, b those of the directory, and r(.) either one as it is written: 1 where all of the
// change is there, 0 where none is.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/block_fp8.h"
#include "model/weight_map.h"
#include "trainer/stored_weight.h"

namespace fucina {

class Fp8Rounding {
  public:
    // like: a Hugging Face directory, or empty. Fails as read_model_spec and TensorFile do.
    explicit Fp8Rounding(const std::filesystem::path& like);

    // Of a tensor (hub name) of this parameter. Where `like` is in FP8, as there; else FP8 for
    // linear layers.
    DType dtype_of(const WeightEntry& entry, const WeightPiece& piece) const;
    // config.json's.
    const nlohmann::json& quantization_config() const { return quantization_; }

    // The next tensor, of which only headers are read; the entry must outlive it. Fails (exit 3)
    // where `like` has it in another shape, or has it not.
    void begin(const WeightEntry& entry, const WeightPiece& piece);
    // Its next row of blocks, [at most 128, C]; values, and scales [blocks(C)].
    void round(std::span<const float> weights, uint8_t* values, float* scales);

    // Of what was rounded so far: lines to be printed.
    std::vector<std::string> report() const;
    // Of all of it; nothing without `like`, or where nothing was changed.
    std::optional<double> share() const;

  private:
    struct Sums {
        double change = 0, kept = 0;   // |w - b|^2, <r(w) - r(b), w - b>
        double weight = 0, error = 0;  // |w|^2, |r(w) - w|^2
        int64_t blocks = 0, kept_blocks = 0;
    };

    void read_base(std::span<const float> weights);
    void try_base_scales(std::span<const float> weights, uint8_t* values, float* scales);
    void add(std::span<const float> weights);

    std::filesystem::path like_;
    std::optional<TensorFile> file_;
    bool like_is_fp8_ = false;
    nlohmann::json quantization_;
    ScaleFormat format_ = ScaleFormat::fp32;
    std::map<std::string, Sums> groups_;

    // Of the tensor under way.
    Sums* sums_ = nullptr;
    const WeightEntry* entry_ = nullptr;
    std::vector<WeightPiece> spelling_;  // the entry's in `like`
    std::string base_name_;
    std::optional<StoredWeight> base_;
    bool same_blocks_ = false;          // the base's blocks are ours, and in FP8
    int64_t columns_ = 0, at_ = 0;      // at_: the next element, of the parameter
    int64_t offset_ = 0;                // of the tensor in the parameter
    std::vector<float> b_, written_b_;  // of these rows: b and r(b)
    std::vector<float> rounded_;        // r(w)
    std::vector<uint8_t> other_values_;
    std::vector<float> other_rounded_, other_scales_;
};

}  // namespace fucina
