#include "trainer/fp8_rounding.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/json.h"
#include "data/run_on_threads.h"
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

Fp8Rounding::Fp8Rounding(const std::filesystem::path& like, int64_t threads)
    : threads_(threads), quantization_(released()) {
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
    if (base_) base_scales_ = base_->scale_values();  // so that threads only read
    std::vector<Band> bands;
    for (int64_t first = 0; first < std::ssize(weights); first += kQuantizeBlock * columns_) {
        const auto begin = static_cast<size_t>(first);
        const size_t count =
            std::min(weights.size() - begin, static_cast<size_t>(kQuantizeBlock * columns_));
        bands.push_back({weights.subspan(begin, count),
                         at_ + first,
                         values + first,
                         {scales + bands.size() * across, across}});
    }
    run_on_threads(std::ssize(bands), threads_,
                   [&](int64_t i) { round(bands[static_cast<size_t>(i)]); });
    for (const Band& band : bands) sums_->add(band.sums);
    at_ += std::ssize(weights);
}

void Fp8Rounding::round(Band& band) const {
    band.sums.blocks = std::ssize(band.scales);
    if (base_) read_base(band);
    if (same_blocks_ && take_base(band)) return;
    fp8_scales(band.weights, columns_, format_, band.scales.data());
    encode_fp8(band.weights, columns_, band.scales.data(), band.values);
    band.rounded.resize(band.weights.size());
    decode(band.scales, band.values, band.rounded);
    if (same_blocks_) try_base_scales(band);
    add_up(band, base_.has_value());
}

void Fp8Rounding::decode(std::span<const float> scales, const uint8_t* values,
                         std::vector<float>& out) const {
    decode_fp8({kQuantizeBlock, columns_, scales}, 0, values, out);
}

void Fp8Rounding::read_base(Band& band) const {
    const size_t count = band.weights.size();
    band.base.resize(count);
    band.other_rounded.resize(count);
    band.other_values.resize(count);
    base_->read(band.at, band.at + std::ssize(band.weights), band.base.data());
    band.written_base = band.base;
    if (same_blocks_) return;
    band.other_scales.resize(band.scales.size());
    fp8_scales(band.base, columns_, format_, band.other_scales.data());
    encode_fp8(band.base, columns_, band.other_scales.data(), band.other_values.data());
    decode(band.other_scales, band.other_values.data(), band.written_base);
}

// Rows that are as they were, as most are that were not trained, need no arithmetic.
bool Fp8Rounding::take_base(Band& band) const {
    if (std::memcmp(band.weights.data(), band.base.data(), band.weights.size_bytes()) != 0)
        return false;
    base_->read_stored(band.at - offset_,
                       {reinterpret_cast<std::byte*>(band.values), band.weights.size()});
    std::ranges::copy(base_scales(band), band.scales.begin());
    band.sums.kept_blocks = std::ssize(band.scales);
    for (const float weight : band.weights) band.sums.weight += double{weight} * weight;
    return true;
}

std::span<const float> Fp8Rounding::base_scales(const Band& band) const {
    const int64_t row = (band.at - offset_) / columns_ / kQuantizeBlock;  // of blocks
    return base_scales_.subspan(static_cast<size_t>(row) * band.scales.size(), band.scales.size());
}

void Fp8Rounding::try_base_scales(Band& band) const {
    const std::span<const float> scales = base_scales(band);
    encode_fp8(band.weights, columns_, scales.data(), band.other_values.data());
    decode(scales, band.other_values.data(), band.other_rounded);
    const auto columns = static_cast<size_t>(columns_), all = band.weights.size();
    for (size_t block = 0; block < scales.size(); ++block) {
        const size_t begin = block * kQuantizeBlock;
        const size_t width = std::min<size_t>(kQuantizeBlock, columns - begin);
        double own = 0, base = 0;
        bool same = true;
        for (size_t row = begin; row < all; row += columns) {
            for (size_t i = row; i < row + width; ++i) {
                const float w = band.weights[i];
                const double a = band.rounded[i] - w, b = band.other_rounded[i] - w;
                own += a * a;
                base += b * b;
                same &= w == band.base[i];
            }
        }
        if (own < base) continue;
        band.sums.kept_blocks += same ? 1 : 0;
        band.scales[block] = scales[block];
        for (size_t row = begin; row < all; row += columns) {
            std::copy_n(&band.other_values[row], width, band.values + row);
            std::copy_n(&band.other_rounded[row], width, &band.rounded[row]);
        }
    }
}

void Fp8Rounding::add_up(Band& band, bool with_base) {
    Sums& sums = band.sums;
    for (size_t i = 0; i < band.weights.size(); ++i) {
        const double w = band.weights[i], r = band.rounded[i];
        sums.weight += w * w;
        sums.error += (r - w) * (r - w);
        if (!with_base) continue;
        const double change = w - band.base[i];
        sums.change += change * change;
        sums.kept += (r - band.written_base[i]) * change;
    }
}

void Fp8Rounding::Sums::add(const Sums& other) {
    change += other.change;
    kept += other.kept;
    weight += other.weight;
    error += other.error;
    blocks += other.blocks;
    kept_blocks += other.kept_blocks;
}

std::optional<double> Fp8Rounding::share() const {
    Sums all;
    for (const auto& [name, sums] : groups_) all.add(sums);
    return all.change > 0 ? std::optional(all.kept / all.change) : std::nullopt;
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
        all.add(sums);
    }
    say("all in FP8", all);
    if (!file_)
        lines.push_back(
            "note: --like DIR, the directory that the model came from, tells how much "
            "of the training is kept, and keeps the bytes of what was not trained");
    return lines;
}

}  // namespace fucina
