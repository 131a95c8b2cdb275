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
    Fp8Rounding(const std::filesystem::path& like, int64_t threads);

    // Of a tensor (hub name) of this parameter. Where `like` is in FP8, as there; else FP8 for
    // linear layers.
    DType dtype_of(const WeightEntry& entry, const WeightPiece& piece) const;
    // config.json's.
    const nlohmann::json& quantization_config() const { return quantization_; }

    // The next tensor, of which only headers are read; the entry must outlive it. Fails (exit 3)
    // where `like` has it in another shape, or has it not.
    void begin(const WeightEntry& entry, const WeightPiece& piece);
    // Its next rows of blocks, [rows, C]; values, and scales [blocks(rows), blocks(C)]. All but the
    // last are 128 rows; of each row of blocks some 17 bytes a weight are held.
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

        void add(const Sums& other);
    };
    // A row of blocks under way.
    struct Band {
        std::span<const float> weights;
        int64_t at;  // its first element, of the parameter
        uint8_t* values;
        std::span<float> scales;
        Sums sums = {};
        std::vector<float> rounded = {}, base = {}, written_base = {};  // r(w), b, r(b)
        std::vector<float> other_rounded = {}, other_scales = {};
        std::vector<uint8_t> other_values = {};
    };

    void round(Band& band) const;
    bool take_base(Band& band) const;
    void read_base(Band& band) const;
    void try_base_scales(Band& band) const;
    static void add_up(Band& band, bool with_base);
    std::span<const float> base_scales(const Band& band) const;
    void decode(std::span<const float> scales, const uint8_t* values,
                std::vector<float>& out) const;

    const int64_t threads_;
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
    std::span<const float> base_scales_;
    bool same_blocks_ = false;      // the base's blocks are ours, and in FP8
    int64_t columns_ = 0, at_ = 0;  // at_: the next element, of the parameter
    int64_t offset_ = 0;            // of the tensor in the parameter
};

}  // namespace fucina
