#include "parallel/nccl_check.h"

#include "kernels/error.h"

namespace fucina {
namespace {

// NCCL's texts may have several lines.
std::string one_line(const char* text) {
    std::string line;
    for (const char* c = text; *c != 0; ++c) {
        const bool space = *c == '\n' || *c == '\r' || *c == ' ';
        if (!space)
            line += *c;
        else if (!line.empty() && line.back() != ' ')
            line += ' ';
    }
    while (line.ends_with(' ')) line.pop_back();
    return line;
}

}  // namespace

std::string nccl_text(int rank, const char* call, ncclResult_t status, ncclComm_t comm) {
    std::string text =
        concat("rank ", rank, ": ", call, ": ", one_line(ncclGetErrorString(status)));
    const char* const last = ncclGetLastError(comm);
    if (last != nullptr && *last != 0) text += "; " + one_line(last);
    return text;
}

void check_cuda(int rank, const char* call, cudaError_t status) {
    if (status != cudaSuccess)
        fail(ExitCode::internal, "rank ", rank, ": ", call, ": ", cudaGetErrorName(status), ", ",
             one_line(cudaGetErrorString(status)));
}

}  // namespace fucina
