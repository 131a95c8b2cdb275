// The executor's side of kernels/cuda/device: Hopper's asynchronous instructions. Each function is
// one instruction of the calling thread; kernels call them through the device layer alone.
#pragma once
#include "tests/simt/simt.h"

namespace fucina::simt {

// As PTX addresses it; names an error when the pointer is not into the block's shared memory.
uint32_t shared_address(const void* pointer);

void named_barrier(int id, int threads, bool wait, Site site);
int cluster_rank();
void cluster_barrier(Site site);
void set_registers(int count, Site site);

void mbarrier_init(uint64_t* barrier, uint32_t count, Site site);
void mbarrier_inval(uint64_t* barrier, Site site);
void mbarrier_arrive(uint64_t* barrier, uint32_t expected_bytes, Site site);
void mbarrier_wait(uint64_t* barrier, uint32_t parity, Site site);
void mbarrier_arrive_remote(uint64_t* barrier, int rank, Site site);
void fence_mbarrier_init();
void fence_proxy_async();

// A matrix in global memory and the box that is copied of it.
struct TensorMap {
    char* data = nullptr;
    int64_t columns = 0, rows = 0, row_bytes = 0;
    int box_columns = 0, box_rows = 0, element_bytes = 1, swizzle = 0;
};

void async_copy_16(void* shared, const void* global, bool inside, Site site);
void async_copy_commit();
void async_copy_wait(int pending);
void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier, Site site);
void bulk_store(void* global, const void* shared, uint32_t bytes, Site site);
void bulk_commit();
void bulk_wait(int pending, bool written);
void tensor_load(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier, Site site);
void tensor_load_multicast(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier,
                           uint32_t ranks, Site site);
void tensor_store(const TensorMap& map, int x, int y, const void* shared, Site site);

enum class Operand { bf16, e4m3 };
struct WgmmaShape {
    Operand type = Operand::bf16;
    int n = 0;
    uint64_t a = 0, b = 0;  // descriptors
    bool a_mn_major = false, b_mn_major = false, accumulate = false;
    Site site;
    bool operator==(const WgmmaShape&) const = default;
};
void check_tile_start(const void* start, Site site);
void wgmma_fence(Site site);
void wgmma(const WgmmaShape& shape, float* d);  // d: n / 2 registers
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace fucina::simt
