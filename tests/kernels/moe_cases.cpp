// Cases of moe.h.
#include "kernels/moe.h"

#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr RouterConfig kDeepSeekV3{
    .experts = 256, .top_k = 8, .groups = 8, .topk_groups = 4, .normalize = true, .scale = 2.5f};
constexpr RouterConfig kSmall{
    .experts = 12, .top_k = 3, .groups = 3, .topk_groups = 2, .normalize = true, .scale = 1.7f};
constexpr RouterConfig kUngrouped{.experts = 5, .top_k = 2, .normalize = false, .scale = 0.5f};

struct Routed {
    Tensor scores, indices, weights;
};

// By the reference, or by a back end.
Routed route(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
             Version version = Version::reference) {
    const int64_t tokens = logits.rows();
    const Routed r{exec().empty({tokens, config.experts}, DType::f32),
                   exec().empty({tokens, config.top_k}, DType::i32),
                   exec().empty({tokens, config.top_k}, DType::f32)};
    if (version == Version::fast)
        ops::router(exec(), config, logits, bias, r.scores, r.indices, r.weights);
    else
        reference::router(config, logits, bias, r.scores, r.indices, r.weights);
    return r;
}

std::string case_name(const char* op, const RouterConfig& c, int64_t tokens) {
    return concat(op, " ", tokens, " tokens, top ", c.top_k, " of ", c.experts, " in ",
                  c.topk_groups, "/", c.groups, " groups");
}

// Logits are multiples of 1/4 where `ties`, so that many choices are between equals.
KernelCase router_case(const RouterConfig& config, int64_t tokens, bool ties) {
    const Tensor logits = random_tensor({tokens, config.experts}, DType::f32, 21);
    for (int64_t i = 0; i < tokens && ties; ++i)
        for (int64_t e = 0; e < config.experts; ++e)
            set(logits, i, e, std::round(4 * get(logits, i, e)) / 4);
    return {.name = case_name(ties ? "router with ties" : "router", config, tokens),
            .inputs = {logits, random_tensor({1, config.experts}, DType::f32, 22, ties ? 0 : 0.1f)},
            .run =
                [config](Version version, const Tensors& in) {
                    const Routed r = route(config, in[0], in[1], version);
                    return Tensors{r.scores, r.indices, r.weights};
                },
            .tolerance = 1e-6,
            .reason = "our exp is within 2 ulp of the library's",
            .bytes = static_cast<double>(8 * tokens * config.experts)};
}

KernelCase router_backward_case(const RouterConfig& config, int64_t tokens, bool with_scores) {
    const Routed r = route(config, random_tensor({tokens, config.experts}, DType::f32, 23), {});
    Tensors inputs{r.scores, r.indices, r.weights,
                   random_tensor({tokens, config.top_k}, DType::f32, 24)};
    if (with_scores) inputs.push_back(random_tensor({tokens, config.experts}, DType::f32, 25));
    return {
        .name = case_name("router_backward", config, tokens),
        .inputs = inputs,
        .run =
            [config](Version version, const Tensors& in) {
                const Tensor d_scores = in.size() > 4 ? in[4] : Tensor();
                const Tensor out = exec().empty({in[0].rows(), config.experts}, DType::f32);
                if (version == Version::fast)
                    ops::router_backward(exec(), config, in[0], in[1], in[2], in[3], d_scores, out);
                else
                    reference::router_backward(config, in[0], in[1], in[2], in[3], d_scores, out);
                return Tensors{out};
            },
        .reason = "the same operations in the same order",
        .bytes = static_cast<double>(8 * tokens * config.experts)};
}

// Choices must not change under the finite differences: logits lie far apart.
GradientCase router_gradient(const RouterConfig& config) {
    const Tensor logits = exec().empty({3, config.experts}, DType::f32);
    for (int64_t t = 0; t < 3; ++t)
        for (int64_t e = 0; e < config.experts; ++e)
            set(logits, t, e, 0.3f * static_cast<float>((e * 7 + t * 5) % config.experts) - 2);
    return {.name = case_name("router", config, 3),
            .inputs = {logits},
            .forward =
                [config](const Tensors& in) {
                    const Routed r = route(config, in[0], {});
                    return Tensors{r.scores, r.weights};
                },
            .backward =
                [config](const Tensors& in, const Tensors& d) {
                    const Routed r = route(config, in[0], {}, Version::fast);
                    const Tensor out = exec().clone(in[0]);
                    ops::router_backward(exec(), config, r.scores, r.indices, r.weights, d[1], d[0],
                                         out);
                    return Tensors{out};
                }};
}

