// Reference router, balance loss and token movement.
#include "kernels/moe.h"

#include <numeric>

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

// The index of the largest unmasked value, the lowest index among equals; -1 if all are masked.
int64_t largest(const std::vector<float>& values, const std::vector<bool>& masked) {
    int64_t best = -1;
    for (size_t i = 0; i < values.size(); ++i)
        if (!masked[i] && (best < 0 || values[i] > values[static_cast<size_t>(best)]))
            best = static_cast<int64_t>(i);
    return best;
}

// Sum of the two largest choice values of a group.
float group_score(const std::vector<float>& choice, int64_t group, int64_t size) {
    std::vector<float> values(choice.begin() + group * size, choice.begin() + (group + 1) * size);
    std::vector<bool> taken(values.size(), false);
    float score = 0;
    for (int64_t i = 0; i < std::min<int64_t>(2, size); ++i) {
        const auto best = static_cast<size_t>(largest(values, taken));
        taken[best] = true;
        score += values[best];
    }
    return score;
}

// The top_k experts of the best groups, in ascending order.
std::vector<int32_t> choose(const RouterConfig& config, const std::vector<float>& choice) {
    const int64_t size = config.experts / config.groups;
    std::vector<float> scores;
    for (int64_t g = 0; g < config.groups; ++g) scores.push_back(group_score(choice, g, size));
    std::vector<bool> closed(scores.size(), false), masked(choice.size(), true);
    for (int64_t i = 0; i < config.topk_groups; ++i) {
        const int64_t group = largest(scores, closed);
        closed[static_cast<size_t>(group)] = true;
        std::fill_n(masked.begin() + group * size, size, false);
    }
    std::vector<int32_t> chosen;
    for (int64_t i = 0; i < config.top_k; ++i) {
        const int64_t expert = largest(choice, masked);
        masked[static_cast<size_t>(expert)] = true;
        chosen.push_back(static_cast<int32_t>(expert));
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

constexpr float kTiny = 1e-20f;  // keeps the normalising sum from zero, as published

}  // namespace

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    check_router(config);
    parallel_for(logits.rows(), 16 * config.experts, [&](int64_t t) {
        std::vector<float> score = load_row(logits, t);
        for (float& value : score) value = 1.0f / (1.0f + std::exp(-value));
        std::vector<float> choice = score;
        if (bias.defined())
            for (size_t e = 0; e < choice.size(); ++e) choice[e] += bias.data<float>()[e];
        const std::vector<int32_t> chosen = choose(config, choice);
        float sum = kTiny;
        for (const int32_t e : chosen) sum += score[static_cast<size_t>(e)];
        for (size_t j = 0; j < chosen.size(); ++j) {
            const float s = score[static_cast<size_t>(chosen[j])];
            indices.row<int32_t>(t)[j] = chosen[j];
            weights.row<float>(t)[j] = (config.normalize ? s / sum : s) * config.scale;
        }
        store_row(scores, t, score);
    });
}

void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits) {
    parallel_for(scores.rows(), config.experts, [&](int64_t t) {
        const float* s = scores.row<float>(t);
        const int32_t* chosen = indices.row<int32_t>(t);
        const float* dw = d_weights.row<float>(t);
        std::vector<float> ds(static_cast<size_t>(config.experts), 0.0f);
        if (d_scores.defined()) ds = load_row(d_scores, t);
        float sum = kTiny, dot = 0;
        for (int64_t j = 0; j < config.top_k; ++j) {
            sum += s[chosen[j]];
            dot += dw[j] * s[chosen[j]];
        }
        for (int64_t j = 0; j < config.top_k; ++j)
            ds[static_cast<size_t>(chosen[j])] +=
                config.scale * (config.normalize ? (dw[j] - dot / sum) / sum : dw[j]);
        for (size_t e = 0; e < ds.size(); ++e) ds[e] *= s[e] * (1.0f - s[e]);
        store_row(d_logits, t, ds);
    });
}

ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      const Tensor& sequence_offsets, float scale, const Tensor& d_scores) {
    const auto experts = static_cast<size_t>(config.experts);
    ExactSum total;
    const int64_t* const offsets = sequence_offsets.data<int64_t>();
    for (int64_t sequence = 0; sequence + 1 < sequence_offsets.rows(); ++sequence) {
        const int64_t begin = offsets[sequence], end = offsets[sequence + 1];
        const auto tokens = static_cast<double>(end - begin);
        std::vector<double> frequency(experts, 0.0), share(experts, 0.0);
        for (int64_t t = begin; t < end; ++t) {
            const std::vector<float> s = load_row(scores, t);
            const double sum = std::accumulate(s.begin(), s.end(), 0.0);
            for (size_t e = 0; e < experts; ++e) share[e] += s[e] / sum / tokens;
            for (int64_t j = 0; j < config.top_k; ++j)
                frequency[static_cast<size_t>(indices.row<int32_t>(t)[j])] +=
                    static_cast<double>(config.experts) /
                    (static_cast<double>(config.top_k) * tokens);
        }
        double loss = 0;
        for (size_t e = 0; e < experts; ++e) loss += frequency[e] * share[e];
        total.add(loss);
        for (int64_t t = begin; t < end && d_scores.defined(); ++t) {
            const std::vector<float> s = load_row(scores, t);
            const double sum = std::accumulate(s.begin(), s.end(), 0.0);
            double mean = 0;
            for (size_t e = 0; e < experts; ++e) mean += frequency[e] * s[e] / sum;
            for (size_t e = 0; e < experts; ++e)
                d_scores.row<float>(t)[e] =
                    static_cast<float>(scale * (frequency[e] - mean) / (sum * tokens));
        }
    }
    return total;
}

