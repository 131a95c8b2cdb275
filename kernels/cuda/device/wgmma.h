// wgmma: a warpgroup's tensor-core product of two tiles in shared memory, D = A B (+ D), D in
// registers. PTX ISA 9.7.15, "Asynchronous Warpgroup Level Matrix Instructions". The order is
//   wgmma_fence(); wgmma_...(d, ...); ...; wgmma_commit(); wgmma_wait<0>();
// and d is anyone's but the kernel's from the first wgmma until the wait.
#pragma once
#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/tensor_map.h"

namespace fucina::cuda {

// Which index of A [m, k] or B [n, k] has neighbours in memory; e4m3 has K alone.
enum class Major { k = 0, mn = 1 };

// A tile in shared memory as wgmma reads it, from `start`, which is aligned to 16 bytes; rows lie
// as TMA's swizzle leaves them, in a pattern that begins at a multiple of 8 of its rows.
//   K-major: `stride` bytes from 8 rows of m to the next 8; `leading` is used without swizzle only,
//     from 16 bytes of a row to the next 16 (8 rows of 16 bytes lie together).
//   MN-major: a row of memory is one k with `swizzle` bytes of m; `stride` bytes from 8 values of k
//     to the next 8, `leading` from one swizzle's width of m to the next; without swizzle `stride`
//     is from 16 bytes of m to the next 16 and `leading` from 8 values of k to the next 8.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* start, Swizzle swizzle,
                                                      uint32_t stride, uint32_t leading = 16,
                                                      Site site = Site::here()) {
#if defined(FUCINA_SIMT)
    simt::check_tile_start(start, site);
#endif
    const auto field = [](uint32_t bytes) {
        return static_cast<uint64_t>((bytes & 0x3ffffu) >> 4);
    };
    const uint64_t mode = swizzle == Swizzle::none       ? 0
                          : swizzle == Swizzle::bytes128 ? 1
                          : swizzle == Swizzle::bytes64  ? 2
                                                         : 3;
    return field(shared_address(start)) | field(leading) << 16 | field(stride) << 32 | mode << 62;
}

// Before the first wgmma and after registers of d were touched.
__device__ __forceinline__ void wgmma_fence(Site site = Site::here()) {
    FUCINA_PTX_90A(simt::wgmma_fence(site), "wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    FUCINA_PTX_90A(simt::wgmma_commit(), "wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the kPending newest groups are done: their d may be read, their tiles overwritten.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
    FUCINA_PTX_90A(simt::wgmma_wait(kPending), "wgmma.wait_group.sync.aligned %0;" ::"n"(kPending)
                   : "memory");
}
// Keeps the compiler from moving uses of d over a fence or a wait.
template <int kCount>
__device__ __forceinline__ void wgmma_pin(float (&d)[kCount]) {
#if defined(__CUDACC__)
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#else
    (void)d;
#endif
}

// d of thread t of the warpgroup: d[i] is the element of row 16 (t / 32) + t mod 32 / 4 + 8 (i / 2
// mod 2) and column 8 (i / 4) + 2 (t mod 4) + i mod 2, of 64 rows and twice as many columns as d
// has entries: 64, 128 or 256. One instruction takes 16 values of k in bf16, 32 in e4m3.
//   wgmma_bf16<Major::k, Major::k>(d, a, b, accumulate)    wgmma_e4m3(d, a, b, accumulate)
// Without `accumulate` d counts as zero.
#if defined(__CUDACC__)
#define FUCINA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FUCINA_D16(i) FUCINA_D4(i), FUCINA_D4(i + 4), FUCINA_D4(i + 8), FUCINA_D4(i + 12)
#define FUCINA_D32(i) FUCINA_D16(i), FUCINA_D16(i + 16)
#define FUCINA_D64(i) FUCINA_D32(i), FUCINA_D32(i + 32)
#define FUCINA_D128(i) FUCINA_D64(i), FUCINA_D64(i + 64)
#define FUCINA_R32                                                           \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FUCINA_R64                                                                     \
    FUCINA_R32                                                                         \
    ", "                                                                               \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FUCINA_R128                                                                          \
    FUCINA_R64                                                                               \
    ", "                                                                                     \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "       \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "       \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
    "%111, "                                                                                 \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, "   \
    "%126, %127"
// `n` columns in `r` registers; a, b, p, ta, tb name the operands that follow them.
#define FUCINA_WGMMA(n, r, a, b, p, ta, tb)                                                       \
    template <Major kA, Major kB>                                                                 \
    __device__ __forceinline__ void wgmma_bf16(float(&d)[r], uint64_t da, uint64_t db,            \
                                               bool accumulate) {                                 \
        FUCINA_PTX_90A(, "{\n.reg .pred p;\nsetp.ne.b32 p, " p                                    \
                         ", 0;\n"                                                                 \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" FUCINA_R##r \
                       "}, " a ", " b ", p, 1, 1, " ta ", " tb ";\n}\n"                           \
                       : FUCINA_D##r(0)                                                           \
                       : "l"(da), "l"(db), "r"(static_cast<int>(accumulate)),                     \
                         "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));                   \
    }                                                                                             \
    __device__ __forceinline__ void wgmma_e4m3(float(&d)[r], uint64_t da, uint64_t db,            \
                                               bool accumulate) {                                 \
        FUCINA_PTX_90A(, "{\n.reg .pred p;\nsetp.ne.b32 p, " p                                    \
                         ", 0;\n"                                                                 \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" FUCINA_R##r \
                       "}, " a ", " b ", p, 1, 1;\n}\n"                                           \
                       : FUCINA_D##r(0)                                                           \
                       : "l"(da), "l"(db), "r"(static_cast<int>(accumulate)));                    \
    }
FUCINA_WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36")
FUCINA_WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68")
FUCINA_WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132")
#else
template <Major kA, Major kB, int kCount>
void wgmma_bf16(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate,
                Site site = Site::here()) {
    simt::wgmma(
        {simt::Operand::bf16, 2 * kCount, a, b, kA == Major::mn, kB == Major::mn, accumulate, site},
        d);
}
template <int kCount>
void wgmma_e4m3(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate,
                Site site = Site::here()) {
    simt::wgmma({simt::Operand::e4m3, 2 * kCount, a, b, false, false, accumulate, site}, d);
}
#endif

}  // namespace fucina::cuda
