// Clusters: up to 8 blocks that run together (LaunchConfig::cluster), whose shared memory has one
// layout. A block that others still write to or arrive at must not end: cluster_sync before.
#pragma once
#include "kernels/cuda/device/async_copy.h"

namespace fucina::cuda {

// This block's number in its cluster.
__device__ __forceinline__ int cluster_rank() {
#if defined(__CUDACC__)
    int rank = 0;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return simt::cluster_rank();
#endif
}

// Waits for all threads of the cluster that have not exited, and orders their memory.
__device__ __forceinline__ void cluster_sync(Site site = Site::here()) {
    FUCINA_PTX(simt::cluster_barrier(site),
               "barrier.cluster.arrive.release.aligned;\n"
               "barrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}

// Arrives at the mbarrier that lies at the same place in block `rank`.
__device__ __forceinline__ void mbarrier_arrive_remote(Mbarrier* barrier, int rank,
                                                       Site site = Site::here()) {
    FUCINA_PTX(simt::mbarrier_arrive_remote(barrier, rank, site),
               "{\n"
               ".reg .b32 remote;\n"
               "mapa.shared::cluster.u32 remote, %0, %1;\n"
               "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
               "}\n" ::"r"(shared_address(barrier)),
               "r"(rank)
               : "memory");
}

// As tensor_load, to the same place of every block whose bit is set in `ranks`, and the bytes count
// on the mbarrier at the same place of each.
__device__ __forceinline__ void tensor_load_multicast(void* shared, const TensorMap& map, int x,
                                                      int y, Mbarrier* barrier, uint32_t ranks,
                                                      Site site = Site::here()) {
    FUCINA_PTX(simt::tensor_load_multicast(shared, map, x, y, barrier, ranks, site),
               "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
               ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
               "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier)),
               "h"(static_cast<uint16_t>(ranks))
               : "memory");
}

}  // namespace fucina::cuda
