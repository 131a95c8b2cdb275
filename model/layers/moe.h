// Moe: mixture of experts with DeepSeek-V3's router (arXiv 2412.19437 §2.1.2): shared experts that
// every token passes, and top-k of the routed ones. Route, dispatch, experts and combine are calls
// of their own, each with its backward, so that a schedule can put other work between them.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "kernels/moe.h"
#include "model/layers/mlp.h"
#include "model/model_spec.h"
#include "parallel/token_dispatcher.h"

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
    // What other ranks sent for the experts here: [rows received, D], and the way they came.
    struct Received {
        std::shared_ptr<const TokenExchange> exchange;  // null where all experts are here
        Tensor x;
    };
    // What recomputation does not do again.
    struct Kept {
        Route route;
        Received received;
    };
    struct Saved {
        Tensor x;  // [T, D] stream
        Route route;
        Received received;
        Tensor gate_up;  // [slots of the experts here, 2F]
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
    void route(const PassContext& context, Saved& saved) const;
    TokenDispatcher::Move send(const PassContext& context, Saved& saved) const;
    // Of rows x taken by map, [slots, D] in slot order.
    Tensor experts(const PassContext& context, const Tensor& x, const TokenMap& map,
                   Tensor& gate_up) const;
    Tensor combine(const PassContext& context, const Tensor& slots, const Saved& saved,
                   const Tensor& shared, const Tensor& residual) const;
    // d_weights fp32 [T, k] is filled.
    struct ExpertsBackward {
        Tensor dy, x;  // rows, taken by map
        const TokenMap& map;
        std::span<const float> weights;     // [slots]
        std::span<float> d_weights;         // out [slots]
        std::shared_ptr<const void> holds;  // the map
        // That have gradients of their own; null: one sum of all.
        std::shared_ptr<const std::vector<SlotPart>> parts;
    };
    Tensor experts_backward(const PassContext& context, const ExpertsBackward& io,
                            Tensor& gate_up) const;  // [slots, D] in slot order
    Tensor experts_here_backward(const PassContext& context, const Tensor& dy,
                                 const Tensor& d_weights, Saved& saved) const;
    TokenDispatcher::Move experts_there_backward(const PassContext& context, const Tensor& dy,
                                                 const Tensor& d_weights, Saved& saved) const;
    Tensor route_backward(const PassContext& context, const Tensor& d_weights, Saved& saved) const;
    Tensor report_balance(const PassContext& context, const Route& route) const;

    MoeSpec spec_;
    int64_t report_index_;  // of this layer in MoeReport
    Parameter* router_;     // [E, D], fp32 in every precision
    Parameter* bias_;       // [E]
    Parameter* gate_up_;    // [E, 2, F, D], of them those here
    Parameter* down_;       // [E, D, F]
    std::optional<Mlp> shared_;
};

}  // namespace fucina
