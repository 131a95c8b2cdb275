// Head: final norm, vocabulary projection and cross-entropy. The projection may be the embedding's
// table (tied) and is shared with MTP, which has a norm of its own. Tensor-parallel ranks have
// parts of the vocabulary. Hidden states are stream rows (model/pass_context.h), losses of all
// rows.
#pragma once
#include <string>

#include "kernels/embedding.h"
#include "model/layers/norm.h"
#include "model/model_spec.h"

namespace fucina {

class Head {
  public:
    struct In {
        Tensor x;  // [T, D] residual stream
    };
    struct Saved {
        Tensor x, rstd;  // [T, D], fp32 [T]
        Tensor normed;   // [T, D]
    };
    struct Loss {
        Tensor labels;     // i32 [T]
        double scale = 0;  // gradients are of scale · sum of losses
        Tensor loss;       // out fp32 [T], nats
    };

    Head(ParameterSet& set, const std::string& norm_name, const ModelSpec& spec)
        : norm_(set, norm_name, spec.hidden_size, spec.norm_eps) {}
    void use(Parameter* projection, size_t grad_use) {
        projection_ = projection;
        use_ = grad_use;
    }

    // The final hidden states, which are also what MTP starts from.
    Tensor forward(const PassContext& context, const In& in, Saved& saved) const;
    Tensor logits(const PassContext& context, const Tensor& normed) const;  // fp32 [T, V]
    void loss(const PassContext& context, const Tensor& normed, Loss& io) const;
    // Loss and, in the same passes over the logits, its gradients. more: added to the gradient of
    // the final hidden states, or undefined.
    In loss_backward(const PassContext& context, Loss& io, const Tensor& more, Saved& saved) const;

  private:
    ops::HeadLoss head_loss(const PassContext& context) const;

    Norm norm_;
    Parameter* projection_ = nullptr;  // [V, D], cut by V
    size_t use_ = 0;
};

}  // namespace fucina
