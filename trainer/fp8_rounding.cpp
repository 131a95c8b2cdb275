#include "trainer/fp8_rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/json.h"
#include "kernels/error.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

constexpr int64_t kConfigLimit = 16 << 20;

// "attention" of "layers.3.attention.out".
std::string group_of(std::string name) {
    if (name.starts_with("layers.")) name.erase(0, name.find('.', 7) + 1);
    return name.substr(0, name.rfind('.'));
}

nlohmann::json released() {
    return {{"activation_scheme", "dynamic"},
            {"fmt", "e4m3"},
            {"quant_method", "fp8"},
            {"weight_block_size", {kQuantizeBlock, kQuantizeBlock}}};
}

}  // namespace

Fp8Rounding::Fp8Rounding(const std::filesystem::path& like) : quantization_(released()) {
    if (like.empty()) return;
    read_model_spec(like);  // says what will not do, a quantization_config too
    file_.emplace(like);
    like_is_fp8_ = std::ranges::any_of(file_->tensors(), [](const TensorInfo& tensor) {
        return tensor.dtype == DType::f8_e4m3 && tensor.foreign.empty();
    });
    const auto path = like / "config.json";
    const nlohmann::json config = read_json_file(path, kConfigLimit, ExitCode::usage);
    const auto found = config.find("quantization_config");
    if (!like_is_fp8_ || found == config.end() || !found->is_object()) return;
    quantization_ = *found;
    if (found->value("scale_fmt", nlohmann::json()) == "ue8m0") format_ = ScaleFormat::power_of_two;
}

DType Fp8Rounding::dtype_of(const WeightEntry& entry, const WeightPiece& piece) const {
    const TensorInfo* there = like_is_fp8_ ? file_->find(piece.tensor) : nullptr;
    if (there && there->foreign.empty())
        for (const DType type : {DType::f32, DType::bf16, DType::f8_e4m3})
            if (there->dtype == type && (type != DType::f8_e4m3 || piece.shape.size() == 2))
                return type;
    return entry.fp32 ? DType::f32 : entry.fp8 ? DType::f8_e4m3 : DType::bf16;
}

void Fp8Rounding::begin(const WeightEntry& entry, const WeightPiece& piece) {
    sums_ = &groups_[group_of(entry.parameter)];
    columns_ = piece.shape.back();
    at_ = offset_ = piece.offset;
    if (!file_) return;
    // Of a fused tensor the next piece reads on, with the scales that are there.
    if (entry_ != &entry) spelling_ = spelling_of(*(entry_ = &entry), *file_);
    const auto base = std::ranges::find_if(spelling_, [&](const WeightPiece& one) {
        return one.offset <= piece.offset && piece.offset < one.offset + element_count(one.shape);
    });
    if (base_name_ == base->tensor) return;
    base_name_ = base->tensor;
    base_.reset();
    // A module that training added has no base.
    if (file_->find(base_name_) || !entry.parameter.starts_with("mtp."))
        base_.emplace(*file_, *base);
    same_blocks_ = base_ && base_->scales() && base_name_ == piece.tensor;
}

void Fp8Rounding::round(std::span<const float> weights, uint8_t* values, float* scales) {
    const auto across = static_cast<size_t>(fp8_blocks(columns_));
    fp8_scales(weights, columns_, format_, scales);
    encode_fp8(weights, columns_, scales, values);
    rounded_.resize(weights.size());
    decode_fp8({kQuantizeBlock, columns_, {scales, across}}, 0, values, rounded_);
    sums_->blocks += fp8_blocks(columns_);
    if (base_) read_base(weights);
    if (same_blocks_) try_base_scales(weights, values, scales);
    add(weights);
    at_ += std::ssize(weights);
}

void Fp8Rounding::read_base(std::span<const float> weights) {
    b_.resize(weights.size());
    base_->read(at_, at_ + std::ssize(weights), b_.data());
    written_b_ = b_;
    if (same_blocks_) return;
    other_values_.resize(weights.size());
    other_scales_.resize(static_cast<size_t>(fp8_blocks(columns_)));
    fp8_scales(b_, columns_, format_, other_scales_.data());
    encode_fp8(b_, columns_, other_scales_.data(), other_values_.data());
    decode_fp8({kQuantizeBlock, columns_, other_scales_}, 0, other_values_.data(), written_b_);
}

