// Decoding with MLA: a task is one head of one query.
#include "kernels/cpu/latent_attention.h"

#include "kernels/cpu/attention.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {

void latent_attention(const ops::LatentAttention& io) {
    const LatentKernels& kernels =
        io.q.dtype() == DType::bf16 ? FUCINA_PICK(kBf16Latent) : FUCINA_PICK(kFp32Latent);
    const int64_t rope = io.k_rope.row_size(), rank = io.c.row_size(), width = io.nope + rope;
    const int64_t element = size_of(io.q.dtype()), before = io.c.rows() - io.q.rows();
    // Multiplications in registers are worth less of a thread than elements of memory.
    const int64_t work = (io.c.rows() + io.nope + io.v) * rank / 8;
    parallel_for(io.q.rows() * io.heads, work, [&](int64_t index) {
        const int64_t token = index / io.heads, head = index % io.heads;
        const int64_t visible = before + token + 1;
        // 16 lanes of padding for each part; a cache that grows token by token asks for more
        // rarely.
        const int64_t floats = round_up(2 * rank + width + visible + 64, 4096);
        auto* memory = reinterpret_cast<float*>(
            scratch(ScratchSlot::attention, floats * int64_t{sizeof(float)}));
        kernels.head({.q = io.q.raw() + (token * io.q.row_stride() + head * width) * element,
                      .nope = io.nope,
                      .rope = rope,
                      .v = io.v,
                      .rank = rank,
                      .scale = io.scale,
                      .c = io.c.raw(),
                      .k_rope = io.k_rope.raw(),
                      .c_stride = io.c.row_stride(),
                      .rope_stride = io.k_rope.row_stride(),
                      .visible = visible,
                      .kv_up = io.kv_up.row<float>(head * (io.nope + io.v)),
                      .scratch = memory,
                      .out = io.out.raw() + (token * io.out.row_stride() + head * io.v) * element});
    });
}

}  // namespace fucina::cpu
