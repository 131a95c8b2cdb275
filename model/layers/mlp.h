// Mlp: SwiGLU feed-forward, y = (silu(x Wgᵀ) · x Wuᵀ) Wdᵀ; a dense layer's, and the shared
// experts'.
#pragma once
#include <string>

#include "model/parameter_set.h"
#include "model/pass_context.h"

namespace fucina {

class Mlp {
  public:
    // What goes in is stream rows, what comes out own rows (model/pass_context.h).
    struct In {
        Tensor x;  // [T, D]
    };
    struct Out {
        Tensor y;  // [T, D]
    };
    struct Saved {
        Tensor x;        // [T, D] stream
        Tensor gate_up;  // [T, 2F] whole, of the columns here
        void drop_input() { x = Tensor(); }
        void restore_input(const Tensor& input) { x = input; }
    };

    Mlp(ParameterSet& set, const std::string& prefix, int64_t hidden, int64_t width);

    Out forward(const PassContext& context, const In& in, Saved& saved) const;
    In backward(const PassContext& context, const Out& grad, Saved& saved) const;

  private:
    int64_t width_;       // of F, what is here
    Parameter* gate_up_;  // [2, F, D], cut by F
    Parameter* down_;     // [D, F], cut by F
};

}  // namespace fucina
