// The library's half of cublaslt.h. Empty under the SIMT model (see cublaslt_library.h).
#include "kernels/cuda/cublaslt_library.h"

#if !defined(FUCINA_SIMT)

#include <cuda_runtime_api.h>

namespace fucina::cuda {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;  // what cuBLAS itself takes on Hopper

void check(cublasStatus_t status, const char* what) {
    if (status != CUBLAS_STATUS_SUCCESS)
        fail(ExitCode::internal, "cuBLASLt: ", what, ": ", cublasLtGetStatusName(status), ", ",
             cublasLtGetStatusString(status));
}

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        fail(ExitCode::internal, "cuBLASLt: ", what, ": ", cudaGetErrorName(status), ", ",
             cudaGetErrorString(status));
}

class Layout {
  public:
    // A row-major matrix is a column-major one with rows and columns exchanged.
    explicit Layout(const Tensor& matrix) {
        const cudaDataType_t type = matrix.dtype() == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
        check(cublasLtMatrixLayoutInit(&storage_, type, static_cast<uint64_t>(matrix.row_size()),
                                       static_cast<uint64_t>(matrix.rows()), matrix.row_stride()),
              "matrix layout");
    }
    cublasLtMatrixLayout_t get() { return &storage_; }

  private:
    cublasLtMatrixLayoutOpaque_t storage_;
};

// y = alpha · wᵀ x + beta · y in the library's terms: its A is w, transposed, its B is x.
struct Problem {
    explicit Problem(const LinearTn& io) : w(io.w), x(io.x), y(io.y) {
        check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
        const cublasOperation_t transpose = CUBLAS_OP_T;
        check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                             sizeof(transpose)),
              "operation");
    }
    Layout w, x, y;
    cublasLtMatmulDescOpaque_t operation;
};

cublasLtMatmulAlgo_t choose(cublasLtHandle_t handle, Problem& problem) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check(cublasLtMatmulPreferenceInit(&preference), "preference");
    const size_t bytes = kWorkspaceBytes;
    check(cublasLtMatmulPreferenceSetAttribute(
              &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)),
          "preference");
    // Parts of a split sum are added in fp32, never in the output's type.
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    check(cublasLtMatmulPreferenceSetAttribute(&preference,
                                               CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                               &reductions, sizeof(reductions)),
          "preference");
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle, &problem.operation, problem.w.get(),
                                         problem.x.get(), problem.y.get(), problem.y.get(),
                                         &preference, 1, &result, &found),
          "choice of an algorithm");
    if (found == 0) fail(ExitCode::internal, "cuBLASLt has no algorithm for this product");
    return result.algo;
}

}  // namespace

CublasLt::Library::Library() {
    check(cublasLtCreate(&handle_), "start");
    check(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of 32 MiB");
}

CublasLt::Library::~Library() {
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
}

void CublasLt::Library::linear(const LinearTn& io, Stream stream) {
    Problem problem(io);
    const Key key{
        io.x.rows(),       io.w.rows(),       io.x.row_size(),           io.x.row_stride(),
        io.w.row_stride(), io.y.row_stride(), io.y.dtype() == DType::f32};
    auto known = algorithms_.find(key);
    if (known == algorithms_.end())
        known = algorithms_.emplace(key, choose(handle_, problem)).first;
    const float alpha = 1.0f, beta = io.accumulate ? 1.0f : 0.0f;
    check(
        cublasLtMatmul(handle_, &problem.operation, &alpha, io.w.raw(), problem.w.get(), io.x.raw(),
                       problem.x.get(), &beta, io.y.raw(), problem.y.get(), io.y.raw(),
                       problem.y.get(), &known->second, workspace_, kWorkspaceBytes, stream),
        "product");
}

}  // namespace fucina::cuda

#endif
