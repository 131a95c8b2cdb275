// Two blocks of a cluster fill each other's shared memory; see hopper_kernels.h.
#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/launch.h"
#include "tests/simt/hopper_kernels.h"

namespace fucina::cuda {
namespace {

constexpr int kBlocks = 2, kHalfRows = 32, kConsumers = 128, kPerThread = kTable / kConsumers;

struct Memory {
    alignas(1024) uint16_t table[kTable];
    Mbarrier full, empty;
};

__device__ void produce(Sharing fault, Memory& memory, const TensorMap& map) {
    const int rank = cluster_rank();
    const uint32_t bytes = sizeof memory.table;
    const uint32_t ranks = fault == Sharing::own_block_alone ? 1u << rank
                           : fault == Sharing::no_such_block ? 5u
                                                             : 3u;
    for (int round = 0; round < kRounds; ++round) {
        mbarrier_wait(&memory.empty, static_cast<uint32_t>(round % 2) ^ 1u);
        mbarrier_arrive_expect_tx(&memory.full, fault == Sharing::expects_half ? bytes / 2 : bytes);
        tensor_load_multicast(memory.table + rank * (kTable / 2), map, 0,
                              round * 64 + rank * kHalfRows, &memory.full, ranks);
    }
}

__device__ void consume(Sharing fault, Memory& memory, uint32_t (&sum)[kPerThread]) {
    for (int round = 0; round < kRounds; ++round) {
        mbarrier_wait(&memory.full, static_cast<uint32_t>(round % 2));
        for (int i = 0; i < kPerThread; ++i)
            sum[i] += memory.table[i * kConsumers + static_cast<int>(threadIdx.x)];
        __syncwarp();
        if (threadIdx.x % 32 != 0) continue;
        for (int rank = 0; rank < kBlocks; ++rank)
            mbarrier_arrive_remote(&memory.empty,
                                   fault == Sharing::frees_own_slot_alone ? cluster_rank() : rank);
    }
}

__global__ void sharing_kernel(Sharing fault, const __grid_constant__ TensorMap map,
                               uint32_t* out) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    if (threadIdx.x == 0) {
        mbarrier_init(&memory.full, 1);
        mbarrier_init(&memory.empty, kBlocks * kConsumers / 32);
        fence_mbarrier_init();
    }
    if (fault == Sharing::no_sync_after_init)
        __syncthreads();
    else
        cluster_sync();
    if (threadIdx.x < kConsumers) {
        uint32_t sum[kPerThread] = {};
        consume(fault, memory, sum);
        for (int i = 0; i < kPerThread; ++i)
            out[blockIdx.x * kTable + static_cast<unsigned>(i * kConsumers) + threadIdx.x] =
                sum[i] + static_cast<uint32_t>(cluster_rank());
    } else if (threadIdx.x == kConsumers) {
        produce(fault, memory, map);
    }
    __syncwarp();
    if (fault != Sharing::exits_early) cluster_sync();
}

}  // namespace

void share_tables(Sharing fault, const uint16_t* in, uint32_t* out) {
    launch(sharing_kernel,
           {.grid = dim3(kSharingBlocks),
            .block = dim3(kConsumers + 32),
            .smem = sizeof(Memory),
            .cluster = kBlocks},
           fault,
           make_tensor_map({.data = in,
                            .element_bytes = 2,
                            .rows = kRounds * 64,
                            .columns = 64,
                            .row_bytes = 128,
                            .box_rows = kHalfRows,
                            .box_columns = 64}),
           out);
}

}  // namespace fucina::cuda
