#include "model/generation.h"

#include <algorithm>
#include <cmath>
#include <list>
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

// Texts that are continued together, a token each at a time.
class TextBatch {
  public:
    TextBatch(Model& model, std::span<const std::vector<int32_t>> prompts,
              const GenerationOptions& options,
              const std::function<void(size_t, int32_t)>& on_token)
        : model_(model),
          prompts_(prompts),
          options_(options),
          on_token_(on_token),
          made_(prompts.size()) {}

    int64_t size() const { return std::ssize(texts_); }
    const std::vector<std::vector<int32_t>>& made() const { return made_; }

    void begin(size_t number) {
        const std::vector<int32_t>& prompt = prompts_[number];
        FUCINA_CHECK(!prompt.empty(), "generation needs a prompt");
        check_positions(std::ssize(prompt), model_.spec(), "the prompt", ExitCode::usage);
        if (room(number) == 0) return;
        Text text{number, model_.make_cache(std::ssize(prompt) + room(number))};
        const Tensor logits = model_.extend(prompt, text.cache);
        if (choose(number, logits)) texts_.push_back(std::move(text));
    }
    void go_on() {
        std::vector<Continuation> next;
        for (Text& text : texts_) next.push_back({{&made_[text.number].back(), 1}, &text.cache});
        const Tensor logits = model_.extend(next);
        int64_t row = 0;
        texts_.remove_if([&](const Text& text) {
            const int64_t own = row++;
            return !choose(text.number, logits.slice(own, own + 1));
        });
    }

  private:
    struct Text {
        size_t number;
        LatentCache cache;
    };
    // New tokens that the prompt of that number may have.
    int64_t room(size_t number) const {
        const int64_t left = model_.spec().max_positions - std::ssize(prompts_[number]);
        return std::min(options_.max_tokens, left);
    }
    // A token from logits [1, V]; whether the text goes on.
    bool choose(size_t number, const Tensor& logits) {
        std::vector<int32_t>& tokens = made_[number];
        const HostValues<float> values(model_.options().exec, logits);
        const int32_t next =
            choose_token(values.span(), options_.sampling, static_cast<uint32_t>(tokens.size()));
        if (std::ranges::find(options_.stop_ids, next) != options_.stop_ids.end()) return false;
        tokens.push_back(next);
        if (on_token_) on_token_(number, next);
        return std::ssize(tokens) < room(number);
    }

    Model& model_;
    const std::span<const std::vector<int32_t>> prompts_;
    const GenerationOptions& options_;
    const std::function<void(size_t, int32_t)>& on_token_;
    std::vector<std::vector<int32_t>> made_;
    std::list<Text> texts_;
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

std::vector<std::vector<int32_t>> generate_all(
    Model& model, std::span<const std::vector<int32_t>> prompts, int64_t together,
    const GenerationOptions& options,
    const std::function<void(size_t prompt, int32_t token)>& on_token) {
    TextBatch batch(model, prompts, options, on_token);
    for (size_t begun = 0; begun < prompts.size() || batch.size() > 0;) {
        while (begun < prompts.size() && batch.size() < together) batch.begin(begun++);
        if (batch.size() > 0) batch.go_on();
    }
    return batch.made();
}

std::vector<int32_t> generate(Model& model, std::span<const int32_t> prompt,
                              const GenerationOptions& options,
                              const std::function<void(int32_t)>& on_token) {
    const std::vector<int32_t> alone(prompt.begin(), prompt.end());
    const auto hears = [&](size_t, int32_t token) {
        if (on_token) on_token(token);
    };
    return generate_all(model, {&alone, 1}, 1, options, hears).front();
}

}  // namespace fucina
