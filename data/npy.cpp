#include "data/npy.h"

#include <string>

#include "kernels/error.h"

namespace fucina {

NpyWriter::NpyWriter(const std::filesystem::path& path, std::span<const int64_t> shape)
    : file_(path) {
    std::string dims;
    int64_t count = 1;
    for (const int64_t dim : shape) {
        dims += std::to_string(dim) + ",";
        count *= dim;
    }
    std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + dims + "), }";
    constexpr size_t kPrefix =
        10;  // magic, version, length; the format aligns the data to 64 bytes
    text.resize((kPrefix + text.size() + 1 + 63) / 64 * 64 - kPrefix - 1, ' ');
    text += '\n';
    std::string head("\x93NUMPY\x01\x00", 8);
    head += static_cast<char>(text.size() & 0xff);
    head += static_cast<char>(text.size() >> 8);
    head += text;
    file_.append(std::as_bytes(std::span(head)));
    end_ = file_.size() + count * 4;
}

void NpyWriter::append(std::span<const float> values) {
    file_.append(std::as_bytes(values));
}

void NpyWriter::commit() {
    FUCINA_CHECK(file_.size() == end_, file_.path().string(), ": ", file_.size(),
                 " bytes written, the shape needs ", end_);
    file_.commit();
}

void write_npy(const std::filesystem::path& path, std::span<const int64_t> shape,
               std::span<const float> values) {
    NpyWriter writer(path, shape);
    writer.append(values);
    writer.commit();
}

}  // namespace fucina