void Fp8Rounding::try_base_scales(std::span<const float> weights, uint8_t* values, float* scales) {
    const int64_t elements = std::ssize(weights), across = fp8_blocks(columns_);
    const int64_t row = (at_ - offset_) / columns_ / kQuantizeBlock;  // of blocks
    const std::span<const float> base_scales = base_->scale_values().subspan(
        static_cast<size_t>(row * across), static_cast<size_t>(across));
    other_values_.resize(weights.size());
    other_rounded_.resize(weights.size());
    encode_fp8(weights, columns_, base_scales.data(), other_values_.data());
    decode_fp8({kQuantizeBlock, columns_, base_scales}, 0, other_values_.data(), other_rounded_);
    for (int64_t block = 0; block < across; ++block) {
        const int64_t begin = block * kQuantizeBlock;
        const int64_t width = std::min(kQuantizeBlock, columns_ - begin);
        double own = 0, base = 0;
        bool same = true;
        for (int64_t first = begin; first < elements; first += columns_) {
            for (auto i = static_cast<size_t>(first), end = i + static_cast<size_t>(width); i < end;
                 ++i) {
                const double a = rounded_[i] - weights[i], b = other_rounded_[i] - weights[i];
                own += a * a;
                base += b * b;
                same &= weights[i] == b_[i];
            }
        }
        if (own < base) continue;
        sums_->kept_blocks += same ? 1 : 0;
        scales[block] = base_scales[static_cast<size_t>(block)];
        for (int64_t first = begin; first < elements; first += columns_) {
            std::copy_n(&other_values_[static_cast<size_t>(first)], width, values + first);
            std::copy_n(&other_rounded_[static_cast<size_t>(first)], width,
                        &rounded_[static_cast<size_t>(first)]);
        }
    }
}

void Fp8Rounding::add(std::span<const float> weights) {
    for (size_t i = 0; i < weights.size(); ++i) {
        const double w = weights[i], r = rounded_[i];
        sums_->weight += w * w;
        sums_->error += (r - w) * (r - w);
        if (!base_) continue;
        const double change = w - b_[i];
        sums_->change += change * change;
        sums_->kept += (r - written_b_[i]) * change;
    }
}

std::optional<double> Fp8Rounding::share() const {
    double change = 0, kept = 0;
    for (const auto& [name, sums] : groups_) {
        change += sums.change;
        kept += sums.kept;
    }
    return change > 0 ? std::optional(kept / change) : std::nullopt;
}

std::vector<std::string> Fp8Rounding::report() const {
    std::vector<std::string> lines;
    Sums all;
    const auto say = [&](const std::string& name, const Sums& sums) {
        std::string line = fmt::format("{:<22} rounding moves it by {:.2g} of its norm", name,
                                       std::sqrt(sums.error / sums.weight));
        if (file_ && sums.change == 0)
            line += "; nothing of it was trained";
        else if (file_)
            line +=
                fmt::format(", training by {:.2g}; {:.1f} % of the change is kept",
                            std::sqrt(sums.change / sums.weight), 100 * sums.kept / sums.change);
        if (file_)
            line +=
                fmt::format("; {} of {} blocks are as they were", sums.kept_blocks, sums.blocks);
        lines.push_back(std::move(line));
    };
    for (const auto& [name, sums] : groups_) {
        say(name, sums);
        all.change += sums.change;
        all.kept += sums.kept;
        all.weight += sums.weight;
        all.error += sums.error;
        all.blocks += sums.blocks;
        all.kept_blocks += sums.kept_blocks;
    }
    say("all in FP8", all);
    if (!file_)
        lines.push_back(
            "note: --like DIR, the directory that the model came from, tells how much "
            "of the training is kept, and keeps the bytes of what was not trained");
    return lines;
}

}  // namespace fucina
