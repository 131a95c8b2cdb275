// Synchronisation of Hopper kernels: named barriers, mbarriers in shared memory, proxy fences,
// register budgets. One function an instruction (PTX ISA 9.7.13, "Parallel Synchronization").
#pragma once
#include "kernels/cuda/device/platform.h"

namespace fucina::cuda {

// 128 neighbouring threads, the first a multiple of 128.
constexpr int kWarpgroupSize = 128;

// Waits for kThreads threads of the block, this one counted. Ids are 1 to 15; 0 is __syncthreads.
// An id that is no constant makes ptxas reserve all 16.
template <int kThreads>
__device__ __forceinline__ void named_barrier_sync(int id, Site site = Site::here()) {
    static_assert(kThreads % 32 == 0);
    FUCINA_PTX(simt::named_barrier(id, kThreads, true, site), "bar.sync %0, %1;" ::"r"(id),
               "n"(kThreads)
               : "memory");
}
// Counts this thread as come, without waiting.
template <int kThreads>
__device__ __forceinline__ void named_barrier_arrive(int id, Site site = Site::here()) {
    static_assert(kThreads % 32 == 0);
    FUCINA_PTX(simt::named_barrier(id, kThreads, false, site), "bar.arrive %0, %1;" ::"r"(id),
               "n"(kThreads)
               : "memory");
}

// A phase of an mbarrier ends when `count` arrivals and all bytes that were expected have come; the
// next one begins at once. Phases alternate in parity, the first is 0.
using Mbarrier = uint64_t;

// One thread, once; then fence_mbarrier_init and a barrier before anyone uses it.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, uint32_t count,
                                              Site site = Site::here()) {
    FUCINA_PTX(simt::mbarrier_init(barrier, count, site),
               "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}
// Makes this thread's mbarrier_init known to asynchronous copies.
__device__ __forceinline__ void fence_mbarrier_init() {
    FUCINA_PTX(simt::fence_mbarrier_init(), "fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Before its memory serves anything else.
__device__ __forceinline__ void mbarrier_inval(Mbarrier* barrier, Site site = Site::here()) {
    FUCINA_PTX(simt::mbarrier_inval(barrier, site),
               "mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier, Site site = Site::here()) {
    FUCINA_PTX(simt::mbarrier_arrive(barrier, 0, site),
               "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// Arrives, and makes the phase wait for this many bytes of copies too.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* barrier, uint32_t bytes,
                                                          Site site = Site::here()) {
    FUCINA_PTX(
        simt::mbarrier_arrive(barrier, bytes, site),
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}
// Waits until the phase of this parity has ended: on a fresh mbarrier parity 1 passes at once.
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, uint32_t parity,
                                              Site site = Site::here()) {
    FUCINA_PTX(simt::mbarrier_wait(barrier, parity, site),
               "{\n"
               ".reg .pred done;\n"
               "AGAIN:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@!done bra AGAIN;\n"
               "}\n" ::"r"(shared_address(barrier)),
               "r"(parity)
               : "memory");
}

// Shared memory that threads have written becomes visible to asynchronous copies and wgmma: by the
// writer before the barrier after which they are issued.
__device__ __forceinline__ void fence_proxy_async() {
    FUCINA_PTX(simt::fence_proxy_async(), "fence.proxy.async.shared::cta;" ::: "memory");
}

// The registers of each thread of a warpgroup, whose four warps all say so: consumers take what
// producers gave up.
template <int kRegisters>
__device__ __forceinline__ void registers_increase(Site site = Site::here()) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
    FUCINA_PTX_90A(simt::set_registers(kRegisters, site),
                   "setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_decrease(Site site = Site::here()) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
    FUCINA_PTX_90A(simt::set_registers(kRegisters, site),
                   "setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace fucina::cuda
