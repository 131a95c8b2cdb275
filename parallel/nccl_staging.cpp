#include "parallel/nccl_staging.h"

#include <algorithm>
#include <bit>

#include "parallel/nccl_check.h"

namespace fucina {
namespace {

constexpr size_t kLeastBlock = 64 << 10;

}  // namespace

NcclStaging::NcclStaging(int rank) : rank_(rank) {
    check_cuda(rank_, "cudaStreamCreateWithFlags",
               cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
}

NcclStaging::~NcclStaging() {
    cudaStreamDestroy(copies_);
    for (void* block : blocks_) cudaFree(block);
}

bool NcclStaging::on_device(const void* data) const {
    cudaPointerAttributes attributes;
    check_cuda(rank_, "cudaPointerGetAttributes", cudaPointerGetAttributes(&attributes, data));
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

// Blocks are kept: to allocate may wait for what runs on the device, and that for other ranks. They
// come from cudaMalloc, as NCCL lets ranks of one process read each other's buffers, and CUDA's
// memory pools are not open to other devices.
void* NcclStaging::borrow(Loan& loan, size_t bytes) {
    Loan::Block block{nullptr, std::bit_ceil(std::max(bytes, kLeastBlock))};
    if (const auto spare = spare_.find(block.bytes); spare != spare_.end()) {
        block.at = spare->second;
        spare_.erase(spare);
    } else {
        check_cuda(rank_, "cudaMalloc", cudaMalloc(&block.at, block.bytes));
        blocks_.push_back(block.at);
    }
    loan.blocks.push_back(block);
    return block.at;
}

// On a stream of its own, so that a copy waits for no call. The host waits for it.
void NcclStaging::copy(void* to, const void* from, size_t bytes) const {
    check_cuda(rank_, "cudaMemcpyAsync",
               cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, copies_));
    check_cuda(rank_, "cudaStreamSynchronize", cudaStreamSynchronize(copies_));
}

const void* NcclStaging::input(Loan& loan, std::span<const std::byte> data) {
    if (data.empty() || on_device(data.data())) return data.data();
    void* const at = borrow(loan, data.size());
    copy(at, data.data(), data.size());
    return at;
}

void* NcclStaging::output(Loan& loan, std::span<std::byte> data) {
    if (data.empty() || on_device(data.data())) return data.data();
    void* const at = borrow(loan, data.size());
    loan.back.push_back({data.data(), at, data.size()});
    return at;
}

void* NcclStaging::in_and_out(Loan& loan, std::span<std::byte> data) {
    const void* const at = input(loan, data);
    if (at != data.data()) loan.back.push_back({data.data(), at, data.size()});
    return const_cast<void*>(at);
}

void NcclStaging::give_back(Loan& loan) {
    for (const Loan::Back& back : loan.back) copy(back.host, back.device, back.bytes);
    for (const Loan::Block& block : loan.blocks) spare_.emplace(block.bytes, block.at);
    loan = {};
}

}  // namespace fucina