void update_router_bias(std::span<const int64_t> loads, float rate, const Tensor& bias) {
    int64_t total = 0;
    for (const int64_t load : loads) total += load;
    for (size_t e = 0; e < loads.size(); ++e) {
        const int64_t load = loads[e] * std::ssize(loads);  // against total / E, in integers
        if (load < total) bias.data<float>()[e] += rate;
        if (load > total) bias.data<float>()[e] -= rate;
    }
}

TokenMap make_token_map(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                        const Tensor& room) {
    const int64_t tokens = indices.rows(), top_k = indices.row_size();
    const int64_t* const of_grains = grain_offsets.data<int64_t>();
    const int64_t grains = grain_offsets.rows() - 1;
    std::vector<int32_t> slot_token, slot_choice;
    std::vector<int32_t> choice_slot(static_cast<size_t>(tokens * top_k), -1);
    std::vector<int64_t> offsets{0}, leaves, dropped(static_cast<size_t>(experts), 0);
    for (int64_t expert = 0; expert < experts; ++expert) {
        leaves.push_back(offsets.back());
        for (int64_t grain = 0; grain < grains; ++grain) {
            int64_t taken = 0;
            for (int64_t t = of_grains[grain]; t < of_grains[grain + 1]; ++t)
                for (int64_t j = 0; j < top_k; ++j) {
                    if (indices.row<int32_t>(t)[j] != expert) continue;
                    if (room.defined() && taken++ >= room.row<int64_t>(grain)[expert]) {
                        ++dropped[static_cast<size_t>(expert)];
                        continue;
                    }
                    choice_slot[static_cast<size_t>(t * top_k + j)] =
                        static_cast<int32_t>(slot_token.size());
                    slot_token.push_back(static_cast<int32_t>(t));
                    slot_choice.push_back(static_cast<int32_t>(t * top_k + j));
                }
            leaves.push_back(std::ssize(slot_token));
        }
        offsets.push_back(std::ssize(slot_token));
    }
    FUCINA_CHECK(room.defined() || offsets.back() == tokens * top_k, "expert indices beyond [0, ",
                 experts, ")");
    return {.expert_offsets = tensor_of(kHost, offsets),
            .leaves = tensor_of(kHost, leaves).view({experts, grains + 1}),
            .slot_token = tensor_of(kHost, slot_token),
            .slot_choice = tensor_of(kHost, slot_choice),
            .choice_slot = tensor_of(kHost, choice_slot),
            .dropped = room.defined() ? tensor_of(kHost, dropped) : Tensor()};
}

void count_choices(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out) {
    out.zero();
    const int64_t* const of_grains = grain_offsets.data<int64_t>();
    for (int64_t grain = 0; grain < out.rows(); ++grain)
        for (int64_t t = of_grains[grain]; t < of_grains[grain + 1]; ++t)
            for (int64_t j = 0; j < indices.row_size(); ++j)
                ++out.row<int64_t>(grain)[indices.row<int32_t>(t)[j]];
}

void combine(const ops::Combine& io, const TokenMap& map) {
    const int64_t tokens = io.out.rows();
    const int64_t top_k = tokens == 0 ? 0 : map.choice_slot.size() / tokens;
    const int32_t* const choice_slot = map.choice_slot.data<int32_t>();
    parallel_for(tokens, top_k * io.out.row_size(), [&](int64_t t) {
        std::vector<float> sum(static_cast<size_t>(io.out.row_size()), 0.0f);
        for (int64_t choice = t * top_k; choice < (t + 1) * top_k; ++choice) {
            if (choice_slot[choice] < 0) continue;
            const float weight = io.weights.defined() ? io.weights.data<float>()[choice] : 1.0f;
            const std::vector<float> row = load_row(io.slots, choice_slot[choice]);
            fma_row(weight, row.data(), sum.data(), io.out.row_size());
        }
        for (const Tensor* addend : {&io.add1, &io.add2}) {
            if (!addend->defined()) continue;
            const std::vector<float> row = load_row(*addend, t);
            for (size_t j = 0; j < sum.size(); ++j) sum[j] += row[j];
        }
        store_row(io.out, t, sum);
    });
}

void add(const Tensor& a, const Tensor& b, const Tensor& out) {
    parallel_for(out.rows(), out.row_size(), [&](int64_t i) {
        std::vector<float> sum = load_row(a, i);
        const std::vector<float> more = load_row(b, i);
        for (size_t j = 0; j < sum.size(); ++j) sum[j] += more[j];
        store_row(out, i, sum);
    });
}

void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
    parallel_for(out.rows(), x.row_size(),
                 [&](int64_t i) { store_row(out, i, load_row(x, index.data<int32_t>()[i])); });
}

void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
    parallel_for(x.rows(), x.row_size(),
                 [&](int64_t i) { store_row(out, index.data<int32_t>()[i], load_row(x, i)); });
}

}  // namespace fucina::reference
