// Asynchronous copies between global and shared memory: 16 bytes by a thread (cp.async), a run of
// bytes, or a box of a tensor (TMA). PTX ISA 9.7.9.25, "Data Movement: Asynchronous copy".
#pragma once
#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/tensor_map.h"

namespace fucina::cuda {

// This thread's 16 bytes, both sides aligned to 16; zeros where `inside` is false, and then nothing
// is read. Others may read them after this thread's async_copy_wait and a barrier.
__device__ __forceinline__ void async_copy_16(void* shared, const void* global, bool inside = true,
                                              Site site = Site::here()) {
    FUCINA_PTX(simt::async_copy_16(shared, global, inside, site),
               "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(inside ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void async_copy_commit() {
    FUCINA_PTX(simt::async_copy_commit(), "cp.async.commit_group;" ::: "memory");
}
// Until all but this thread's kPending newest groups are there.
template <int kPending>
__device__ __forceinline__ void async_copy_wait() {
    FUCINA_PTX(simt::async_copy_wait(kPending), "cp.async.wait_group %0;" ::"n"(kPending)
               : "memory");
}

// A multiple of 16 bytes, both sides aligned to 16; they count on the mbarrier as they land.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, uint32_t bytes,
                                          Mbarrier* barrier, Site site = Site::here()) {
    FUCINA_PTX(simt::bulk_load(shared, global, bytes, barrier, site),
               "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
// Belongs to this thread's next bulk_commit, as tensor_store does.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, uint32_t bytes,
                                           Site site = Site::here()) {
    FUCINA_PTX(simt::bulk_store(global, shared, bytes, site),
               "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_commit() {
    FUCINA_PTX(simt::bulk_commit(), "cp.async.bulk.commit_group;" ::: "memory");
}
// Until all but this thread's kPending newest groups have read shared memory, which may then be
// written again (and must be before the block ends).
template <int kPending>
__device__ __forceinline__ void bulk_wait_read() {
    FUCINA_PTX(simt::bulk_wait(kPending, false), "cp.async.bulk.wait_group.read %0;" ::"n"(kPending)
               : "memory");
}
// Until they have written global memory too.
template <int kPending>
__device__ __forceinline__ void bulk_wait() {
    FUCINA_PTX(simt::bulk_wait(kPending, true), "cp.async.bulk.wait_group %0;" ::"n"(kPending)
               : "memory");
}

// The box whose first element is at (x, y): x counts along a row. Shared memory is aligned to 128
// bytes. Elements outside the tensor are zeros, and count on the mbarrier like the others.
__device__ __forceinline__ void tensor_load(void* shared, const TensorMap& map, int x, int y,
                                            Mbarrier* barrier, Site site = Site::here()) {
    FUCINA_PTX(simt::tensor_load(shared, map, x, y, barrier, site),
               "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
               "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier))
               : "memory");
}
// Elements outside the tensor are not written.
__device__ __forceinline__ void tensor_store(const TensorMap& map, int x, int y, const void* shared,
                                             Site site = Site::here()) {
    FUCINA_PTX(
        simt::tensor_store(map, x, y, shared, site),
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
        "r"(x), "r"(y), "r"(shared_address(shared))
        : "memory");
}

}  // namespace fucina::cuda
