// DecoderBlock: pre-norm residual block, x + attention(norm(x)), then + feed-forward(norm(.)),
// dense or MoE. The residual stream is in the activation dtype and rounded once after each of the
// two.
#pragma once
#include <optional>
#include <string>
#include <variant>

#include "model/layers/attention_mla.h"
#include "model/layers/moe.h"

namespace fucina {

class DecoderBlock {
  public:
    struct In {
        Tensor x;  // [T, D]
    };
    using Out = In;
    struct Saved {
        Tensor x, x_rstd;      // [T, D] input of the attention norm
        Tensor mid, mid_rstd;  // [T, D] input of the feed-forward norm
        AttentionMla::Saved attention;
        std::variant<Mlp::Saved, Moe::Saved> feed_forward;
    };

    // What recomputation of the block does not do again: of a MoE block whose experts are on
    // several ranks.
    using Kept = std::optional<Moe::Kept>;
    Kept kept(Saved& saved) const;
    void restore(Kept kept, Saved& saved) const;

    // report_index: of a MoE block in MoeReport; -1: the block is dense.
    DecoderBlock(ParameterSet& set, const std::string& prefix, const ModelSpec& spec,
                 int64_t report_index);

    Out forward(const PassContext& context, const In& in, Saved& saved) const;
    In backward(const PassContext& context, const Out& grad, Saved& saved) const;
    // As forward, for tokens that follow those in the caches, of which this is the layer.
    Out extend(const PassContext& context, const In& in, std::span<const Continuation> texts,
               size_t layer) const;

    const AttentionMla& attention() const { return attention_; }
    const Moe* moe() const { return std::get_if<Moe>(&feed_forward_); }

  private:
    void drop(RecomputeKind kind, Saved& saved) const;
    Out finish(const PassContext& context, const Tensor& attended, Saved& saved) const;

    Norm attention_norm_;
    AttentionMla attention_;
    Norm mlp_norm_;
    std::variant<Mlp, Moe> feed_forward_;
};

}  // namespace fucina
