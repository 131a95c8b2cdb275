#include "trainer/stored_weight.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/block_fp8.h"
#include "kernels/error.h"
#include "kernels/tensor.h"
#include "model/config_reader.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

constexpr int64_t kStagingBytes = 1 << 20;  // of a tensor in the file's dtype at a time

void to_fp32(DType type, const std::byte* from, std::span<float> to) {
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
    if (type == DType::f32)
        std::memcpy(to.data(), from, to.size_bytes());
    else if (type == DType::bf16)
        for (size_t i = 0; i < to.size(); ++i) to[i] = to_float(bfloat16{halves[i]});
    else
        for (size_t i = 0; i < to.size(); ++i)
            to[i] = static_cast<float>(std::bit_cast<_Float16>(halves[i]));
}

std::string place_of(const TensorFile& file, const TensorInfo& tensor) {
    return concat(file.file_of(tensor).string(), ": tensor ", tensor.name);
}

std::string_view dtype_of_tensor(const TensorInfo& tensor) {
    return tensor.foreign.empty() ? name_of(tensor.dtype) : std::string_view(tensor.foreign);
}

const TensorInfo* find_scales(const TensorFile& file, const TensorInfo& tensor) {
    std::vector<int64_t> shape = tensor.shape;
    for (size_t d = shape.size() - 2; d < shape.size(); ++d) shape[d] = fp8_blocks(shape[d]);
    const std::string name = tensor.name + kScaleSuffix;
    const TensorInfo* scales = file.find(name);
    if (!scales)
        fail(ExitCode::data, file.why_missing(name), "; ", tensor.name, " is F8_E4M3 ",
             shape_text(tensor.shape), " and needs it, as F32 ", shape_text(shape));
    if (scales->shape != shape || dtype_of_tensor(*scales) != "F32")
        fail(ExitCode::data, place_of(file, *scales), " is ", dtype_of_tensor(*scales), " ",
             shape_text(scales->shape), ", expected F32 ", shape_text(shape),
             ", a scale for each block of 128 x 128 of ", tensor.name, " ",
             shape_text(tensor.shape));
    return scales;
}

}  // namespace

void check_quantization(const nlohmann::json& config, const std::string& source) {
    const ConfigReader top(config, source);
    const std::optional<ConfigReader> quantization = top.object("quantization_config");
    if (!quantization) return;
    const auto require = [&](const char* key, const std::string& only) {
        const std::string value = quantization->text(key, only);
        if (value != only)
            fail(ExitCode::usage, quantization->where(key), " is \"", value, "\"; only \"", only,
                 "\", in blocks of 128 x 128, is supported");
    };
    require("quant_method", "fp8");
    require("fmt", "e4m3");
    const nlohmann::json size = config["quantization_config"].value(
        "weight_block_size", nlohmann::json{kQuantizeBlock, kQuantizeBlock});
    if (size != nlohmann::json{kQuantizeBlock, kQuantizeBlock})
        fail(ExitCode::usage, quantization->where("weight_block_size"), " is ",
             printable(size.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)),
             "; only [128,128] is supported");
}

std::vector<WeightPiece> spelling_of(const WeightEntry& entry, const TensorFile& file) {
    for (const std::vector<WeightPiece>& spelling : entry.spellings)
        if (file.find(spelling.front().tensor)) return spelling;
    if (file.find(entry.stand_in)) return {{entry.stand_in, entry.shape, 0}};
    return entry.spellings.front();
}

StoredWeight::StoredWeight(const TensorFile& file, const WeightPiece& piece)
    : file_(&file), tensor_(file.find(piece.tensor)), offset_(piece.offset) {
    if (!tensor_)
        fail(ExitCode::data, file.why_missing(piece.tensor), "; expected shape ",
             shape_text(piece.shape));
    if (tensor_->shape != piece.shape)
        fail(ExitCode::data, where(), " has shape ", shape_text(tensor_->shape), ", expected ",
             shape_text(piece.shape));
    const DType type = tensor_->dtype;
    const bool plain = type == DType::f32 || type == DType::bf16 || type == DType::f16;
    const bool blocks = type == DType::f8_e4m3 && piece.shape.size() >= 2;
    if (!tensor_->foreign.empty() || (!plain && !blocks))
        fail(ExitCode::data, where(), " is ", dtype_of_tensor(*tensor_),
             ", expected F32, BF16, F16", piece.shape.size() < 2 ? "" : " or F8_E4M3");
    if (blocks) scales_ = find_scales(file, *tensor_);
}

std::string StoredWeight::where() const {
    return place_of(*file_, *tensor_);
}

std::span<const float> StoredWeight::scale_values() const {
    if (scales_ == nullptr || !scale_values_.empty()) return scale_values_;
    scale_values_.resize(static_cast<size_t>(element_count(scales_->shape)));
    file_->read(*scales_, std::as_writable_bytes(std::span(scale_values_)));
    const auto bad = std::ranges::find_if(
        scale_values_, [](float scale) { return !(scale > 0) || !std::isfinite(scale); });
    if (bad != scale_values_.end())
        fail(ExitCode::data, place_of(*file_, *scales_), " is ", *bad, " at element ",
             bad - scale_values_.begin(), " of ", shape_text(scales_->shape),
             "; a scale is positive and finite");
    return scale_values_;
}

void StoredWeight::read_stored(int64_t first, std::span<std::byte> into) const {
    file_->read_elements(*tensor_, first, into);
}

void StoredWeight::read(int64_t begin, int64_t end, float* to) const {
    const int64_t count = element_count(tensor_->shape);
    int64_t first = std::clamp<int64_t>(begin - offset_, 0, count);
    const int64_t stop = std::clamp<int64_t>(end - offset_, 0, count);
    if (first >= stop) return;
    const int64_t element = size_of(tensor_->dtype);
    const std::span<const float> scales = scale_values();
    std::vector<std::byte> staging(
        static_cast<size_t>(std::min(kStagingBytes, (stop - first) * element)));
    for (int64_t taken = 0; first < stop; first += taken) {
        taken = std::min(std::ssize(staging) / element, stop - first);
        const std::span out(to + offset_ + first - begin, static_cast<size_t>(taken));
        file_->read_elements(*tensor_, first,
                             {staging.data(), static_cast<size_t>(taken * element)});
        if (scales_ == nullptr) {
            to_fp32(tensor_->dtype, staging.data(), out);
        } else {
            const size_t rank = tensor_->shape.size();
            decode_fp8({tensor_->shape[rank - 2], tensor_->shape[rank - 1], scales}, first,
                       reinterpret_cast<const uint8_t*>(staging.data()), out);
        }
        check_finite(where(), tensor_->shape, first, out);
    }
}

std::string left_aside(const TensorFile& file, const WeightMap& map,
                       const std::set<std::string_view>& used) {
    constexpr int64_t kNamed = 3;
    int64_t count = 0;
    std::string names;
    for (const TensorInfo& tensor : file.tensors()) {
        if (used.contains(tensor.name)) continue;
        if (element_count(tensor.shape) > 0 && !map.ignorable(tensor.name))
            fail(ExitCode::data, file.file_of(tensor).string(), ": tensor ", tensor.name, " ",
                 shape_text(tensor.shape),
                 " is unexpected: no parameter is made of it, yet it lies inside what runs");
        if (++count <= kNamed) names += concat(count == 1 ? "" : ", ", tensor.name);
    }
    if (count == 0) return "";
    return concat(file.path().string(), ": ", count,
                  " tensors are left aside, no parameter is made of them: ", names,
                  count > kNamed ? ", ..." : "");
}

}  // namespace fucina
