// The writing half of data/tensor_file.h.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tensor_file.h"
#include "kernels/error.h"

namespace fucina {

TensorFileWriter::TensorFileWriter(const std::filesystem::path& path,
                                   std::vector<TensorSpec> tensors,
                                   const std::map<std::string, std::string>& metadata)
    : file_(path), tensors_(std::move(tensors)) {
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    int64_t end = 0;
    for (const TensorSpec& tensor : tensors_) {
        const int64_t begin = end;
        end += element_count(tensor.shape) * size_of(tensor.dtype);
        FUCINA_CHECK(!header.contains(tensor.name), "two tensors named ", tensor.name);
        header[tensor.name] = {{"dtype", std::string(name_of(tensor.dtype))},
                               {"shape", tensor.shape},
                               {"data_offsets", {begin, end}}};
        ends_.push_back(end);
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8,
                ' ');  // data begin at a multiple of 8, as the library writes them
    const uint64_t size = text.size();
    file_.append(std::as_bytes(std::span(&size, 1)));
    file_.append(std::as_bytes(std::span(text)));
    for (int64_t& tensor_end : ends_) tensor_end += file_.size();
}

void TensorFileWriter::append(std::span<const std::byte> bytes) {
    const int64_t left = (ends_.empty() ? file_.size() : ends_.back()) - file_.size();
    FUCINA_CHECK(static_cast<int64_t>(bytes.size()) <= left, bytes.size(), " bytes appended, ",
                 left, " left");
    file_.append(bytes);
}

void TensorFileWriter::append(std::span<const float> values) {
    const auto at = std::upper_bound(ends_.begin(), ends_.end(), file_.size());
    if (values.empty()) return;
    FUCINA_CHECK(at != ends_.end(), "every tensor of ", file_.path().string(),
                 " is written already");
    const TensorSpec& tensor = tensors_[static_cast<size_t>(at - ends_.begin())];
    FUCINA_CHECK(file_.size() + static_cast<int64_t>(values.size()) * size_of(tensor.dtype) <= *at,
                 values.size(), " values cross the end of tensor ", tensor.name);
    if (tensor.dtype == DType::f32) return append(std::as_bytes(values));
    FUCINA_CHECK(tensor.dtype == DType::bf16, "tensor ", tensor.name, " is ", name_of(tensor.dtype),
                 ", floats are stored as F32 or BF16");
    std::vector<bfloat16> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), to_bfloat16);
    append(std::as_bytes(std::span(rounded)));
}

void TensorFileWriter::commit() {
    FUCINA_CHECK(ends_.empty() || file_.size() == ends_.back(), file_.path().string(), ": ",
                 file_.size(), " bytes written, ", ends_.empty() ? 0 : ends_.back(),
                 " promised by the header");
    file_.commit();
}

}  // namespace fucina
