// RoutedExperts: the experts of a mixture-of-experts layer that its router chooses among. Where
// ranks share them out, rows of tokens go to the ranks of their experts and back
// (parallel/token_dispatcher.h), in waves where one rank gets far more than its share; of waves
// after the first nothing is kept, and backward exchanges and computes them again.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/moe.h"
#include "model/model_spec.h"
#include "model/parameter_set.h"
#include "model/pass_context.h"
#include "parallel/token_dispatcher.h"

namespace fucina {

class RoutedExperts {
  public:
    // What other ranks sent for the experts here, and the way it came; empty where all experts are
    // here. Recomputation does not do it again.
    struct Received {
        std::shared_ptr<const TokenExchanges> waves;
        Tensor x;  // [rows of the first wave, D]
    };
    struct Saved {
        Received received;
        Tensor gate_up;  // [slots of the experts here, 2F], of the first wave
    };
    // Tokens, in the order of which the rows of x and of gradients are.
    using Map = std::shared_ptr<const TokenMap>;
    // Rows in slot order, [T*k, D], that may still be on their way.
    class Slots {
      public:
        Slots(Tensor rows) : rows_(std::move(rows)) {}
        Slots(TokenDispatcher::Move move) : move_(std::move(move)) {}
        Tensor finish() { return move_ ? move_->finish() : std::move(rows_); }  // once

      private:
        Tensor rows_;
        std::optional<TokenDispatcher::Move> move_;
    };

    RoutedExperts(ParameterSet& set, const std::string& prefix, const ModelSpec& spec);

    // Where ranks share the experts out: rows of x [T, D] leave for them. To be called before
    // forward, but not where saved has what was received.
    std::optional<TokenDispatcher::Move> send(const PassContext& context, const Tensor& x,
                                              const Map& map, Saved& saved) const;
    // The experts' outputs in slot order, [T*k, D]. sent: what send() gave. Where ranks share the
    // experts out and nothing was sent, only what backward needs is computed, and nothing returned.
    Tensor forward(const PassContext& context, const Tensor& x, const Map& map,
                   std::optional<TokenDispatcher::Move> sent, Saved& saved) const;
    struct Backward {
        Tensor dy, x;      // [T, D]
        Tensor weights;    // fp32 [T, k]
        Tensor d_weights;  // fp32 [T, k], filled
        Map map;
    };
    // The gradient of the rows of x, in slot order. Saved is used up.
    Slots backward(const PassContext& context, const Backward& io, Saved& saved) const;

  private:
    // The slots of the experts here in one wave, and what there is of each of their rows.
    struct Rows {
        Map map;
        // Those that have gradients of their own; null: one sum of all.
        std::shared_ptr<const std::vector<SlotPart>> parts;
        WeightGradQueue::Rows experts;
        Tensor dy, x;      // taken by map
        Tensor weights;    // fp32 [slots, 1]
        Tensor d_weights;  // out fp32 [slots, 1]
    };
    Tensor experts(const PassContext& context, const Tensor& x, const TokenMap& map,
                   Tensor* gate_up) const;  // [slots, D]; gate_up: kept there, if not null
    Tensor experts_backward(const PassContext& context, const Rows& rows, Tensor& gate_up) const;
    Tensor here_backward(const PassContext& context, const Backward& io, Saved& saved) const;
    TokenDispatcher::Move wave_backward(const PassContext& context, const Backward& io,
                                        const std::shared_ptr<const TokenExchanges>& waves,
                                        size_t number, Saved& saved) const;

    int64_t width_;       // F
    Parameter* gate_up_;  // [E, 2, F, D], of them those here
    Parameter* down_;     // [E, D, F]
};

}  // namespace fucina
