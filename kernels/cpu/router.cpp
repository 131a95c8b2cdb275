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

// Chooses experts; holds the scratch of one thread.
class Chooser {
  public:
    explicit Chooser(const RouterConfig& config)
        : config_(config), two_(2), groups_(config.topk_groups), experts_(config.top_k) {}

    // choice [experts] -> ids, ascending; valid until the next call.
    const std::vector<int32_t>& operator()(const float* choice) {
        const auto size = static_cast<int32_t>(config_.experts / config_.groups);
        open_.clear();
        groups_.clear();
        for (int32_t g = 0; g < config_.groups; ++g) {
            if (config_.groups > config_.topk_groups)
                groups_.offer(g, score(choice, g, size));
            else
                open_.push_back(g);
        }
        for (size_t i = 0; i < groups_.size(); ++i) open_.push_back(groups_.id(i));
        std::sort(open_.begin(), open_.end());
        experts_.clear();
        for (const int32_t g : open_)
            for (int32_t e = g * size; e < (g + 1) * size; ++e) experts_.offer(e, choice[e]);
        chosen_.clear();
        for (size_t i = 0; i < experts_.size(); ++i) chosen_.push_back(experts_.id(i));
        std::sort(chosen_.begin(), chosen_.end());
        return chosen_;
    }

  private:
    // Sum of a group's two largest values.
    float score(const float* choice, int32_t group, int32_t size) {
        two_.clear();
        for (int32_t e = group * size; e < (group + 1) * size; ++e) two_.offer(e, choice[e]);
        float sum = 0;
        for (size_t i = 0; i < two_.size(); ++i) sum += two_.value(i);
        return sum;
    }

    const RouterConfig& config_;
    Best two_, groups_, experts_;
    std::vector<int32_t> open_, chosen_;
};

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
    constexpr int64_t kTokens = 32;  // that share scratch
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const auto one_range = [&](int64_t begin, int64_t end) {
        Chooser choose(config);
        std::vector<float> biased(static_cast<size_t>(config.experts));
        for (int64_t t = begin; t < end; ++t) {
            float* score = scores.row<float>(t);
            kernels.sigmoid(logits.row<float>(t), score, config.experts);
            if (bias.defined())
                for (size_t e = 0; e < biased.size(); ++e)
                    biased[e] = score[e] + bias.data<float>()[e];
            const std::vector<int32_t>& chosen = choose(bias.defined() ? biased.data() : score);
            float sum = kTiny;
            for (const int32_t e : chosen) sum += score[e];
            for (size_t j = 0; j < chosen.size(); ++j) {
                const float s = score[chosen[j]];
                indices.row<int32_t>(t)[j] = chosen[j];
                weights.row<float>(t)[j] = (config.normalize ? s / sum : s) * config.scale;
            }
        }
    };
    parallel_ranges(logits.rows(), kTokens, 8 * kTokens * config.experts, one_range);
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
