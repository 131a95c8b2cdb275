// Reading token rows for dW, where they lie apart. Included by what is compiled per level.
#pragma once
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {

// Rows may lie anywhere, which no hardware prefetcher foresees: those of the next 32 tokens.
template <class T>
FUCINA_INLINE const T* token(const TokenColumns& in, int64_t i) {
    if (i + kBlock < in.k)
        __builtin_prefetch(static_cast<const T*>(in.rows[i + kBlock]) + in.column);
    return static_cast<const T*>(in.rows[i]) + in.column;
}

}  // namespace fucina::cpu::FUCINA_ISA
