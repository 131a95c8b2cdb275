// One instruction at a time; see hopper_kernels.h.
#include "tests/simt/hopper_kernels.h"

#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/wgmma.h"

namespace fucina::cuda {
namespace {

struct WgmmaCase {
    const uint8_t *a, *b;
    int a_bytes, b_bytes;
    int a_swizzle, b_swizzle;
    uint32_t a_stride, a_leading, b_stride, b_leading;
    bool accumulate;
};

template <Element kType, Major kA, Major kB, int kN>
__global__ void wgmma_kernel(const WgmmaCase io, float* out) {
    FUCINA_DYNAMIC_SHARED(memory, 1024);
    unsigned char* a = memory;
    unsigned char* b = memory + (io.a_bytes + 1023) / 1024 * 1024;
    const int t = static_cast<int>(threadIdx.x);
    for (int i = t; i < io.a_bytes; i += kWarpgroupSize) a[i] = io.a[i];
    for (int i = t; i < io.b_bytes; i += kWarpgroupSize) b[i] = io.b[i];
    fence_proxy_async();
    __syncthreads();
    float d[kN / 2];
    for (int i = 0; i < kN / 2; ++i) d[i] = out[t * kN / 2 + i];
    const uint64_t da =
        matrix_descriptor(a, static_cast<Swizzle>(io.a_swizzle), io.a_stride, io.a_leading);
    const uint64_t db =
        matrix_descriptor(b, static_cast<Swizzle>(io.b_swizzle), io.b_stride, io.b_leading);
    wgmma_fence();
    if constexpr (kType == Element::bf16)
        wgmma_bf16<kA, kB>(d, da, db, io.accumulate);
    else
        wgmma_e4m3(d, da, db, io.accumulate);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < kN / 2; ++i) out[t * kN / 2 + i] = d[i];
}

template <Element kType, Major kA, Major kB>
auto wgmma_of(int n) {
    return n == 64    ? wgmma_kernel<kType, kA, kB, 64>
           : n == 128 ? wgmma_kernel<kType, kA, kB, 128>
                      : wgmma_kernel<kType, kA, kB, 256>;
}

auto wgmma_of(Element type, bool a, bool b, int n) {
    if (type == Element::e4m3) return wgmma_of<Element::e4m3, Major::k, Major::k>(n);
    if (a && b) return wgmma_of<Element::bf16, Major::mn, Major::mn>(n);
    if (a) return wgmma_of<Element::bf16, Major::mn, Major::k>(n);
    if (b) return wgmma_of<Element::bf16, Major::k, Major::mn>(n);
    return wgmma_of<Element::bf16, Major::k, Major::k>(n);
}

__global__ void load_kernel(const __grid_constant__ TensorMap map, int x, int y, int bytes,
                            uint8_t* out) {
    FUCINA_DYNAMIC_SHARED(memory, 1024);
    FUCINA_SHARED(Mbarrier, landed);
    if (threadIdx.x == 0) {
        mbarrier_init(&landed, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&landed, static_cast<uint32_t>(bytes));
        tensor_load(memory, map, x, y, &landed);
    }
    __syncthreads();
    mbarrier_wait(&landed, 0);
    for (int i = static_cast<int>(threadIdx.x); i < bytes; i += 32) out[i] = memory[i];
}

__global__ void store_kernel(const __grid_constant__ TensorMap map, int x, int y, int bytes,
                             const uint8_t* in) {
    FUCINA_DYNAMIC_SHARED(memory, 1024);
    for (int i = static_cast<int>(threadIdx.x); i < bytes; i += 32) memory[i] = in[i];
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x != 0) return;
    tensor_store(map, x, y, memory);
    bulk_commit();
    bulk_wait<0>();
}

constexpr int kBulk = 1024, kBytes = 3072;

