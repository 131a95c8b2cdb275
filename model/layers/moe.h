// Moe: mixture of experts with DeepSeek-V3's router (arXiv 2412.19437 §2.1.2): shared experts that
// every token passes, and top-k of the routed ones. Route, dispatch, experts and combine are calls
// of their own, each with its backward, so that a schedule can put other work between them.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "kernels/moe.h"
#include "model/layers/mlp.h"
#include "model/layers/routed_experts.h"
#include "model/model_spec.h"

namespace fucina {

class Moe {
  public:
    // In and Out are stream rows (model/pass_context.h); a rank routes its own rows.
    struct In {
        Tensor x;         // [T, D], normed
        Tensor residual;  // [T, D], added to the output before it is rounded
    };
    struct Out {
        Tensor y;  // [T, D]
    };
    struct Route {
        Tensor scores;   // fp32 [T, E]
        Tensor indices;  // i32 [T, k]
        Tensor weights;  // fp32 [T, k]
        std::shared_ptr<const TokenMap> map;
    };
    // What recomputation does not do again.
    struct Kept {
        Route route;
        RoutedExperts::Received received;
    };
    struct Saved {
        Tensor x;  // [T, D] stream
        Route route;
        RoutedExperts::Saved experts;
        Mlp::Saved shared;
        void drop_input() { x = shared.x = Tensor(); }
        void restore_input(const Tensor& input) { x = shared.x = input; }
    };

    Moe(ParameterSet& set, const std::string& prefix, const ModelSpec& spec, int64_t report_index);

    // Where saved holds what was kept of an earlier forward of the same input, only what backward
    // needs is computed, and nothing is returned.
    Out forward(const PassContext& context, const In& in, Saved& saved) const;
    // The gradient of In::residual is grad.y itself and is not returned.
    In backward(const PassContext& context, const Out& grad, Saved& saved) const;

    Parameter* bias() const { return bias_; }
    int64_t report_index() const { return report_index_; }

  private:
    // x: own rows.
    void route(const PassContext& context, const Tensor& x, Saved& saved) const;
    Tensor room(const PassContext& context, const Tensor& indices) const;
    Tensor combine(const PassContext& context, const Tensor& slots, const Saved& saved,
                   const Tensor& shared, const Tensor& residual) const;
    Tensor route_backward(const PassContext& context, const Tensor& x, const Tensor& d_weights,
                          Saved& saved) const;
    Tensor report_balance(const PassContext& context, const Route& route) const;

    MoeSpec spec_;
    int64_t report_index_;  // of this layer in MoeReport
    Parameter* router_;     // [E, D], fp32 in every precision
    Parameter* bias_;       // [E]
    RoutedExperts experts_;
    std::optional<Mlp> shared_;
};

}  // namespace fucina
