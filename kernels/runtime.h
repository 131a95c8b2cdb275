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
    Numerics numerics = Numerics::exact;
    int threads = 1;
};

const Runtime& runtime();

// Probes the CPU, reads FUCINA_ISA, sets the OpenMP thread count, and DAZ/FTZ in every thread (AMX
// always flushes, so every level must). Call again to change; not while kernels run. Tests use it
// to run all levels.
void set_runtime(int threads, Numerics numerics);
void force_isa(std::string_view level);  // "" = back to the best

// "AMX-BF16", "AVX-512", ... and the CPU's model name, for doctor and logs.
std::string describe_runtime();

}  // namespace fucina
