// Parameter: one trained (or carried) tensor of the model, with its gradient.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/arena.h"
#include "kernels/packed_copies.h"
#include "kernels/tensor.h"
#include "parallel/layout.h"

namespace fucina {

struct Parameter {
    std::string name;  // global name, the same under every layout: "layers.3.mlp.experts.gate_up"
    std::vector<int64_t> shape;  // of the whole; a fused [gate; up] has a dimension of two for it
    Layout layout;
    Exec exec = kHost;  // where its tensors lie
    Box box;            // what this rank computes with
    Tensor value;       // fp32 master weights of the box, row-major; see shard
    // With ZeRO 3 the master weights are these, of the rank's owned_box, and value and the packed
    // copies are there only while BlockWeights has them gathered.
    Box shard_box;
    Tensor shard;
    bool reads_value = false;  // a pass reads value itself, beside or instead of packed copies
    bool trained =
        true;  // false: a buffer (router bias) or a frozen weight; no gradient, no moments
    // Of a weight of matrix products; remade after every change of value.
    std::optional<PackedCopies> packed;

    // One gradient a use (a tied or MTP-shared weight has several): fp32 like value. A backward
    // pass overwrites grads[use]; the uses are added in order only after the tree over grains and
    // ranks, so that no layout changes the sum.
    std::vector<Tensor> grads{1};
    // Of each use, whether it is on this rank; empty: all are. Two stages of a pipeline may hold
    // the parameter, each for uses of its own.
    std::vector<bool> made_here;
    bool makes(size_t use) const { return made_here.empty() || made_here[use]; }

    // What training changes and checkpoints hold.
    const Tensor& master() const { return shard.defined() ? shard : value; }
    const Box& master_box() const { return shard.defined() ? shard_box : box; }
    // AdamW decays every parameter with at least two dimensions.
    bool decayed() const { return trained && master().rank() >= 2; }
    Tensor& grad(size_t use = 0) {
        if (!grads[use].defined()) {
            MemoryPurpose purpose("gradients");
            grads[use] = value.defined() ? exec.empty(value.shape(), DType::f32)
                                         : exec.empty(box.extent, DType::f32);
        }
        return grads[use];
    }
    // Of the parameter's shape, as products take it.
    Tensor as_matrix(const Tensor& x) const { return packed ? packed->as_matrix(x) : x; }
};

// Hears of a use's gradient as soon as a pass has it whole, node by node where it has several, and
// may take the tensor away.
using GradDone = std::function<void(Parameter& parameter, size_t use, size_t node)>;

}  // namespace fucina
