#include "kernels/attention.h"

#include "kernels/cpu/attention.h"
#include "kernels/cuda/attention.h"

namespace fucina::ops {

void attention(const Exec& exec, const AttentionShape& shape, const Tensor& q,
               const AttentionKv& kv, const Tensor& out, const Tensor& lse) {
    FUCINA_RUN(exec, attention, shape, q, kv, out, lse);
}

int64_t attention_scratch(const AttentionShape& shape, DType type) {
    return cpu::attention_backward_scratch(shape, type);
}

void attention_backward(const Exec& exec, const AttentionShape& shape,
                        const AttentionBackward& io) {
    FUCINA_RUN(exec, attention_backward, shape, io);
}

void latent_attention(const Exec& exec, const LatentAttention& io) {
    const int64_t rope = io.k_rope.row_size(), rank = io.c.row_size();
    FUCINA_CHECK(io.q.row_size() == io.heads * (io.nope + rope) &&
                     io.out.row_size() == io.heads * io.v && io.kv_up.row_size() == rank &&
                     io.kv_up.rows() == io.heads * (io.nope + io.v) &&
                     io.c.rows() == io.k_rope.rows() && io.c.rows() >= io.q.rows() &&
                     io.q.dtype() == io.c.dtype() && io.q.dtype() == io.k_rope.dtype() &&
                     io.q.dtype() == io.out.dtype() && io.kv_up.dtype() == DType::f32,
                 "latent_attention of ", io.q.describe(), " on ", io.c.describe(), " and ",
                 io.k_rope.describe());
    FUCINA_RUN(exec, latent_attention, io);
}

}  // namespace fucina::ops
