// The inner kernels of matrix products, one table per instruction set and operand type. The drivers
// (cpu/gemm_forward.h, cpu/gemm_wgrad.cpp) only see these tables.
//
// A product is made of blocks of 32 x 32 outputs in an L1 scratch C (fp32, row-major, stride 32).
// The right operand B comes in panels of 32 columns, in one layout for all levels:
//   bf16  [ceil(k/32)][2][16 pairs of k][16 columns][2]   (AMX's tiles of interleaved pairs)
//   fp32  [k][32]
// The left operand A, 32 rows, is in whatever order the table's own packers write.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

constexpr int64_t kBlock = 32;
constexpr int kFewRows = 4, kFewPanels = 8;

constexpr int64_t round_up(int64_t x, int64_t multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

// Some columns, at most 32, of k token rows of the operand type; of them, tokens [begin, end) are
// to be packed. begin is a multiple of 32, and so is end unless it is k.
struct TokenColumns {
    const void* const* rows;
    int64_t k, begin, end;
    int64_t column;
    int columns;
};

// Consecutive panels of B, or the same piece of k of each.
struct PanelsOfB {
    const void* data;
    int64_t stride;  // bytes
    int count;
};

// What the product of a chunk of K does with its sums.
struct ChunkSums {
    float* c;   // the chunk's block or blocks
    bool more;  // they go on from C
    // Then they are added to so many partial sums before them, kPartialFloats apart, the nearest
    // first; the last of these receives the result, and C nothing.
    int merges;
};
constexpr int64_t kPartialFloats = kFewPanels * kBlock * kBlock;

struct GemmKernel {
    // Bytes of A per element of k rounded up to 32, so that k may be cut at multiples of 32.
    int64_t a_bytes_per_k;
    // A[i][0..k) = rows[i][0..k), i < count <= 32.
    void (*pack_a)(const void* const* rows, int count, int64_t k, void* a);
    // A[i][t] = rows[t][column + i], i < columns, for the tokens t: for dW, where k counts tokens.
    // `a` is where the whole of A begins.
    void (*pack_a_transposed)(const TokenColumns& in, void* a);
    // C (+)= A · B for the first `rows` rows; with accumulate false C is overwritten.
    void (*multiply)(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c);
    // The same for A of pack_a_transposed.
    void (*multiply_transposed)(const void* a, const void* b, int64_t k, int rows, bool accumulate,
                                float* c);
    // As multiply, for chunks of K.
    void (*multiply_chunk)(const void* a, const void* b, int64_t k, int rows, ChunkSums sums);
    // The same for `rows` <= kFewRows and `panels` <= kFewPanels panels of B, panel_bytes
    // apart, to as many blocks C. With few rows there are too few chains in a panel to hide the
    // latency of the instruction, and B comes from memory: several panels at a time, the same bits.
    // Null: none.
    void (*multiply_few)(const void* a, const PanelsOfB& b, int64_t k, int rows, ChunkSums sums);
    // The kernel's instruction on registers alone, in as many chains as hide its latency, `repeats`
    // times; how many operations that was. What it reaches a second is the peak (calibrate.h).
    double (*burst)(int64_t repeats);
};

struct Fp32Rows {
    const float* data;
    int64_t stride;
};

// Packing of B, and what is done with finished blocks. "16-bit or 32-bit" pointers are void: the
// table is made for one operand type.
struct GemmTools {
    // One panel of B from the fp32 weights: B[k][j] = w[j][k], j < 32; rows of w that are null give
    // zeros.
    void (*pack_b_rows)(const float* const* rows, int64_t k, void* b);
    // The same from rows of the operand type, for attention.
    void (*pack_b_operand_rows)(const void* const* rows, int64_t k, void* b);
    // B[k][j] = w[k][j], j < columns <= 32.
    void (*pack_b_columns)(Fp32Rows w, int64_t k, int columns, void* b);
    // B[t][j] = rows[t][column + j] for the tokens t: for dW. `b` is where the whole panel begins.
    void (*pack_b_tokens)(const TokenColumns& in, void* b);
};

struct StoreBlock {
    void* out;  // first element
    int64_t stride;
    int rows, columns;
};

struct SwigluBlock {  // C = 16 columns of g, then 16 of u
    void *gate, *up;  // null: not kept
    int64_t gate_up_stride;
    void* h;
    int64_t h_stride;
    int rows, columns;  // columns <= 16
};

struct SwigluBackwardBlock {  // C = dh
    const void *gate, *up;
    int64_t gate_up_stride;
    void *d_gate, *d_up;
    int64_t d_gate_up_stride;
    void* weighted_h;
    int64_t h_stride;
    const float* row_weight;  // [rows] or null for 1
    float* row_dot;           // [rows][16] lanes of dh·h, added to; or null
    int rows, columns;
};

struct GemmEpilogues {
    void (*store)(const float* c, const StoreBlock& block);  // rounded to the operand type
    void (*store_f32)(const float* c, const StoreBlock& block);
    void (*load_f32)(const StoreBlock& block, float* c);  // the way back
    // Past the caches, for what nobody reads soon; _mm_sfence() before other threads may read it.
    void (*stream_f32)(const float* c, const StoreBlock& block);
    void (*swiglu)(const float* c, const SwigluBlock& block);
    void (*swiglu_backward)(const float* c, const SwigluBackwardBlock& block);
    float (*sum_lanes)(const float* lanes);            // of 16
    void (*add)(const float* x, float* y, int64_t n);  // y += x, n a multiple of 16
};

FUCINA_DECLARE_LEVELS(GemmKernel, kBf16Kernel)  // in the order amx
FUCINA_DECLARE_LEVELS(GemmKernel, kFmaKernel)
FUCINA_DECLARE_LEVELS(GemmKernel, kFp32Kernel)
FUCINA_DECLARE_LEVELS(GemmTools, kBf16Tools)
FUCINA_DECLARE_LEVELS(GemmTools, kFp32Tools)
FUCINA_DECLARE_LEVELS(GemmEpilogues, kBf16Epilogues)
FUCINA_DECLARE_LEVELS(GemmEpilogues, kFp32Epilogues)

FUCINA_DECLARE_LEVELS(GemmKernel, kEmulatedAmxKernel)
namespace avx512_bf16 {
extern const GemmKernel kDotKernel;
}
namespace amx {
extern const GemmKernel kAmxKernel;
}

}  // namespace fucina::cpu
