// bench_gpu [PART OF A NAME]...: times the kernels on a GPU by CUDA's events, as a table in
// Markdown: the bench cases that the CPU has too, and products at DeepSeek-V3's shapes beside
// cuBLASLt. The best of the repetitions counts; before each, other memory is written, so that
// nothing lies in L2.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/runtime.h"
#include "tests/simt/device.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr int kRuns = 20;
constexpr int64_t kFlush = int64_t{128} << 20;  // more than L2

void check(cudaError_t status) {
    if (status != cudaSuccess) fail(ExitCode::internal, cudaGetErrorString(status));
}

class Event {
  public:
    Event() { check(cudaEventCreate(&event_)); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void record() { check(cudaEventRecord(event_, device().stream)); }
    double seconds_since(const Event& begin) const {
        float ms = 0;
        check(cudaEventSynchronize(event_));
        check(cudaEventElapsedTime(&ms, begin.event_, event_));
        return 1e-3 * static_cast<double>(ms);
    }

  private:
    cudaEvent_t event_ = nullptr;
};

double best_seconds(const std::function<void()>& body) {
    const Tensor other = device().empty({kFlush}, DType::u8);
    Event begin, end;
    double best = 1e30;
    for (int run = 0; run < kRuns; ++run) {
        device().zero(other);
        begin.record();
        body();
        end.record();
        best = std::min(best, end.seconds_since(begin));
    }
    return best;
}

struct Work {
    double flops = 0, bytes = 0;
};

void print_row(const std::string& name, double seconds, const Work& work) {
    fmt::print("| {} | {:.1f} | {} | {} |\n", name, 1e6 * seconds,
               work.flops > 0 ? fmt::format("{:.1f}", 1e-12 * work.flops / seconds) : "",
               work.bytes > 0 ? fmt::format("{:.0f}", 1e-9 * work.bytes / seconds) : "");
    std::fflush(stdout);
}

struct Selection {
    int count;
    char** parts;
    bool wants(const std::string& name) const {
        for (int i = 1; i < count; ++i)
            if (name.find(parts[i]) != std::string::npos) return true;
        return count == 1;
    }
};

void bench_cases(const Selection& selection) {
    for (const auto& make : all_cases().bench) {
        const KernelCase kernel = make();
        if (!selection.wants(kernel.name)) continue;
        Tensors there;
        for (const Tensor& x : kernel.inputs)
            there.push_back(x.defined() ? device().clone(x) : Tensor());
        const std::function<void()> body =
            kernel.timed ? kernel.timed(there) : [&] { kernel.run(Version::fast, there); };
        print_row(kernel.name, best_seconds(body), {kernel.flops, kernel.bytes});
    }
}

struct Product {
    const char* name;
    int64_t m, n, k;
};
constexpr int64_t kTokens = 4096;
constexpr Product kDense[] = {{"q_a", kTokens, 1536, 7168},
                              {"q_b", kTokens, 24576, 1536},
                              {"kv_b", kTokens, 32768, 512},
                              {"o", kTokens, 7168, 16384},
                              {"shared up", kTokens, 4096, 7168}};
constexpr Product kRouted[] = {{"routed up", 8 * kTokens, 4096, 7168},
                               {"routed down", 8 * kTokens, 7168, 2048}};
constexpr int64_t kExperts = 4;

Tensor filled(int64_t rows, int64_t columns, DType type) {
    const Tensor x = device().empty({rows, columns}, type);
    device().zero(x);
    return x;
}

// On zeros: a GPU that has less to switch may clock higher than in training.
void bench_products(const Selection& selection) {
    cuda::CublasLt library;
    for (const Product& p : kDense) {
        const std::string name = fmt::format("{} [{}, {}], K {}", p.name, p.m, p.n, p.k);
        if (!selection.wants(name)) continue;
        const Tensor x = filled(p.m, p.k, DType::bf16), y = filled(p.m, p.n, DType::bf16);
        const Tensor w = filled(p.n, p.k, DType::f32), dw = filled(p.n, p.k, DType::f32);
        const Tensor bf16 = filled(p.n, p.k, DType::bf16);
        const PackedWeight packed = cuda::pack(device(), w, PackKind::forward, DType::bf16, {});
        const Work work{2.0 * static_cast<double>(p.m * p.n * p.k)};
        print_row(name + " bf16", best_seconds([&] {
                      cuda::grouped_linear(device(), x, {.rows = p.m}, packed, y);
                  }),
                  work);
        print_row(name + " bf16, cuBLASLt", best_seconds([&] {
                      library.linear({x, bf16, y}, device().stream);
                  }),
                  work);
        print_row(name + " bf16 weight gradient",
                  best_seconds([&] { cuda::leaf_wgrad(device(), y, x, false, dw); }), work);
    }
}

void bench_routed(const Selection& selection) {
    for (const Product& p : kRouted) {
        const std::string name = fmt::format("{} [{}, {}], K {}", p.name, p.m, p.n, p.k);
        if (!selection.wants(name)) continue;
        const Tensor y = filled(p.m, p.n, DType::bf16), x = filled(p.m, p.k, DType::bf16);
        const Tensor w = device().empty({kExperts, p.n, p.k}, DType::f32);
        device().zero(w.view({kExperts * p.n, p.k}));
        std::vector<int64_t> ends;
        for (int64_t e = 0; e <= kExperts; ++e) ends.push_back(p.m / kExperts * e);
        const Tensor offsets = tensor_of(device(), ends);
        const Work work{2.0 * static_cast<double>(p.m * p.n * p.k)};
        const PackedWeight packed = cuda::pack(device(), w, PackKind::forward, DType::bf16, {});
        print_row(name + " bf16", best_seconds([&] {
                      cuda::grouped_linear(device(), x, {.rows = p.m, .offsets = offsets}, packed,
                                           y);
                  }),
                  work);
        const cuda::GroupedGemmFp8 fp8{
            .x = {filled(p.m, p.k, DType::f8_e4m3), filled(p.k / 128, p.m, DType::f32)},
            .w = filled(kExperts * p.n, p.k, DType::f8_e4m3),
            .w_scales = filled(kExperts * p.n / 128, p.k / 128, DType::f32),
            .offsets = offsets.data<int64_t>(),
            .experts = kExperts,
            .y = y};
        print_row(name + " fp8", best_seconds([&] { cuda::grouped_gemm_fp8(device(), fp8); }),
                  work);
    }
}

void bench(const Selection& selection) {
    std::printf("%s\n\n", (device(), cuda::describe_device()).c_str());
    std::printf("| kernel | µs | Tflop/s | GB/s |\n|---|---:|---:|---:|\n");
    set_exec(device());
    for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
        set_runtime(runtime().threads, numerics);
        std::printf("| **%s numerics** | | | |\n", numerics == Numerics::exact ? "exact" : "fast");
        bench_cases(selection);
    }
    bench_products(selection);
    bench_routed(selection);
}

}  // namespace
}  // namespace fucina::test

int main(int count, char** parts) {
    try {
        fucina::test::bench({count, parts});
        return 0;
    } catch (const fucina::Error& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return static_cast<int>(error.code());
    }
}
