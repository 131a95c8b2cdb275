// Cases of attention.h and of embedding.h's head.
#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

struct Mla {
    int64_t heads, kv_heads, nope, shared, d_v;
    std::vector<int64_t> cu_seqlens;
    DType type;
    int64_t chunks = 1;

    int64_t tokens() const { return cu_seqlens.back(); }
    AttentionShape shape() const {
        return {.heads = heads,
                .kv_heads = kv_heads,
                .d_qk = nope + shared,
                .d_shared = shared,
                .d_v = d_v,
                .scale = 1 / std::sqrt(static_cast<float>(nope + shared)),
                .chunks = chunks,
                .cu_seqlens = tensor_of(exec(), cu_seqlens)};
    }
};

// kv [T, kv_heads · (nope + d_v)] per head nope | v, as MLA's up-projection writes it.
AttentionKv views(const Mla& s, const Tensor& kv, const Tensor& shared) {
    return {.k_own = kv.columns(0, kv.dim(1) - s.d_v),
            .k_shared = s.shared > 0 ? shared : Tensor(),
            .v = kv.columns(s.nope, kv.dim(1)),
            .k_head_stride = s.nope + s.d_v,
            .v_head_stride = s.nope + s.d_v};
}

std::string attention_name(const char* op, const Mla& s) {
    std::string lengths;
    for (size_t i = 1; i < s.cu_seqlens.size(); ++i)
        lengths += concat(i > 1 ? "+" : "", s.cu_seqlens[i] - s.cu_seqlens[i - 1]);
    return concat(op, " ", name_of(s.type), " ", lengths, " tokens, ", s.heads, "/", s.kv_heads,
                  " heads of ", s.nope, "+", s.shared, ", v ", s.d_v,
                  s.chunks > 1 ? ", chunks " : "", s.chunks > 1 ? concat(s.chunks) : "");
}

Tensors attention_inputs(const Mla& s) {
    return {random_tensor({s.tokens(), s.heads * (s.nope + s.shared)}, s.type, 71),
            random_tensor({s.tokens(), s.kv_heads * (s.nope + s.d_v)}, s.type, 72),
            random_tensor({s.tokens(), std::max<int64_t>(s.shared, 1)}, s.type, 73)};
}

// Products of visible pairs.
double pairs(const Mla& s) {
    double sum = 0;
    for (size_t i = 1; i < s.cu_seqlens.size(); ++i) {
        const auto length = static_cast<double>(s.cu_seqlens[i] - s.cu_seqlens[i - 1]);
        sum += length * (length + 1) / 2;
    }
    return sum * static_cast<double>(s.heads);
}

double tolerance(DType type) {
    return type == DType::bf16 ? 1.6e-2 : 2e-5;
}
constexpr const char* kReason =
    "running maximum, own exp; in bf16 P is rounded before it is normalised, and the result once";

Tensors forward(Version version, const Mla& s, const Tensors& t) {
    const Tensor out = exec().empty({s.tokens(), s.heads * s.d_v}, s.type);
    const Tensor lse = exec().empty({s.heads, s.tokens()}, DType::f32);
    if (version == Version::fast)
        ops::attention(exec(), s.shape(), t[0], views(s, t[1], t[2]), out, lse);
    else
        reference::attention(s.shape(), t[0], views(s, t[1], t[2]), out, lse);
    return {out, lse};
}

// inputs: q, kv, shared, d_out, out, lse
Tensors backward(Version version, const Mla& s, const Tensors& t) {
    const Tensor dq = exec().clone(t[0]), dkv = exec().clone(t[1]), d_shared = exec().clone(t[2]);
    const ops::AttentionBackward io{.d_out = t[3],
                                    .out = t[4],
                                    .lse = t[5],
                                    .q = t[0],
                                    .kv = views(s, t[1], t[2]),
                                    .dq = dq,
                                    .dkv = views(s, dkv, d_shared)};
    if (version == Version::fast)
        ops::attention_backward(exec(), s.shape(), io);
    else
        reference::attention_backward(s.shape(), io);
    return s.shared > 0 ? Tensors{dq, dkv, d_shared} : Tensors{dq, dkv};
}

KernelCase attention_case(const Mla& s) {
    return {.name = attention_name("attention", s),
            .inputs = attention_inputs(s),
            .run = [s](Version version, const Tensors& t) { return forward(version, s, t); },
            .tolerance = tolerance(s.type),
            .reason = kReason,
            .flops = 2 * pairs(s) * static_cast<double>(s.nope + s.shared + s.d_v)};
}

