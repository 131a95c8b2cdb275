#include "parallel/nccl_check.h"

#include "kernels/error.h"

namespace fucina {

std::string nccl_text(int rank, const char* call, ncclResult_t status, ncclComm_t comm) {
    const std::string text = concat("rank ", rank, ": ", call, ": ", ncclGetErrorString(status));
    const char* const last = ncclGetLastError(comm);
    return one_line(last != nullptr && *last != 0 ? concat(text, "; ", last) : text);
}

void check_cuda(int rank, const char* call, cudaError_t status) {
    if (status != cudaSuccess)
        fail(ExitCode::internal, "rank ", rank, ": ", call, ": ", cudaGetErrorName(status), ", ",
             cudaGetErrorString(status));
}

}  // namespace fucina
