#include "model/generation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "kernels/philox.h"

namespace fucina {

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
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    // stable: the lowest id first among equals
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
    });
    const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
    double kept = 0;
    size_t count = 0;
    while (count < order.size() && (count == 0 || kept < sampling.top_p * all))
        kept += weights[static_cast<size_t>(order[count++])];

    const PhiloxBlock bits =
        random_block({.seed = sampling.seed, .purpose = RandomPurpose::sampling, .step = step}, 0);
    double left = to_unit_interval(bits[0]) * kept;
    for (size_t i = 0; i < count; ++i) {
        left -= weights[static_cast<size_t>(order[i])];
        if (left < 0) return order[i];
    }
    return order[count - 1];
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
