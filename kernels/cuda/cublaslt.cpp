// See cublaslt.h: the rules; the library's half is cublaslt_library.cpp, the SIMT model's the
// reference.
#include "kernels/cuda/cublaslt.h"

#include "kernels/cuda/cublaslt_library.h"

namespace fucina::cuda {
namespace {

void check_operand(const char* name, const Tensor& tensor) {
    constexpr uintptr_t kAlignment = 16;
    FUCINA_CHECK(tensor.rank() == 2, name, " is ", tensor.describe(), ", no matrix");
    FUCINA_CHECK(tensor.row_size() > 0, name, " ", tensor.describe(), " has empty rows");
    const auto address = reinterpret_cast<uintptr_t>(tensor.raw());
    FUCINA_CHECK(address % kAlignment == 0, name, " ", tensor.describe(), " begins ",
                 address % kAlignment, " bytes past a multiple of ", kAlignment);
    const int64_t stride = tensor.row_stride() * size_of(tensor.dtype());
    FUCINA_CHECK(stride % int64_t{kAlignment} == 0, name, " ", tensor.describe(), " has rows of ",
                 stride, " bytes, no multiple of ", kAlignment);
}

void check(const LinearTn& io) {
    check_operand("x", io.x);
    check_operand("w", io.w);
    check_operand("y", io.y);
    FUCINA_CHECK(io.x.dtype() == DType::bf16 && io.w.dtype() == DType::bf16, "x ", io.x.describe(),
                 " and w ", io.w.describe(), " must be BF16");
    FUCINA_CHECK(io.y.dtype() == DType::bf16 || io.y.dtype() == DType::f32, "y ", io.y.describe(),
                 " must be BF16 or F32");
    FUCINA_CHECK(!io.accumulate || io.y.dtype() == DType::f32, "adding to y ", io.y.describe(),
                 " needs F32");
    FUCINA_CHECK(io.w.rows() > 0, "w ", io.w.describe(), " has no rows");
    FUCINA_CHECK(io.x.row_size() == io.w.row_size() && io.y.rows() == io.x.rows() &&
                     io.y.row_size() == io.w.rows(),
                 "y ", io.y.describe(), " = x ", io.x.describe(), " times the transpose of w ",
                 io.w.describe());
}

}  // namespace

CublasLt::CublasLt() : library_(std::make_unique<Library>()) {}
CublasLt::~CublasLt() = default;

void CublasLt::linear(const LinearTn& io, Stream stream) {
    check(io);
    if (io.x.rows() > 0) library_->linear(io, stream);
}

}  // namespace fucina::cuda
