// What the kernels run on: instruction-set level, threads, numerics. Set once at start-up, read by
// every kernel.
#pragma once
#include <string>
#include <string_view>

namespace fucina {

// Each level is a superset of the one before. FUCINA_ISA=scalar|avx2|avx512|avx512_bf16|amx forces
// a lower one than the CPU has; asking for more than the CPU has is an error that names both.
// `amx-emulated` runs the AMX code path on tiles emulated in software (slow; for tests on CPUs
// without AMX).
enum class IsaLevel { scalar, avx2, avx512, avx512_bf16, amx };

enum class Numerics { exact, fast };

// The order of sums inside a bf16 product, named after the instruction that has it: defined in
// kernels/gemm.h.
enum class ProductOrder { amx, vdpbf16, fma };

struct Runtime {
    IsaLevel level = IsaLevel::scalar;
    bool emulate_amx = false;
    // fp32 is rounded to bf16 by VCVTNEPS2BF16, which makes zeros of denormals: fast numerics only.
    bool native_bf16 = false;
    // The level of kernels that use no tiles: `level`, or under `amx` the best vector level.
    IsaLevel vector_level = IsaLevel::scalar;
    Numerics numerics = Numerics::exact;
    ProductOrder products = ProductOrder::amx;
    int threads = 1;
};

const Runtime& runtime();

// Sets the number of threads of every kernel (0: one per CPU of the affinity mask), the numerics
// and the order of products, which fast numerics replace by the fastest. The first use of runtime()
// probes the CPU and reads FUCINA_ISA. Call again to change; not while kernels run.
void set_runtime(int threads, Numerics numerics, ProductOrder products = ProductOrder::amx);

std::string_view name_of(ProductOrder order);
ProductOrder product_order(std::string_view name);  // of name_of; others: Error(usage)
// Whether the CPU, or as much of it as FUCINA_ISA allows, has the order.
bool offers(ProductOrder order);

// Takes a level by its FUCINA_ISA name; "" goes back to FUCINA_ISA, or else the best. Unknown, or
// more than the CPU has: Error(usage) that names both. Tests use it to run all levels.
void force_isa(std::string_view level);
std::string_view name_of(IsaLevel level);
IsaLevel best_isa();  // what the CPU and the operating system offer, whatever is forced

// DAZ and FTZ in the calling thread (AMX always flushes, so every level must). parallel_for does
// it for its threads; threads inherit it from the thread that makes them.
void flush_denormals();

// "AMX-BF16", "AVX-512", ... and the CPU's model name, for doctor and logs.
std::string describe_runtime();

}  // namespace fucina
