// Causal softmax attention over packed documents (flash style: scores are never stored in fp32 [T,
// T]).
//
// A query sees the keys of its own document at its own or an earlier position. q and k have d_qk
// columns a head, v has d_v. MLA's k is a per-head part and a rotary part that all heads share;
// k_shared holds the latter, so it is never copied per head. Softmax and sums are fp32; in bf16, P
// is rounded to bf16 before P·V. Fixed order of key blocks from the start of each document, so
// results do not depend on threads or on what else is in the batch.
#pragma once
#include "kernels/exec.h"

namespace fucina {

struct AttentionShape {
    int64_t heads = 1, kv_heads = 1;  // heads % kv_heads == 0
    int64_t d_qk = 0;                 // = d_k_own + d_shared
    int64_t d_shared = 0;             // columns of k_shared, the last ones of d_qk
    int64_t d_v = 0;
    float scale = 1;  // of q·k
    // Of the heads, for the gradient of k_shared: in fp32 a sum over the heads of each in order,
    // added along the tree of kernels/k_cut.h, rounded once.
    int64_t chunks = 1;
    Tensor cu_seqlens;  // i64 [documents + 1], first 0, last T
    int64_t documents() const { return cu_seqlens.rows() - 1; }
};

// k_own and v may be views with any row stride: head h of k_own begins at column h * k_head_stride,
// of v at h * v_head_stride (so both may be columns of one [T, H*(nope+v)] matrix).
struct AttentionKv {
    Tensor k_own;     // [T, *]
    Tensor k_shared;  // [T, d_shared] or undefined
    Tensor v;         // [T, *]
    int64_t k_head_stride = 0, v_head_stride = 0;
};

namespace ops {

// q [T, heads*d_qk], out [T, heads*d_v]; lse fp32 [heads, T] (log-sum-exp of scaled scores) may be
// undefined.
void attention(const Exec& exec, const AttentionShape& shape, const Tensor& q,
               const AttentionKv& kv, const Tensor& out, const Tensor& lse);

struct AttentionBackward {
    Tensor d_out, out, lse, q;
    AttentionKv kv;
    Tensor dq;        // out, like q
    AttentionKv dkv;  // out, laid out like kv (k_own, k_shared, v are overwritten); k_shared may be
                      // f32, which is then the sum unrounded
};
void attention_backward(const Exec& exec, const AttentionShape& shape, const AttentionBackward& io);

// Bytes that their threads work in together, beside tensors.
int64_t attention_scratch(const AttentionShape& shape, DType type);

// Decoding with MLA: the last N tokens against a cache of latents, W_kv folded into q and out, so
// that latents are never expanded to heads (arXiv 2405.04434 §2.1.2). Per head, with W_k and W_v
// its rows of kv_up: f = W_kᵀ q_nope; score of token s = scale (f·c_s + q_rope·k_rope_s); p =
// softmax over the tokens up to the query; out = W_v Σ p_s c_s. All in fp32, out rounded once. Each
// sum in one order: f and Σ p_s c_s chains, the others over 16 lanes and their tree.
struct LatentAttention {
    int64_t heads = 1, nope = 0, v = 0;
    float scale = 1;
    Tensor q;          // [N, heads * (nope + rope)], of the cache's dtype
    Tensor c, k_rope;  // [S, rank], [S, rope]: the cache, the N tokens its last
    Tensor kv_up;      // fp32 [heads * (nope + v), rank]
    Tensor out;        // [N, heads * v]
};
void latent_attention(const Exec& exec, const LatentAttention& io);

}  // namespace ops
}  // namespace fucina
