// What NCCL and CUDA say through their return codes, as Error.
#pragma once
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string>

namespace fucina {

// "rank 2: ncclAllReduce: remote process exited or there was a network error; Call to recv failed":
// the last part is what the library said last, in one line. comm: null before there is one.
std::string nccl_text(int rank, const char* call, ncclResult_t status, ncclComm_t comm);

// Throws Error(internal) with the call's name and CUDA's text unless status is cudaSuccess.
void check_cuda(int rank, const char* call, cudaError_t status);

}  // namespace fucina
