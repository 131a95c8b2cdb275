// The router and its balance loss on the CPU: tokens, or sequences, in parallel.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr float kTiny = 1e-20f;  // keeps the normalising sum from zero, as published

// The best `most` of the values offered in ascending order of id, best first. An earlier id wins a
// tie. NaN loses against what is already there; as many ids as were offered are always kept.
class Best {
  public:
    explicit Best(int64_t most) : most_(static_cast<size_t>(most)) {}
    void clear() { kept_.clear(); }
    void offer(int32_t id, float value) {
        if (kept_.size() == most_) {
            if (!(value > kept_.back().value)) return;
            kept_.pop_back();
        }
        auto place = kept_.end();
        while (place != kept_.begin() && value > (place - 1)->value) --place;
        kept_.insert(place, {value, id});
    }
    size_t size() const { return kept_.size(); }
    int32_t id(size_t i) const { return kept_[i].id; }
    float value(size_t i) const { return kept_[i].value; }

  private:
    struct Entry {
        float value;
        int32_t id;
    };
    size_t most_;
    std::vector<Entry> kept_;
};

// Expert ids of the choice, ascending.
std::vector<int32_t> choose(const RouterConfig& config, const std::vector<float>& choice) {
    const auto size = static_cast<int32_t>(config.experts / config.groups);
    Best groups(config.topk_groups), experts(config.top_k);
    for (int32_t g = 0; g < config.groups && config.groups > config.topk_groups; ++g) {
        Best two(2);
        for (int32_t e = g * size; e < (g + 1) * size; ++e)
            two.offer(e, choice[static_cast<size_t>(e)]);
        float score = 0;
        for (size_t i = 0; i < two.size(); ++i) score += two.value(i);
        groups.offer(g, score);
    }
    std::vector<int32_t> open;
    for (size_t i = 0; i < groups.size(); ++i) open.push_back(groups.id(i));
    if (config.groups == config.topk_groups)
        for (int32_t g = 0; g < config.groups; ++g) open.push_back(g);
    std::sort(open.begin(), open.end());
    for (const int32_t g : open)
        for (int32_t e = g * size; e < (g + 1) * size; ++e)
            experts.offer(e, choice[static_cast<size_t>(e)]);
    std::vector<int32_t> chosen;
    for (size_t i = 0; i < experts.size(); ++i) chosen.push_back(experts.id(i));
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

// In eight interleaved chains, so that additions overlap.
double row_sum(const float* x, int64_t count) {
    double chain[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int64_t j = 0; j < 8; ++j) chain[j] += x[i + j];
    for (int64_t j = 0; i < count; ++i, ++j) chain[j] += x[i];
    return ((chain[0] + chain[1]) + (chain[2] + chain[3])) +
           ((chain[4] + chain[5]) + (chain[6] + chain[7]));
}

}  // namespace

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(logits.rows(), 8 * config.experts, [&](int64_t t) {
        float* score = scores.row<float>(t);
        kernels.sigmoid(logits.row<float>(t), score, config.experts);
        std::vector<float> choice(score, score + config.experts);
        if (bias.defined())
            for (size_t e = 0; e < choice.size(); ++e) choice[e] += bias.data<float>()[e];
        const std::vector<int32_t> chosen = choose(config, choice);
        float sum = kTiny;
        for (const int32_t e : chosen) sum += score[e];
        for (size_t j = 0; j < chosen.size(); ++j) {
            const float s = score[chosen[j]];
            indices.row<int32_t>(t)[j] = chosen[j];
            weights.row<float>(t)[j] = (config.normalize ? s / sum : s) * config.scale;
        }
    });
}

void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& d_weights, const Tensor& d_scores, const Tensor& d_logits) {
    parallel_for(scores.rows(), config.experts, [&](int64_t t) {
        const float* s = scores.row<float>(t);
        const int32_t* chosen = indices.row<int32_t>(t);
        const float* dw = d_weights.row<float>(t);
        float* ds = d_logits.row<float>(t);
        if (d_scores.defined())
            std::copy_n(d_scores.row<float>(t), config.experts, ds);
        else
            std::fill_n(ds, config.experts, 0.0f);
        float sum = kTiny, dot = 0;
        for (int64_t j = 0; j < config.top_k; ++j) {
            sum += s[chosen[j]];
            dot += dw[j] * s[chosen[j]];
        }
        for (int64_t j = 0; j < config.top_k; ++j)
            ds[chosen[j]] += config.scale * (config.normalize ? (dw[j] - dot / sum) / sum : dw[j]);
        for (int64_t e = 0; e < config.experts; ++e) ds[e] *= s[e] * (1.0f - s[e]);
    });
}

double balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                    std::span<const int64_t> sequence_offsets, float scale,
                    const Tensor& d_scores) {
    const auto sequences = static_cast<int64_t>(sequence_offsets.size()) - 1;
    const auto experts = static_cast<size_t>(config.experts);
    std::vector<double> losses(static_cast<size_t>(std::max<int64_t>(sequences, 0)), 0.0);
    parallel_for(
        sequences, 4 * scores.size() / std::max<int64_t>(sequences, 1), [&](int64_t sequence) {
            const int64_t begin = sequence_offsets[static_cast<size_t>(sequence)];
            const int64_t end = sequence_offsets[static_cast<size_t>(sequence) + 1];
            const auto tokens = static_cast<double>(end - begin);
            std::vector<int64_t> count(experts, 0);
            std::vector<double> share(experts, 0.0), frequency(experts, 0.0), inverse;
            for (int64_t t = begin; t < end; ++t) {
                const float* s = scores.row<float>(t);
                inverse.push_back(1.0 / row_sum(s, config.experts));
                for (size_t e = 0; e < experts; ++e) share[e] += s[e] * inverse.back();
                for (int64_t j = 0; j < config.top_k; ++j)
                    ++count[static_cast<size_t>(indices.row<int32_t>(t)[j])];
            }
            double& loss = losses[static_cast<size_t>(sequence)];
            for (size_t e = 0; e < experts && begin < end; ++e) {
                frequency[e] = static_cast<double>(count[e] * config.experts) /
                               (static_cast<double>(config.top_k) * tokens);
                loss += frequency[e] * share[e] / tokens;
            }
            for (int64_t t = begin; t < end && d_scores.defined(); ++t) {
                const float* s = scores.row<float>(t);
                const double inverse_sum = inverse[static_cast<size_t>(t - begin)];
                double mean = 0;
                for (size_t e = 0; e < experts; ++e) mean += frequency[e] * s[e];
                mean *= inverse_sum;
                const double factor = scale * inverse_sum / tokens;
                for (size_t e = 0; e < experts; ++e)
                    d_scores.row<float>(t)[e] = static_cast<float>(factor * (frequency[e] - mean));
            }
        });
    double total = 0;
    for (const double loss : losses) total += loss;
    return total;
}

}  // namespace fucina::cpu
