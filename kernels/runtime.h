// What the kernels run on: instruction-set level, threads, numerics. Set once at start-up, read by
// every kernel.
#pragma once
#include <string>
#include <string_view>

namespace fucina {

// Each level is a superset of the one before. FUCINA_ISA=scalar|avx2|avx512|amx forces a lower one
// than the CPU has; asking for more than the CPU has is an error that names both. `amx-emulated`
// runs the AMX code path on tiles emulated in software (slow; for tests on CPUs without AMX).
enum class IsaLevel { scalar, avx2, avx512, amx };

enum class Numerics { exact, fast };

struct Runtime {
    IsaLevel level = IsaLevel::scalar;
    bool emulate_amx = false;
    bool has_avx512_bf16 = false;
    // fp32 is rounded to bf16 by VCVTNEPS2BF16, which makes zeros of denormals: fast numerics only.
    bool native_bf16 = false;
    // The level of kernels that use no tiles: `level`, or under `amx` the best vector level.
    IsaLevel vector_level = IsaLevel::scalar;
    Numerics numerics = Numerics::exact;
    int threads = 1;
};

const Runtime& runtime();

// Sets the number of threads of every kernel (0: one per CPU of the affinity mask) and the
// numerics. The first use of runtime() probes the CPU and reads FUCINA_ISA. Call again to change;
// not while kernels run.
void set_runtime(int threads, Numerics numerics);

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