Tensor uneven_sequences(int64_t tokens) {
    return tensor_of(exec(),
                     std::vector<int64_t>{0, tokens / 4, tokens / 4, tokens});  // one is empty
}

KernelCase balance_case(const RouterConfig& config, int64_t tokens) {
    const Routed r = route(config, random_tensor({tokens, config.experts}, DType::f32, 26), {});
    return {.name = case_name("balance_loss", config, tokens),
            .inputs = {r.scores, r.indices},
            .run =
                [config](Version version, const Tensors& in) {
                    const Tensor d = exec().empty({in[0].rows(), config.experts}, DType::f32);
                    const Tensor offsets = uneven_sequences(in[0].rows());
                    const ExactSum loss =
                        version == Version::fast
                            ? ops::balance_loss(exec(), config, in[0], in[1], offsets, 0.3f, d)
                            : reference::balance_loss(config, in[0], in[1], offsets, 0.3f, d);
                    const Tensor result = Tensor::empty({1, 1}, DType::f32);
                    set(result, 0, 0, static_cast<float>(loss.value()));
                    return Tensors{result, d};
                },
            .tolerance = 1e-6,
            .reason = "fp64 sums in another order, rounded to fp32",
            .bytes = static_cast<double>(16 * tokens * config.experts)};
}

GradientCase balance_gradient() {
    const Tensor scores = random_tensor({6, kSmall.experts}, DType::f32, 27);
    for (int64_t t = 0; t < 6; ++t)
        for (int64_t e = 0; e < kSmall.experts; ++e)
            set(scores, t, e, 1 / (1 + std::exp(-get(scores, t, e))));
    const Tensor indices =
        route(kSmall, random_tensor({6, kSmall.experts}, DType::f32, 28), {}).indices;
    const auto loss = [indices](const Tensor& s, float scale, const Tensor& d) {
        return ops::balance_loss(exec(), kSmall, s, exec().clone(indices), uneven_sequences(6),
                                 scale, d)
            .value();
    };
    return {.name = "balance_loss",
            .inputs = {scores},
            .forward =
                [loss](const Tensors& in) {
                    const Tensor out = Tensor::empty({1, 1}, DType::f32);
                    set(out, 0, 0, static_cast<float>(loss(in[0], 0, {})));
                    return Tensors{out};
                },
            .backward =
                [loss](const Tensors& in, const Tensors& d) {
                    const Tensor out = exec().clone(in[0]);
                    loss(in[0], get(on_host(exec(), d[0]), 0, 0), out);
                    return Tensors{out};
                },
            .step = 0.05};
}

// top_k of `experts - 1` experts per token: the last stays empty.
Tensor random_indices(int64_t tokens, int64_t top_k, int64_t experts) {
    const Tensor logits = random_tensor({tokens, experts}, DType::f32, 29);
    for (int64_t t = 0; t < tokens; ++t) set(logits, t, experts - 1, -10);
    return route({.experts = experts, .top_k = top_k}, logits, {}).indices;
}

// Of uneven_sequences: some experts take all, some a few, one none.
Tensor some_room(int64_t tokens, int64_t experts) {
    std::vector<int64_t> room;
    const int64_t grains = uneven_sequences(tokens).rows() - 1;
    for (int64_t cell = 0; cell < grains * experts; ++cell)
        room.push_back(cell % experts == 2 ? 0 : cell % 3 == 0 ? tokens : cell % 5);
    return tensor_of(exec(), room).view({grains, experts});
}

TokenMap make_map(Version version, const Tensor& indices, int64_t experts, const Tensor& room) {
    const Tensor grains = uneven_sequences(indices.rows());
    return version == Version::fast ? ops::make_token_map(exec(), indices, experts, grains, room)
                                    : reference::make_token_map(indices, experts, grains, room);
}