__global__ void copy_kernel(Copying fault, const uint8_t* in, int inside, uint8_t* out) {
    FUCINA_DYNAMIC_SHARED(memory, 1024);
    FUCINA_SHARED(Mbarrier, landed);
    const int t = static_cast<int>(threadIdx.x), at = kBulk + t * 16;
    if (t == 0) {
        mbarrier_init(&landed, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&landed, kBulk);
        bulk_load(memory + (fault == Copying::misaligned ? 8 : 0), in, kBulk, &landed);
    }
    async_copy_16(memory + at, in + at, at < inside);
    if (fault != Copying::no_commit) async_copy_commit();
    if (fault == Copying::read_while_loading) out[t] = memory[at];
    if (fault != Copying::no_wait) async_copy_wait<0>();
    fence_proxy_async();
    if (fault != Copying::no_barrier) __syncthreads();
    if (t != 0) return;
    mbarrier_wait(&landed, 0);
    mbarrier_inval(&landed);
    bulk_store(out, memory, kBytes);
    bulk_commit();
    bulk_wait_read<0>();
}

__device__ float two_products(Pending fault, unsigned char* ones) {
    for (int i = static_cast<int>(threadIdx.x); i < 2048; i += kWarpgroupSize) ones[i] = 0x38;
    fence_proxy_async();
    __syncthreads();
    const uint64_t tile = matrix_descriptor(ones, Swizzle::none, 128, 1024);
    float first[32], second[32];
    wgmma_fence();
    wgmma_e4m3(first, tile, tile, false);
    wgmma_commit();
    wgmma_e4m3(second, tile, tile, false);
    wgmma_commit();
    wgmma_wait<1>();
    const float sum = fault == Pending::product_read ? second[0] : first[0];
    wgmma_wait<0>();
    return sum;
}

__global__ void groups_kernel(Pending fault, const uint8_t* in, uint8_t* out, float* sums) {
    FUCINA_DYNAMIC_SHARED(memory, 1024);
    const float sum = two_products(fault, memory + 1024);
    if (threadIdx.x != 0) return;
    sums[0] = sum;
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 128; i += 16)
            async_copy_16(memory + half * 128 + i, in + half * 128 + i);
        async_copy_commit();
    }
    async_copy_wait<1>();
    for (int i = 0; i < 128; ++i) memory[i] = static_cast<unsigned char>(memory[i] + 1);
    if (fault == Pending::copy_read) sums[0] = memory[128];
    async_copy_wait<0>();
    fence_proxy_async();
    for (int half = 0; half < 2; ++half) {
        bulk_store(out + half * 128, memory + half * 128, 128);
        bulk_commit();
    }
    bulk_wait_read<1>();
    memory[0] = 7;
    if (fault == Pending::store_overwritten) memory[128] = 7;
    bulk_wait<0>();
    memory[128] = 7;
}

__global__ void hand_over_kernel(bool reads_back, const int* in, int* out) {
    using Values = int[32];
    FUCINA_SHARED(Values, values);
    FUCINA_SHARED(Values, back);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x < 32) {
        values[lane] = in[lane];
        named_barrier_arrive<64>(3);
        if (reads_back && lane == 0) out[lane] = back[lane];
    } else {
        back[lane] = lane;
        named_barrier_sync<64>(3);
        out[lane] = values[lane];
    }
}

__global__ void __launch_bounds__(384, 1) registers_kernel(bool too_many) {
    if (threadIdx.x >= 256)
        registers_decrease<40>();
    else if (too_many)
        registers_increase<240>();
    else
        registers_increase<232>();
}

TensorMap map_of(const Matrix2D& matrix) {
    return make_tensor_map({.data = matrix.data,
                            .element_bytes = matrix.element_bytes,
                            .rows = matrix.rows,
                            .columns = matrix.columns,
                            .row_bytes = matrix.row_bytes,
                            .box_rows = matrix.box_rows,
                            .box_columns = matrix.box_columns,
                            .swizzle = static_cast<Swizzle>(matrix.swizzle)});
}

