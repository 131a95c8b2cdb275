#include "model/generation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "kernels/philox.h"

namespace fucina {
namespace {

// Tokens in falling order of weight, the lowest id first among equals. A heap gives the few that
// are needed without sorting the others.
class FallingOrder {
  public:
    explicit FallingOrder(const std::vector<double>& weights)
        : weights_(weights), heap_(weights.size()) {
        std::iota(heap_.begin(), heap_.end(), 0);
        std::make_heap(heap_.begin(), heap_.end(), Behind{weights});
    }

    bool more() const { return !heap_.empty(); }
    const std::vector<int32_t>& taken() const { return taken_; }
    double next() {  // takes one; its weight
        std::pop_heap(heap_.begin(), heap_.end(), Behind{weights_});
        taken_.push_back(heap_.back());
        heap_.pop_back();
        return weights_[static_cast<size_t>(taken_.back())];
    }

  private:
    struct Behind {
        const std::vector<double>& weights;
        bool operator()(int32_t x, int32_t y) const {
            const double of_x = weights[static_cast<size_t>(x)];
            const double of_y = weights[static_cast<size_t>(y)];
            return of_x != of_y ? of_x < of_y : x > y;
        }
    };

    const std::vector<double>& weights_;
    std::vector<int32_t> heap_, taken_;
};

}  // namespace

int32_t choose_token(std::span<const float> logits, const Sampling& sampling, uint32_t step) {
    const auto bad = std::ranges::find_if_not(logits, [](float x) { return std::isfinite(x); });
    if (bad != logits.end())
        fail(ExitCode::non_finite, "generation: the logit of token ", bad - logits.begin(),
             " is NaN or infinite after ", step,
             " new tokens; the model overflows, or its training diverged");
    const auto best = std::max_element(logits.begin(), logits.end());
    if (sampling.temperature <= 0) return static_cast<int32_t>(best - logits.begin());

    std::vector<double> weights(logits.size());
    for (size_t i = 0; i < logits.size(); ++i)
        weights[i] = std::exp((double{logits[i]} - double{*best}) / sampling.temperature);
    const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
    FallingOrder order(weights);
    double kept = sampling.top_p < 1 ? 0 : all;
    while (sampling.top_p < 1 && order.more() &&
           (order.taken().empty() || kept < sampling.top_p * all))
        kept += order.next();

    const PhiloxBlock bits =
        random_block({.seed = sampling.seed, .purpose = RandomPurpose::sampling, .step = step}, 0);
    double left = to_unit_interval(bits[0]) * kept;
    for (const int32_t token : order.taken()) {
        left -= weights[static_cast<size_t>(token)];
        if (left < 0) return token;
    }
    while (sampling.top_p >= 1 && order.more() && left >= 0) left -= order.next();
    return order.taken().back();
}

void check_positions(int64_t tokens, const ModelSpec& spec, const std::string& what,
                     ExitCode code) {
    if (tokens <= spec.max_positions) return;
    fail(code, what, ": ", tokens, " tokens, but the model has positions for ", spec.max_positions,
         "; shorten it, or raise max_position_embeddings if the model is made for more");
}

std::vector<int32_t> generate(Model& model, std::span<const int32_t> prompt,
                              const GenerationOptions& options,
                              const std::function<void(int32_t)>& on_token) {
    FUCINA_CHECK(!prompt.empty(), "generation needs a prompt");
    const auto length = static_cast<int64_t>(prompt.size());
    check_positions(length, model.spec(), "the prompt", ExitCode::usage);
    const int64_t max_tokens = std::min(options.max_tokens, model.spec().max_positions - length);
    LatentCache cache = model.make_cache(length + max_tokens);
    std::vector<int32_t> tokens;
    Tensor logits = model.extend(prompt, cache);
    while (static_cast<int64_t>(tokens.size()) < max_tokens) {
        const int32_t next =
            choose_token({logits.data<float>(), static_cast<size_t>(logits.size())},
                         options.sampling, static_cast<uint32_t>(tokens.size()));
        if (std::ranges::find(options.stop_ids, next) != options.stop_ids.end()) break;
        tokens.push_back(next);
        on_token(next);
        if (static_cast<int64_t>(tokens.size()) < max_tokens)
            logits = model.extend({&tokens.back(), 1}, cache);
    }
    return tokens;
}

}  // namespace fucina