KernelCase token_map_case(int64_t tokens, int64_t top_k, int64_t experts, bool drops = false) {
    return {.name = concat("make_token_map ", tokens, " tokens, top ", top_k, " of ", experts,
                           drops ? ", some dropped" : ""),
            .inputs = {random_indices(tokens, top_k, experts)},
            .run =
                [=](Version version, const Tensors& in) {
                    const TokenMap map = make_map(version, in[0], experts,
                                                  drops ? some_room(tokens, experts) : Tensor());
                    Tensors out;
                    for (const Tensor& part : {map.expert_offsets, map.leaves, map.slot_token,
                                               map.slot_choice, map.choice_slot, map.dropped})
                        if (part.defined()) out.push_back(part.view({1, part.size()}));
                    return out;
                },
            .bytes = static_cast<double>(16 * tokens * top_k)};
}

KernelCase count_case(int64_t tokens, int64_t top_k, int64_t experts) {
    return {.name = concat("count_choices of ", tokens, " tokens"),
            .inputs = {random_indices(tokens, top_k, experts)},
            .run =
                [=](Version version, const Tensors& in) {
                    const Tensor out = exec().empty({3, experts}, DType::i64);
                    if (version == Version::fast)
                        ops::count_choices(exec(), in[0], uneven_sequences(tokens), out);
                    else
                        reference::count_choices(in[0], uneven_sequences(tokens), out);
                    return Tensors{out};
                },
            .bytes = static_cast<double>(4 * tokens * top_k)};
}

// Loads below, at and above their mean of 20.
KernelCase bias_case() {
    return {.name = "update_router_bias",
            .inputs = {random_tensor({1, 4}, DType::f32, 35)},
            .run =
                [](Version version, const Tensors& in) {
                    const std::vector<int64_t> loads = {19, 20, 21, 20};
                    const Tensor bias = exec().clone(in[0]);
                    if (version == Version::fast)
                        ops::update_router_bias(exec(), loads, 0.25f, bias);
                    else
                        reference::update_router_bias(loads, 0.25f, bias);
                    return Tensors{bias};
                },
            .bytes = 16};
}

struct CombineShape {
    int64_t tokens, top_k, experts, width;
    DType type;
    bool addends;
    bool drops = false;
};

KernelCase combine_case(const CombineShape& s) {
    const DType addend = s.type == DType::bf16 ? DType::f32 : DType::bf16;
    return {.name = concat("combine ", name_of(s.type), " [", s.tokens, " x ", s.top_k, ", ",
                           s.width, s.drops ? "], some dropped" : "]"),
            .inputs = {random_indices(s.tokens, s.top_k, s.experts),
                       random_tensor({s.tokens * s.top_k, s.width}, s.type, 30),
                       random_tensor({s.tokens, s.top_k}, DType::f32, 31),
                       random_tensor({s.tokens, s.width}, s.type, 32),
                       random_tensor({s.tokens, s.width}, addend, 33)},
            .run =
                [s](Version version, const Tensors& in) {
                    const TokenMap map =
                        make_map(version, in[0], s.experts,
                                 s.drops ? some_room(s.tokens, s.experts) : Tensor());
                    const ops::Combine io{.slots = in[1].slice(0, map.slots()),
                                          .weights = s.addends ? in[2] : Tensor(),
                                          .add1 = s.addends ? in[3] : Tensor(),
                                          .add2 = s.addends ? in[4] : Tensor(),
                                          .out = exec().empty({s.tokens, s.width}, s.type)};
                    if (version == Version::fast)
                        ops::combine(exec(), io, map);
                    else
                        reference::combine(io, map);
                    return Tensors{io.out};
                },
            .reason = "the same operations in the same order",
            .bytes = static_cast<double>(s.tokens * (s.top_k + 3) * s.width * size_of(s.type)),
            .timed = [s](const Tensors& in) -> std::function<void()> {
                const TokenMap map =
                    ops::make_token_map(exec(), in[0], s.experts, uneven_sequences(s.tokens), {});
                const ops::Combine io{.slots = in[1],
                                      .weights = in[2],
                                      .add1 = in[3],
                                      .add2 = in[4],
                                      .out = exec().empty({s.tokens, s.width}, s.type)};
                return [=] { ops::combine(exec(), io, map); };
            }};
}

