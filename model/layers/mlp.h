// Mlp: SwiGLU feed-forward, y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ; a dense layer's, and the shared
// experts'.
#pragma once
#include <string>

#include "model/parameter_set.h"
#include "model/pass_context.h"

namespace fucina {

class Mlp {
  public:
    struct In {
        Tensor x;  // [T, D]
    };
    struct Out {
        Tensor y;  // [T, D]
    };
    struct Saved {
        Tensor x;        // [T, D]
        Tensor gate_up;  // [T, 2F]
        void drop_input() { x = Tensor(); }
        void restore_input(const Tensor& input) { x = input; }
    };

    Mlp(ParameterSet& set, const std::string& prefix, int64_t hidden, int64_t width);

    Out forward(const PassContext& context, const In& in, Saved& saved) const;
    In backward(const PassContext& context, const Out& grad, Saved& saved) const;

  private:
    int64_t width_;
    Parameter* gate_up_;  // [2, F, D]
    Parameter* down_;     // [D, F]
};

}  // namespace fucina
