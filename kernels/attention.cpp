#include "kernels/attention.h"

#include "kernels/cpu/attention.h"

namespace fucina::ops {

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse) {
    cpu::attention(shape, q, kv, out, lse);
}

int64_t attention_scratch(const AttentionShape& shape, int64_t rows, DType type) {
    return cpu::attention_scratch(shape, rows, type);
}

void attention_backward(const AttentionShape& shape, const AttentionBackward& io) {
    cpu::attention_backward(shape, io);
}

}  // namespace fucina::ops