Tensor last_first(int64_t tokens) {
    std::vector<int32_t> rows;
    for (int64_t i = 0; i < tokens / 2; ++i) rows.push_back(static_cast<int32_t>(tokens - 1 - i));
    return tensor_of(exec(), rows);
}

KernelCase permute_case(int64_t tokens, int64_t width, DType type) {
    return {
        .name =
            concat("gather and scatter rows ", name_of(type), " [", tokens, " x 4, ", width, "]"),
        .inputs = {random_indices(tokens, 4, 9), random_tensor({tokens, width}, type, 34)},
        .run =
            [](Version version, const Tensors& in) {
                const int64_t tokens = in[0].rows();
                const TokenMap map = make_map(version, in[0], 9, {});
                const Tensor out = exec().empty({map.slots(), in[1].row_size()}, in[1].dtype());
                const Tensor back = exec().clone(in[1]);
                if (version == Version::fast) {
                    ops::gather_rows(exec(), in[1], map.slot_token, out);
                    ops::scatter_rows(exec(), in[1].slice(0, tokens / 2), last_first(tokens), back);
                } else {
                    reference::gather_rows(in[1], map.slot_token, out);
                    reference::scatter_rows(in[1].slice(0, tokens / 2), last_first(tokens), back);
                }
                return Tensors{out, back};
            },
        .bytes = static_cast<double>(8 * tokens * width * size_of(type))};
}

// Of the training benchmark, and of DeepSeek-V3.
constexpr RouterConfig kBench[] = {{.experts = 32, .top_k = 4, .groups = 4, .topk_groups = 2},
                                   kDeepSeekV3};
constexpr RouterConfig kRouters[] = {kDeepSeekV3, kSmall, kUngrouped};
constexpr int64_t kTokens[] = {1, 37, 300};

const AddCases kRouter([](Cases& cases) {
    for (const RouterConfig& config : kRouters)
        for (const int64_t tokens : kTokens) {
            cases.kernels.push_back(router_case(config, tokens, false));
            cases.kernels.push_back(router_case(config, tokens, true));
            cases.kernels.push_back(router_backward_case(config, tokens, tokens > 1));
        }
    cases.gradients.push_back(router_gradient(kSmall));
    cases.gradients.push_back(router_gradient(kUngrouped));
    for (const RouterConfig& config : kBench) {
        cases.bench.push_back([=] { return router_case(config, 2048, false); });
        cases.bench.push_back([=] { return router_backward_case(config, 2048, true); });
    }
});

const AddCases kBalance([](Cases& cases) {
    for (const RouterConfig& config : kRouters)
        for (const int64_t tokens : kTokens) cases.kernels.push_back(balance_case(config, tokens));
    cases.gradients.push_back(balance_gradient());
    for (const RouterConfig& config : kBench)
        cases.bench.push_back([=] { return balance_case(config, 2048); });
});

const AddCases kMovement([](Cases& cases) {
    cases.kernels.push_back(bias_case());
    cases.kernels.push_back(count_case(40, 4, 9));
    cases.kernels.push_back(token_map_case(1, 1, 2));
    cases.kernels.push_back(token_map_case(50, 8, 256));
    cases.kernels.push_back(token_map_case(50, 8, 256, true));
    cases.kernels.push_back(token_map_case(300, 2, 5, true));
    for (const DType type : {DType::f32, DType::bf16}) {
        cases.kernels.push_back(combine_case({1, 1, 2, 1, type, false}));
        cases.kernels.push_back(combine_case({13, 3, 5, 33, type, true}));
        cases.kernels.push_back(combine_case({37, 3, 5, 33, type, true, true}));
        cases.kernels.push_back(combine_case({37, 3, 5, 64, type, false, true}));
        cases.kernels.push_back(combine_case({6, 8, 256, 7168, type, true}));
        cases.kernels.push_back(permute_case(1, 3, type));
        cases.kernels.push_back(permute_case(121, 515, type));
    }
    for (const RouterConfig& config : kBench)
        cases.bench.push_back([=] { return token_map_case(2048, config.top_k, config.experts); });
    cases.bench.push_back([=] { return combine_case({2048, 4, 32, 512, DType::bf16, true}); });
    cases.bench.push_back([=] { return permute_case(2048, 512, DType::bf16); });
});

}  // namespace
}  // namespace fucina::test