LaunchConfig one_block(unsigned threads, size_t smem) {
    return {.grid = dim3(1), .block = dim3(threads), .smem = smem};
}

// Thread 0's d[0] is row 0, column 0; the 64 rows of a and 64 of b are x and w over and over.
__global__ void sum_kernel(const uint8_t* x, const uint8_t* w, float* y) {
    struct alignas(128) Tile {
        uint8_t at[64 * 128];
    };
    FUCINA_SHARED(Tile, a);
    FUCINA_SHARED(Tile, b);
    const int t = static_cast<int>(threadIdx.x);
    float all[32], part[32], promoted = 0;
    for (int block = 0; block < 32; ++block) {
        // Without swizzle: 16 bytes of 8 rows lie together.
        for (int i = t; i < 64 * 128; i += kWarpgroupSize) {
            const int k = block * 128 + i / 1024 * 16 + i % 16;
            a.at[i] = x[k];
            b.at[i] = w[k];
        }
        fence_proxy_async();
        __syncthreads();
        wgmma_fence();
        for (int step = 0; step < 4; ++step) {
            const uint64_t da = matrix_descriptor(a.at + step * 2048, Swizzle::none, 128, 1024);
            const uint64_t db = matrix_descriptor(b.at + step * 2048, Swizzle::none, 128, 1024);
            wgmma_e4m3(part, da, db, step != 0);
            wgmma_e4m3(all, da, db, block + step != 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        promoted += part[0];
        __syncthreads();
    }
    if (t != 0) return;
    y[0] = all[0];
    y[1] = promoted;
}

}  // namespace

void one_wgmma(Element type, int n, const TileImage& a, const TileImage& b, bool accumulate,
               std::vector<float>& d) {
    const WgmmaCase io{.a = a.bytes.data(),
                       .b = b.bytes.data(),
                       .a_bytes = static_cast<int>(a.bytes.size()),
                       .b_bytes = static_cast<int>(b.bytes.size()),
                       .a_swizzle = a.swizzle,
                       .b_swizzle = b.swizzle,
                       .a_stride = a.stride,
                       .a_leading = a.leading,
                       .b_stride = b.stride,
                       .b_leading = b.leading,
                       .accumulate = accumulate};
    launch(wgmma_of(type, a.mn_major, b.mn_major, n), one_block(128, 64 << 10), io, d.data());
}

std::vector<uint8_t> load_box(const Matrix2D& matrix, int x, int y) {
    const int bytes = matrix.box_rows * matrix.box_columns * matrix.element_bytes;
    std::vector<uint8_t> out(static_cast<size_t>(bytes));
    launch(load_kernel, one_block(32, out.size()), map_of(matrix), x, y, bytes, out.data());
    return out;
}
void store_box(const Matrix2D& matrix, int x, int y, const std::vector<uint8_t>& image) {
    launch(store_kernel, one_block(32, image.size()), map_of(matrix), x, y,
           static_cast<int>(image.size()), image.data());
}
void make_map(const Matrix2D& matrix) {
    map_of(matrix);
}
void copy_through_shared(Copying fault, const uint8_t* in, int inside, uint8_t* out) {
    launch(copy_kernel, one_block(128, kBytes), fault, in, inside, out);
}
void two_groups(Pending fault, const uint8_t* in, uint8_t* out, float* sums) {
    launch(groups_kernel, one_block(128, 3072), fault, in, out, sums);
}
void hand_over(bool reads_back, const int* in, int* out) {
    launch(hand_over_kernel, one_block(64, 0), reads_back, in, out);
}
void move_registers(bool too_many, unsigned threads) {
    launch(registers_kernel, one_block(threads, 0), too_many);
}
void sum_4096(const uint8_t* x, const uint8_t* w, float* y) {
    launch(sum_kernel, one_block(128, 0), x, w, y);
}

}  // namespace fucina::cuda
