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

// Chooses experts; holds the scratch of one thread. NaN may be chosen wrongly, but never too often.
class Chooser {
  public:
    Chooser(const RouterConfig& config, const RowKernels& kernels)
        : config_(config),
          kernels_(kernels),
          values_(static_cast<size_t>(config.experts)),
          ids_(values_.size()),
          ranks_(values_.size()) {}

    // choice [experts] -> chosen [top_k] ids, ascending.
    void operator()(const float* choice, int32_t* chosen) {
        const int64_t size = config_.experts / config_.groups;
        int64_t open = 0;  // experts of the groups that are kept, in ascending order
        const auto keep = [&](int64_t group) {
            for (int64_t e = group * size; e < (group + 1) * size; ++e, ++open) {
                values_[static_cast<size_t>(open)] = choice[e];
                ids_[static_cast<size_t>(open)] = static_cast<int32_t>(e);
            }
        };
        if (config_.groups == config_.topk_groups) {
            for (int64_t g = 0; g < config_.groups; ++g) keep(g);
        } else {
            for (int64_t g = 0; g < config_.groups; ++g)
                values_[static_cast<size_t>(g)] = two_largest(choice + g * size, size);
            kernels_.ranks(values_.data(), config_.groups, ranks_.data());
            for (int64_t g = 0; g < config_.groups; ++g)
                if (ranks_[static_cast<size_t>(g)] < config_.topk_groups) keep(g);
        }
        kernels_.ranks(values_.data(), open, ranks_.data());
        int64_t found = 0;
        for (size_t i = 0; found < config_.top_k; ++i)
            if (ranks_[i] < config_.top_k) chosen[found++] = ids_[i];
    }

  private:
    // Sum of the two largest; of the only one, if there is one.
    static float two_largest(const float* x, int64_t count) {
        float first = x[0], second = -std::numeric_limits<float>::infinity();
        for (int64_t i = 1; i < count; ++i) {
            const float smaller = first < x[i] ? first : x[i];
            second = second < smaller ? smaller : second;
            first = first < x[i] ? x[i] : first;
        }
        return count == 1 ? first : first + second;
    }

    const RouterConfig& config_;
    const RowKernels& kernels_;
    std::vector<float> values_;
    std::vector<int32_t> ids_, ranks_;
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
        Chooser choose(config, kernels);
        std::vector<float> biased(static_cast<size_t>(config.experts));
        for (int64_t t = begin; t < end; ++t) {
            float* score = scores.row<float>(t);
            kernels.sigmoid(logits.row<float>(t), score, config.experts);
            if (bias.defined())
                for (size_t e = 0; e < biased.size(); ++e)
                    biased[e] = score[e] + bias.data<float>()[e];
            int32_t* chosen = indices.row<int32_t>(t);
            choose(bias.defined() ? biased.data() : score, chosen);
            float sum = kTiny;
            for (int64_t j = 0; j < config.top_k; ++j) sum += score[chosen[j]];
            for (int64_t j = 0; j < config.top_k; ++j) {
                const float s = score[chosen[j]];
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

// Shares of tokens add up in integers, so that no cut of a sequence shows.
constexpr double kShareUnit = 0x1p40;

ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      const Tensor& sequence_offsets, float scale, const Tensor& d_scores) {
    const int64_t* const offsets = sequence_offsets.data<int64_t>();
    const int64_t sequences = sequence_offsets.rows() - 1;
    const auto experts = static_cast<size_t>(config.experts);
    std::vector<double> losses(static_cast<size_t>(std::max<int64_t>(sequences, 0)), 0.0);
    parallel_for(
        sequences, 4 * scores.size() / std::max<int64_t>(sequences, 1), [&](int64_t sequence) {
            const int64_t begin = offsets[sequence], end = offsets[sequence + 1];
            const auto tokens = static_cast<double>(end - begin);
            std::vector<int64_t> count(experts, 0);
            std::vector<int64_t> share(experts, 0);
            std::vector<double> frequency(experts, 0.0), inverse;
            for (int64_t t = begin; t < end; ++t) {
                const float* s = scores.row<float>(t);
                inverse.push_back(1.0 / row_sum(s, config.experts));
                for (size_t e = 0; e < experts; ++e)
                    share[e] += std::llrint(s[e] * inverse.back() * kShareUnit);
                for (int64_t j = 0; j < config.top_k; ++j)
                    ++count[static_cast<size_t>(indices.row<int32_t>(t)[j])];
            }
            double& loss = losses[static_cast<size_t>(sequence)];
            for (size_t e = 0; e < experts && begin < end; ++e) {
                frequency[e] = static_cast<double>(count[e] * config.experts) /
                               (static_cast<double>(config.top_k) * tokens);
                loss += frequency[e] * static_cast<double>(share[e]) / (kShareUnit * tokens);
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
    ExactSum total;
    for (const double loss : losses) total.add(loss);
    return total;
}

void update_router_bias(std::span<const int64_t> loads, float rate, const Tensor& bias) {
    float* const values = bias.data<float>();
    int64_t total = 0;
    for (const int64_t load : loads) total += load;
    for (size_t e = 0; e < loads.size(); ++e) {
        const int64_t load = loads[e] * std::ssize(loads);  // against total / E, in integers
        if (load < total) values[e] += rate;
        if (load > total) values[e] -= rate;
    }
}

}  // namespace fucina::cpu
