// Token embedding, and the head with its cross-entropy.
#pragma once
#include <functional>

#include "kernels/exec.h"
#include "kernels/gemm.h"
#include "kernels/leaf_tree.h"

namespace fucina {

constexpr int32_t kIgnoreLabel = -100;
// The fp32 logits that exist at a time; their gradient comes on top, in the compute type.
constexpr int64_t kLogitsBytes = 64 << 20;

namespace ops {

// out [T, D] (any float dtype) = table fp32 [V, D] rows of ids i32 [T].
void embedding(const Exec& exec, const Tensor& ids, const Tensor& table, const Tensor& out);

// d_table fp32 [V, D] is overwritten: per row the chain over a leaf's tokens in order, leaves along
// the tree. Ids outside [0, V) are another rank's.
void embedding_backward(const Exec& exec, const Tensor& ids, const Tensor& d_out,
                        const LeafTree& tree, const Tensor& d_table);

struct HeadLoss {
    Tensor x;                 // [T, D] final hidden states
    PackedWeight head;        // [V, D] PackKind::forward
    PackedWeight head_dgrad;  // undefined: loss only
    Tensor labels;            // i32 [T], kIgnoreLabel where there is none
    float scale =
        1;  // gradients are of scale · (sum of losses): 1 / (global number of labels) · loss weight
    // Of the vocabulary: the sum of exponentials is one for each, added along the tree of
    // kernels/k_cut.h. head_dgrad is cut into as many.
    int64_t chunks = 1;
    // Where ranks have equal parts of the vocabulary, head is the part from token `first` on, and
    // chunks are its own. gather: collective, the fp32 `own` of all ranks to `all`, [ranks][own].
    int ranks = 1;
    int64_t first = 0;
    std::function<void(const Tensor& own, const Tensor& all)> gather = {};
    Tensor loss;  // out fp32 [T] negative log-likelihood in nats, 0 where ignored
    Tensor dx;    // out [T, D], or undefined; of the part, in fp32 unrounded
    Tensor dw;    // out fp32 [V, D] along tree, or undefined
    LeafTree tree;
    int64_t rows = 0;  // whose logits exist at a time, a multiple of 32; 0: head_loss_rows
};
// Rows whose logits exist at a time, of a product with `rows` rows.
int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute);
// Logits are made in chunks and never stored as [T, V] fp32. Log-sum-exp and loss in fp32; in bf16
// the logits' gradient is rounded to bf16 before the two products.
void head_loss(const Exec& exec, const HeadLoss& io);

}  // namespace ops
}  // namespace fucina
