// Times cached decoding of a Hugging Face directory: bench_decode DIR LENGTH TOKENS [THREADS]
// takes LENGTH tokens as a prompt and then TOKENS one at a time, and prints one JSON object:
// milliseconds a token (median and best), the bytes that a token must read, and the bandwidth of
// reading memory on the same threads, measured around it.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "data/tensor_file.h"
#include "kernels/parallel_for.h"
#include "kernels/products.h"
#include "model/generation.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// Bytes a second of reading, all threads together, beyond the caches: the best of some passes.
double read_bandwidth() {
    constexpr int64_t kWords = int64_t{16} << 20;  // 128 MiB a thread
    static std::vector<std::vector<uint64_t>> buffers(static_cast<size_t>(runtime().threads),
                                                      std::vector<uint64_t>(kWords, 1));
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) {
        const double start = seconds();
        parallel_tasks(runtime().threads, [&](int64_t i) {
            const std::vector<uint64_t>& words = buffers[static_cast<size_t>(i)];
            uint64_t sums[8] = {};  // chains enough for the loads to overlap
            for (size_t w = 0; w < words.size(); w += 8)
                for (size_t j = 0; j < 8; ++j) sums[j] += words[w + j];
            const volatile uint64_t used = std::accumulate(sums, sums + 8, uint64_t{0});
            static_cast<void>(used);
        });
        best = std::max(best, 8.0 * kWords * runtime().threads / (seconds() - start));
    }
    return best;
}

// Of the weights, those of the experts that a token passes; packed in bf16, W_kv as fp32 masters,
// from which it is folded; and the cache.
double bytes_a_token(Model& model, int64_t length) {
    const ModelSpec& spec = model.spec();
    double bytes = 0;
    for (const Parameter* parameter : model.parameters()) {
        if (!parameter->packed) continue;
        double met = static_cast<double>(parameter->value.size());
        if (parameter->layout.expert >= 0)
            met *= static_cast<double>(spec.moe.router.top_k) /
                   static_cast<double>(spec.moe.router.experts);
        const bool fp32 =
            parameter->packed->fp32 || parameter->name.find("kv_up") != std::string::npos;
        bytes += met * (fp32 ? 4 : 2);
    }
    const int64_t cached = spec.attention.kv_lora_rank + spec.attention.rope_dim;
    return bytes + static_cast<double>(spec.layers * length * cached * 2);
}

int run(int argc, char** argv) {
    if (argc < 4) {
        fmt::print(stderr, "usage: bench_decode DIR LENGTH TOKENS [THREADS]\n");
        return 2;
    }
    set_runtime(argc > 4 ? std::atoi(argv[4]) : 0, Numerics::exact,
                fastest_products(product_offer()));
    const int64_t length = std::atoll(argv[2]), count = std::atoll(argv[3]);
    const std::filesystem::path directory = argv[1];
    const TensorFile file(directory);
    Model model(read_model_spec(directory), {.compute = DType::bf16, .training = false});
    load_weights(model, file);
    std::vector<int32_t> prompt(static_cast<size_t>(length));
    for (size_t i = 0; i < prompt.size(); ++i)
        prompt[i] =
            static_cast<int32_t>((7 * i + 3) % static_cast<size_t>(model.spec().vocab_size));
    const double before = read_bandwidth();
    LatentCache cache = model.make_cache(length + count + 1);
    model.extend(prompt, cache);
    std::vector<double> times;
    const Sampling greedy;
    int32_t next = prompt.back();
    for (int64_t i = 0; i < count; ++i) {
        const double start = seconds();
        const Tensor logits = model.extend({&next, 1}, cache);
        next = choose_token({logits.data<float>(), static_cast<size_t>(logits.size())}, greedy,
                            static_cast<uint32_t>(i));
        times.push_back(seconds() - start);
    }
    const double bandwidth = std::max(before, read_bandwidth());
    std::sort(times.begin(), times.end());
    fmt::print(
        "{{\"ms\": {:.4f}, \"best_ms\": {:.4f}, \"bytes\": {:.0f}, \"bandwidth\": {:.4g}}}\n",
        1e3 * times[times.size() / 2], 1e3 * times.front(),
        bytes_a_token(model, length + count / 2), bandwidth);
    return 0;
}

}  // namespace
}  // namespace fucina

int main(int argc, char** argv) {
    return fucina::run(argc, argv);
}