KernelCase attention_backward_case(const Mla& s) {
    Tensors inputs = attention_inputs(s);
    const Tensors result = forward(Version::reference, s, inputs);
    inputs.push_back(random_tensor({s.tokens(), s.heads * s.d_v}, s.type, 74));
    inputs.insert(inputs.end(), result.begin(), result.end());
    return {.name = attention_name("attention_backward", s),
            .inputs = inputs,
            .run = [s](Version version, const Tensors& t) { return backward(version, s, t); },
            .tolerance = tolerance(s.type),
            .reason = kReason,
            .flops = 2 * pairs(s) * static_cast<double>(3 * (s.nope + s.shared) + 2 * s.d_v)};
}

GradientCase attention_gradient(const Mla& s) {
    return {.name = attention_name("attention", s),
            .inputs = attention_inputs(s),
            .forward = [s](const Tensors& t) { return Tensors{forward(Version::fast, s, t)[0]}; },
            .backward =
                [s](const Tensors& t, const Tensors& d) {
                    const Tensors result = forward(Version::fast, s, t);
                    Tensors gradients =
                        backward(Version::fast, s, {t[0], t[1], t[2], d[0], result[0], result[1]});
                    gradients.resize(3);
                    return gradients;
                }};
}

struct Latent {
    int64_t heads, nope, rope, v, rank, cached, tokens;
    DType type;
};

Tensors latent(Version version, const Latent& s, const Tensors& t) {
    const Tensor out = exec().empty({s.tokens, s.heads * s.v}, s.type);
    const ops::LatentAttention io{.heads = s.heads,
                                  .nope = s.nope,
                                  .v = s.v,
                                  .scale = 1 / std::sqrt(static_cast<float>(s.nope + s.rope)),
                                  .q = t[0],
                                  .c = t[1],
                                  .k_rope = t[2],
                                  .kv_up = t[3],
                                  .out = out};
    if (version == Version::fast)
        ops::latent_attention(exec(), io);
    else
        reference::latent_attention(io);
    return {out};
}

KernelCase latent_case(const Latent& s) {
    const double folds = static_cast<double>((s.nope + s.v) * s.rank);
    const double scores = static_cast<double>(s.cached * (2 * s.rank + s.rope));
    return {.name = concat("latent_attention ", name_of(s.type), " ", s.tokens, " of ", s.cached,
                           " tokens, ", s.heads, " heads of ", s.nope, "+", s.rope, ", v ", s.v,
                           ", rank ", s.rank),
            .inputs = {random_tensor({s.tokens, s.heads * (s.nope + s.rope)}, s.type, 81),
                       random_tensor({s.cached, s.rank}, s.type, 82),
                       random_tensor({s.cached, s.rope}, s.type, 83),
                       random_tensor({s.heads * (s.nope + s.v), s.rank}, DType::f32, 84, 0.3f)},
            .run = [s](Version version, const Tensors& t) { return latent(version, s, t); },
            .tolerance = s.type == DType::bf16 ? 8e-3 : 2e-5,
            .reason = "own exp and fp32 sums; in bf16 the result is rounded once",
            .flops = 2 * static_cast<double>(s.tokens * s.heads) * (folds + scores)};
}

struct HeadShape {
    int64_t rows, vocab, width;
    DType type;
    int64_t chunks = 1;
};

// inputs: x, head; every third label is ignored.
ops::HeadLoss make_head(Version version, const HeadShape& s, const Tensors& t, float scale) {
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < s.rows; ++i)
        labels.push_back(i % 3 == 2 ? kIgnoreLabel : static_cast<int32_t>((i * 7) % s.vocab));
    const auto pack = [&](PackKind kind, KCut cut) {
        if (version == Version::reference) return reference::pack(t[1], kind, s.type, {.cut = cut});
        return ops::pack(exec(), t[1], kind, s.type, {.cut = cut});
    };
    return {.x = t[0],
            .head = pack(PackKind::forward, {}),
            .head_dgrad = pack(PackKind::dgrad, {.chunks = s.chunks}),
            .labels = tensor_of(exec(), labels),
            .scale = scale,
            .chunks = s.chunks,
            .loss = exec().empty({s.rows, 1}, DType::f32),
            .dx = exec().empty({s.rows, s.width}, s.type),
            .dw = exec().empty({s.vocab, s.width}, DType::f32),
            .tree = make_leaf_tree({0, s.rows / 2, s.rows / 2, s.rows})};
}

Tensors head(Version version, const HeadShape& s, const Tensors& t, float scale) {
    const ops::HeadLoss io = make_head(version, s, t, scale);
    if (version == Version::fast)
        ops::head_loss(exec(), io);
    else
        reference::head_loss(io);
    return {io.loss, io.dx, io.dw};
}

