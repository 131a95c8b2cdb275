// Products on CUDA cores: a block of 256 threads makes a tile of 64 x 64 sums, 4 x 4 a thread, each
// one FMA chain over k: the order `fma` of kernels/gemm.h. 16 of k at a time lie in shared memory,
// twice, so that the next are stored while these are multiplied.
#pragma once
#include "kernels/cuda/device/block.h"

namespace fucina::cuda {

constexpr int kTile = 64, kTileThreads = 256, kTileStep = 16, kOwn = 4;
constexpr int kTileSums = kOwn * kOwn;  // of a thread
constexpr int kPitch = kTile + 4;  // aligned to 16 bytes, and columns of it do not meet in a bank

using TileSums = float[kOwn][kOwn];
using TileStep = float[kTileStep][kPitch];
struct alignas(16) TileMemory {
    TileStep a[2], b[2];
};

// Where this thread's sums begin in the tile.
__device__ __forceinline__ int own_row() {
    return static_cast<int>(threadIdx.x) / (kTile / kOwn) * kOwn;
}
__device__ __forceinline__ int own_column() {
    return static_cast<int>(threadIdx.x) % (kTile / kOwn) * kOwn;
}

// The first `count` of four neighbours, then zeros.
template <class T>
__device__ __forceinline__ Pack<float, kOwn> four(const T* from, int64_t count) {
    Pack<float, kOwn> out{};
    if (count >= kOwn && reinterpret_cast<uintptr_t>(from) % (kOwn * sizeof(T)) == 0) {
        const auto in = load<kOwn>(from);
        for (int i = 0; i < kOwn; ++i) out.at[i] = to_float(in.at[i]);
    } else {
        for (int i = 0; i < kOwn; ++i) out.at[i] = i < count ? to_float(from[i]) : 0.0f;
    }
    return out;
}

// An operand whose rows run along k, a row of the tile each: a thread reads four of k of one row.
template <class T>
struct AlongK {
    const T* row = nullptr;  // of tile row AlongK::own(); null: zeros

    static __device__ __forceinline__ int own() {
        return static_cast<int>(threadIdx.x) / (kTileStep / kOwn);
    }
    static __device__ __forceinline__ int first() {
        return static_cast<int>(threadIdx.x) % (kTileStep / kOwn) * kOwn;
    }
    __device__ __forceinline__ Pack<float, kOwn> fetch(int64_t k, int64_t end) const {
        if (row == nullptr) return {};
        return four(row + k + first(), end - k - first());
    }
    static __device__ __forceinline__ void put(TileStep& tile, const Pack<float, kOwn>& values) {
        for (int i = 0; i < kOwn; ++i) tile[first() + i][own()] = values.at[i];
    }
};

// An operand whose rows are one k each, taken through an index or null: a thread reads four
// columns.
template <class T>
struct AcrossK {
    const T* data = nullptr;
    int64_t stride = 0;
    const int32_t* index = nullptr;
    int64_t column = 0;  // of tile column 0
    int64_t width = 0;

    __device__ __forceinline__ Pack<float, kOwn> fetch(int64_t k, int64_t end) const {
        k += threadIdx.x / (kTile / kOwn);
        if (k >= end) return {};
        const int64_t c = column + own_column(), row = index != nullptr ? index[k] : k;
        return four(data + row * stride + c, width - c);
    }
    static __device__ __forceinline__ void put(TileStep& tile, const Pack<float, kOwn>& values) {
        store(&tile[threadIdx.x / (kTile / kOwn)][own_column()], values);
    }
};

// sums[i][j] goes on over `count` of k.
__device__ __forceinline__ void multiply(const TileStep& a, const TileStep& b, int count,
                                         TileSums& sums) {
    const int row = own_row(), column = own_column();
#pragma unroll 4
    for (int k = 0; k < count; ++k) {
        const auto x = load<kOwn>(&a[k][row]), y = load<kOwn>(&b[k][column]);
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
#pragma unroll
            for (int j = 0; j < kOwn; ++j) sums[i][j] = fmaf(x.at[i], y.at[j], sums[i][j]);
    }
}

// The same over k in [begin, end) of both operands, by all threads; those that do not `work` have
// no sums that count. `turn` says which half of the memory is next. One barrier a step: who stores
// into a half has met everyone since it was read.
template <class A, class B>
__device__ __forceinline__ void add_products(TileMemory& memory, int& turn, const A& a, const B& b,
                                             int64_t begin, int64_t end, bool work,
                                             TileSums& sums) {
    auto next_a = a.fetch(begin, end), next_b = b.fetch(begin, end);
    for (int64_t k = begin; k < end; k += kTileStep, turn ^= 1) {
        a.put(memory.a[turn], next_a);
        b.put(memory.b[turn], next_b);
        __syncthreads();
        next_a = a.fetch(k + kTileStep, end);
        next_b = b.fetch(k + kTileStep, end);
        const int64_t left = end - k;
        if (work)
            multiply(memory.a[turn], memory.b[turn],
                     left < kTileStep ? static_cast<int>(left) : kTileStep, sums);
    }
}

// The sums of leaves on their way along the tree, each thread's own, in shared memory after the
// tiles.
struct SumStack {
    float* top = nullptr;

    explicit __device__ SumStack(TileMemory& memory)
        : top(reinterpret_cast<float*>(&memory + 1) + threadIdx.x) {}

    // After a leaf: the merges that follow it. The last one stays in sums.
    __device__ __forceinline__ void add(TileSums& sums, int merges, bool last) {
        for (; merges > 0; --merges) {
            top -= kTileSums * kTileThreads;
#pragma unroll
            for (int i = 0; i < kTileSums; ++i)
                sums[i / kOwn][i % kOwn] = top[i * kTileThreads] + sums[i / kOwn][i % kOwn];
        }
        if (last) return;
#pragma unroll
        for (int i = 0; i < kTileSums; ++i) top[i * kTileThreads] = sums[i / kOwn][i % kOwn];
        top += kTileSums * kTileThreads;
    }
};

// Dynamic shared memory of a block of which so many sums wait.
inline size_t tile_bytes(int waiting) {
    return sizeof(TileMemory) +
           sizeof(float) * kTileSums * kTileThreads * static_cast<size_t>(waiting);
}

}  // namespace fucina::cuda
