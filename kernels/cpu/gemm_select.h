// Which tables of inner kernels a matrix product uses, by operand type, instruction set and
// numerics.
#pragma once
#include "kernels/cpu/fp8_kernels.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/dtype.h"
#include "kernels/gemm.h"

namespace fucina::cpu {

struct GemmSet {
    const GemmKernel& kernel;
    const GemmTools& tools;
    const GemmEpilogues& epilogues;
    int64_t element;  // bytes of an operand's element

    // Bytes of 32 rows of A, and of one panel of B.
    int64_t a_bytes(int64_t k) const { return kernel.a_bytes_per_k * round_up(k, kBlock); }
    int64_t b_bytes(int64_t k) const { return kBlock * element * round_up(k, kBlock); }
    // The scales of 32 rows of A, or of a panel of B, which lie after them.
    static int64_t scale_bytes(int64_t k) {
        return round_up(k, kFp8Block) / kFp8Block * kBlock * static_cast<int64_t>(sizeof(float));
    }
    // The pieces of K one after the other, each padded to 32 alone.
    int64_t a_bytes(const KPieces& k) const { return k.count() * a_bytes(k.length); }
    int64_t b_bytes(const KPieces& k) const { return k.count() * b_bytes(k.length); }
};

// Of a weight's k. The parts of a single chunk are one piece where none of them needs padding.
inline KPieces pieces_of(const PackedWeight& w) {
    if (w.fp8()) return fp8_pieces(w.cut, w.k);
    const bool whole = w.cut.chunks == 1 && w.k % (w.cut.parts * kBlock) == 0;
    return {whole ? KCut{} : w.cut, w.k};
}

// bf16, f32 or f8_e4m3.
GemmSet gemm_set(DType type);

}  // namespace fucina::cpu