KernelCase head_case(const HeadShape& s) {
    return {.name = concat("head_loss ", name_of(s.type), " [", s.rows, ", ", s.width, "] -> ",
                           s.vocab, ", chunks ", s.chunks),
            .inputs = {random_tensor({s.rows, s.width}, s.type, 75),
                       random_tensor({s.vocab, s.width}, DType::f32, 76, 0.2f)},
            .run = [s](Version version, const Tensors& t) { return head(version, s, t, 0.25f); },
            .tolerance = s.type == DType::bf16 ? 1.6e-2 : 2e-5,
            .reason = "own exp and fp32 sums; in bf16 gradients of logits and dx are rounded",
            .flops = 6.0 * static_cast<double>(s.rows * s.vocab * s.width),
            .timed = [s](const Tensors& t) -> std::function<void()> {
                return [made = make_head(Version::fast, s, t, 0.25f)] {
                    ops::head_loss(exec(), made);
                };
            }};
}

// The loss as an output of weight 1 each: gradients are of the plain sum.
GradientCase head_gradient() {
    const HeadShape s{5, 37, 11, DType::f32};
    return {.name = "head_loss",
            .inputs = {random_tensor({s.rows, s.width}, s.type, 75),
                       random_tensor({s.vocab, s.width}, DType::f32, 76, 0.2f)},
            .forward =
                [s](const Tensors& t) {
                    const Tensor sum = Tensor::zeros({1, 1}, DType::f32);
                    const Tensor loss = head(Version::fast, s, t, 1)[0];
                    for (int64_t i = 0; i < s.rows; ++i)
                        set(sum, 0, 0, get(sum, 0, 0) + get(loss, i, 0));
                    return Tensors{sum};
                },
            .backward =
                [s](const Tensors& t, const Tensors& d) {
                    const Tensors out = head(Version::fast, s, t, get(on_host(exec(), d[0]), 0, 0));
                    return Tensors{out[1], out[2]};
                },
            .step = 0.05};
}

const AddCases kAttention([](Cases& cases) {
    const Mla bench{8, 8, 64, 32, 64, {0, 512, 1024, 1536, 2048}, DType::bf16};
    cases.bench.push_back([=] { return attention_case(bench); });
    cases.bench.push_back([=] { return attention_backward_case(bench); });
    cases.bench.push_back([] { return head_case({2048, 8192, 512, DType::bf16}); });
    cases.bench.push_back([] { return head_case({2048, 8192, 512, DType::bf16, 4}); });
    cases.bench.push_back([] { return latent_case({8, 64, 32, 64, 128, 1024, 1, DType::bf16}); });
    for (const DType type : {DType::f32, DType::bf16}) {
        for (const Latent& s : {Latent{1, 3, 2, 5, 7, 1, 1, type},
                                {4, 32, 32, 32, 64, 33, 1, type},
                                {3, 8, 4, 6, 80, 21, 4, type},
                                {2, 128, 64, 128, 512, 300, 2, type}})
            cases.kernels.push_back(latent_case(s));
        // Of a document of one token dq and dk are zero but for rounding: it takes others to set
        // the scale.
        const Mla one{1, 1, 3, 0, 5, {0, 1}, type}, one_and_two{1, 1, 3, 0, 5, {0, 1, 3}, type};
        cases.kernels.push_back(attention_case(one));
        cases.kernels.push_back(attention_backward_case(one_and_two));
        for (const Mla& s :
             {Mla{2, 2, 8, 4, 6, {0, 5, 6, 39}, type}, Mla{4, 2, 16, 0, 16, {0, 33, 100}, type},
              Mla{2, 2, 128, 64, 128, {0, 70}, type}, Mla{1, 1, 64, 32, 64, {0, 600}, type}}) {
            cases.kernels.push_back(attention_case(s));
            cases.kernels.push_back(attention_backward_case(s));
        }
        cases.kernels.push_back(head_case({1, 2, 3, type}));
        cases.kernels.push_back(head_case({33, 513, 40, type}));
        cases.kernels.push_back(head_case({5, 1031, 2048, type}));
        for (const int64_t chunks : {2, 4}) {
            cases.kernels.push_back(head_case({33, 516, 40, type, chunks}));
            cases.kernels.push_back(head_case({1, 4, 3, type, chunks}));
            cases.kernels.push_back(
                attention_backward_case({4, 4, 8, 5, 6, {0, 5, 6, 39}, type, chunks}));
            cases.kernels.push_back(
                attention_backward_case({8, 8, 32, 32, 16, {0, 70}, type, chunks}));
        }
    }
    cases.gradients.push_back(attention_gradient({2, 2, 4, 2, 3, {0, 3, 4, 9}, DType::f32}));
    cases.gradients.push_back(attention_gradient({4, 2, 4, 0, 5, {0, 7}, DType::f32}));
    cases.gradients.push_back(head_gradient());
});

}  // namespace
}  // namespace fucina::test
