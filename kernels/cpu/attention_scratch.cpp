// What the passes of attention_forward.cpp and attention_backward.cpp work in, for the memory plan.
// Backward needs more: it is counted here as its carve() does.
#include <algorithm>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_operands.h"

namespace fucina::cpu {

int64_t attention_scratch(const AttentionShape& shape, int64_t rows, DType type) {
    const GemmSet set = gemm_set(type);
    const int64_t blocks = blocks_of(rows), strip = 4 * kBlock;
    const int64_t qk_blocks = blocks_of(shape.d_qk), v_blocks = blocks_of(shape.d_v);
    const int64_t keys = blocks * (set.b_bytes(shape.d_qk) + set.b_bytes(shape.d_v));
    const int64_t by_rows = (2 * qk_blocks + v_blocks) * set.b_bytes(rows);
    const int64_t left =
        4 * (set.a_bytes(shape.d_qk) + set.a_bytes(shape.d_v)) + set.a_bytes(std::max(rows, strip));
    const int64_t scores = strip * (blocks + 1) * kBlock * set.element;
    const int64_t gradients = blocks * (qk_blocks + v_blocks) * kBlockFloats * 4;
    return keys + by_rows + rows * shape.d_qk * set.element + left + scores + gradients + 4 * rows;
}

}  // namespace fucina::cpu
