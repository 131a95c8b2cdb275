// Times the matrix products, attention and the head at the shape of the training benchmark, and
// prints each as milliseconds, GFLOP/s and the share of the peak of its instruction in registers,
// timed in the same seconds.
//   bench_step [threads] [fast|amx|vdpbf16|fma] [tokens] [part of the names to run]
#include <fmt/core.h>

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>

#include "kernels/attention.h"
#include "kernels/calibrate.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/moe.h"
#include "kernels/parallel_for.h"
#include "kernels/runtime.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::random_tensor;

std::string& wanted() {
    static std::string part;
    return part;
}

// With one thread its CPU time, which other programs on the machine disturb least.
double seconds() {
    timespec now{};
    clock_gettime(runtime().threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void measure(const std::string& name, double flops, int times_a_step,
             const std::function<void()>& run) {
    if (name.find(wanted()) == std::string::npos) return;
    run();
    double best = 1e9, share = 0;
    for (int i = 0; i < 3; ++i) {
        const double before = 1e-9 * peak_flops(DType::bf16), start = seconds();
        run();
        const double time = seconds() - start;
        const double peak = (before + 1e-9 * peak_flops(DType::bf16)) / 2;
        share = std::max(share, flops * 1e-9 / time / peak);
        best = std::min(best, time);
    }
    static double total = 0;
    total += best * times_a_step;
    fmt::print("{:<34}{:9.2f} ms {:8.0f} GFLOP/s {:5.0f} %  x{:<3} so far {:8.0f} ms\n", name,
               best * 1e3, flops * 1e-9 / best, share * 100, times_a_step, total * 1e3);
    std::fflush(stdout);
}

struct Shape {
    int64_t tokens, hidden = 512, heads = 8, experts = 32, ffn = 384, top_k = 4, vocab = 8192;
};

LeafTree grains(int64_t rows) {
    std::vector<int64_t> offsets{0};
    while (offsets.back() < rows) offsets.push_back(std::min(offsets.back() + 2048, rows));
    return make_leaf_tree(offsets);
}

// One dense weight [n, k]: forward, dgrad and wgrad.
void dense(const Shape& s, const char* name, int64_t n, int64_t k, int times) {
    const Tensor x = random_tensor({s.tokens, k}, DType::bf16, 1);
    const Tensor dy = random_tensor({s.tokens, n}, DType::bf16, 2);
    const Tensor w = random_tensor({n, k}, DType::f32, 3);
    const Tensor dx = Tensor::empty({s.tokens, k}, DType::bf16);
    const Tensor y = Tensor::empty({s.tokens, n}, DType::bf16);
    const Tensor dw = Tensor::empty({n, k}, DType::f32);
    const PackedWeight forward = ops::pack(kHost, w, PackKind::forward, DType::bf16);
    const PackedWeight dgrad = ops::pack(kHost, w, PackKind::dgrad, DType::bf16);
    const LeafTree tree = grains(s.tokens);
    const double flops = 2.0 * static_cast<double>(s.tokens * n * k);
    measure(fmt::format("{} {}->{} forward", name, k, n), flops, times,
            [&] { ops::linear(kHost, x, forward, y); });
    measure(fmt::format("{} {}->{} dgrad", name, k, n), flops, times,
            [&] { ops::linear(kHost, dy, dgrad, dx); });
    measure(fmt::format("{} {}->{} wgrad", name, k, n), flops, times,
            [&] { ops::linear_wgrad(kHost, dy, x, tree, dw); });
}

void expert_layer(const Shape& s) {
    const int64_t slots = s.tokens * s.top_k, ffn = s.ffn, d = s.hidden;
    const Tensor indices = Tensor::empty({s.tokens, s.top_k}, DType::i32);
    test::Random random(5);
    for (int64_t t = 0; t < s.tokens; ++t) {
        const int64_t first = random.below(s.experts);
        for (int64_t j = 0; j < s.top_k; ++j)
            indices.row<int32_t>(t)[j] = static_cast<int32_t>((first + 5 * j) % s.experts);
        std::sort(indices.row<int32_t>(t), indices.row<int32_t>(t) + s.top_k);
    }
    const LeafTree tree = grains(s.tokens);
    const TokenMap map =
        ops::make_token_map(kHost, indices, s.experts, tensor_of(kHost, tree.offsets));
    const RowGroups through = map.groups(true), direct = map.groups(false);
    const Tensor x = random_tensor({s.tokens, d}, DType::bf16, 1);
    const Tensor up = random_tensor({s.experts, 2 * ffn, d}, DType::f32, 2, 0.05f);
    const Tensor down = random_tensor({s.experts, d, ffn}, DType::f32, 3, 0.05f);
    const PackedWeight up_forward = ops::pack(kHost, up, PackKind::gate_up, DType::bf16);
    const PackedWeight up_dgrad = ops::pack(kHost, up, PackKind::dgrad, DType::bf16);
    const PackedWeight down_forward = ops::pack(kHost, down, PackKind::forward, DType::bf16);
    const PackedWeight down_dgrad = ops::pack(kHost, down, PackKind::dgrad, DType::bf16);
    const Tensor gate_up = Tensor::empty({slots, 2 * ffn}, DType::bf16);
    const Tensor h = Tensor::empty({slots, ffn}, DType::bf16);
    const Tensor d_gate_up = Tensor::empty({slots, 2 * ffn}, DType::bf16);
    const Tensor y = Tensor::empty({slots, d}, DType::bf16);
    const Tensor dw_up = Tensor::empty({s.experts, 2 * ffn, d}, DType::f32);
    const Tensor dw_down = Tensor::empty({s.experts, d, ffn}, DType::f32);
    const Tensor weight = tensor_of(kHost, std::vector<float>(static_cast<size_t>(slots), 0.25f));
    const Tensor d_weight = weight.clone();
    const double unit = 2.0 * static_cast<double>(slots * ffn * d);
    measure("experts gate, up, SwiGLU", 2 * unit, 7,
            [&] { ops::gate_up_swiglu(kHost, x, through, up_forward, gate_up, h); });
    measure("experts down", unit, 7,
            [&] { ops::grouped_linear(kHost, h, direct, down_forward, y); });
    measure("experts down dgrad, dSwiGLU", unit, 7, [&] {
        ops::down_swiglu_backward(kHost, {.dy = x,
                                          .rows = through,
                                          .down = down_dgrad,
                                          .gate_up = gate_up,
                                          .row_weight = weight,
                                          .d_gate_up = d_gate_up,
                                          .weighted_h = h,
                                          .d_row_weight = d_weight});
    });
    measure("experts gate/up dgrad", 2 * unit, 7,
            [&] { ops::grouped_linear(kHost, d_gate_up, direct, up_dgrad, y); });
    measure("experts gate/up wgrad", 2 * unit, 7, [&] {
        ops::grouped_linear_wgrad(
            kHost, {.dy = d_gate_up, .x = x, .x_index = map.slot_token, .leaves = map.leaves},
            dw_up);
    });
    measure("experts down wgrad", unit, 7, [&] {
        ops::grouped_linear_wgrad(
            kHost, {.dy = x, .dy_index = map.slot_token, .x = h, .leaves = map.leaves}, dw_down);
    });
    measure("experts pack (4, in one)", 0, 7, [&] {
        ops::pack(kHost, up, PackKind::gate_up, DType::bf16, up_forward);
        ops::pack(kHost, up, PackKind::dgrad, DType::bf16, up_dgrad);
        ops::pack(kHost, down, PackKind::forward, DType::bf16, down_forward);
        ops::pack(kHost, down, PackKind::dgrad, DType::bf16, down_dgrad);
    });
}

void attention_layer(const Shape& s) {
    std::vector<int64_t> documents{0};
    while (documents.back() < s.tokens)
        documents.push_back(std::min(documents.back() + 512, s.tokens));
    const AttentionShape shape{.heads = s.heads,
                               .kv_heads = s.heads,
                               .d_qk = 96,
                               .d_shared = 32,
                               .d_v = 64,
                               .scale = 1.0f / std::sqrt(96.0f),
                               .cu_seqlens = tensor_of(kHost, documents)};
    const Tensor q = random_tensor({s.tokens, s.heads * 96}, DType::bf16, 1);
    const Tensor kv = random_tensor({s.tokens, s.heads * 128}, DType::bf16, 2);
    const Tensor shared = random_tensor({s.tokens, 32}, DType::bf16, 3);
    const Tensor d_out = random_tensor({s.tokens, s.heads * 64}, DType::bf16, 4);
    const Tensor out = d_out.clone(), dq = q.clone(), dkv = kv.clone(), d_shared = shared.clone();
    const Tensor lse = Tensor::empty({s.heads, s.tokens}, DType::f32);
    const auto views = [&](const Tensor& matrix, const Tensor& rotary) {
        return AttentionKv{matrix, rotary, matrix.columns(64, matrix.row_size()), 128, 128};
    };
    const double pairs = static_cast<double>(s.tokens) * 513 / 2 * static_cast<double>(s.heads);
    measure("attention forward", pairs * 2 * 160, 8,
            [&] { ops::attention(kHost, shape, q, views(kv, shared), out, lse); });
    measure("attention backward", pairs * 2 * 416, 8, [&] {
        ops::attention_backward(kHost, shape,
                                {.d_out = d_out,
                                 .out = out,
                                 .lse = lse,
                                 .q = q,
                                 .kv = views(kv, shared),
                                 .dq = dq,
                                 .dkv = views(dkv, d_shared)});
    });
}

void head(const Shape& s) {
    const Tensor x = random_tensor({s.tokens, s.hidden}, DType::bf16, 1);
    const Tensor w = random_tensor({s.vocab, s.hidden}, DType::f32, 2, 0.05f);
    const Tensor labels = tensor_of(kHost, std::vector<int32_t>(static_cast<size_t>(s.tokens), 7));
    const Tensor loss = Tensor::empty({s.tokens}, DType::f32), dx = x.clone(), dw = w.clone();
    const PackedWeight forward = ops::pack(kHost, w, PackKind::forward, DType::bf16);
    const PackedWeight dgrad = ops::pack(kHost, w, PackKind::dgrad, DType::bf16);
    measure("head and loss, with gradients",
            6.0 * static_cast<double>(s.tokens * s.hidden * s.vocab), 1, [&] {
                ops::head_loss(kHost, {.x = x,
                                       .head = forward,
                                       .head_dgrad = dgrad,
                                       .labels = labels,
                                       .scale = 1e-4f,
                                       .loss = loss,
                                       .dx = dx,
                                       .dw = dw,
                                       .tree = grains(s.tokens)});
            });
}

int run(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
    const std::string order = argc > 2 ? argv[2] : "fast";
    if (order == "fast")
        set_runtime(threads, Numerics::fast);
    else
        set_runtime(threads, Numerics::exact, product_order(order));
    if (argc > 4) wanted() = argv[4];
    const Shape s{.tokens = argc > 3 ? std::atoll(argv[3]) : 8192};
    fmt::print("{}, {} threads, {}, {} tokens; peak {:.0f} GFLOP/s\n", describe_runtime(),
               runtime().threads, order, s.tokens, 1e-9 * peak_flops(DType::bf16));
    expert_layer(s);
    attention_layer(s);
    dense(s, "q_a", 256, 512, 8);
    dense(s, "q_b", 768, 256, 8);
    dense(s, "kv_a", 160, 512, 8);
    dense(s, "kv_b", 1024, 128, 8);
    dense(s, "o", 512, 512, 8);
    dense(s, "shared gate/up", 768, 512, 7);
    dense(s, "shared down", 512, 384, 7);
    dense(s, "dense gate/up", 3072, 512, 1);
    dense(s, "dense down", 512, 1536, 1);
    head(s);
    return 0;
}

}  // namespace
}  // namespace fucina

int main(int argc, char** argv) {
    return fucina::run(argc, argv);
}
