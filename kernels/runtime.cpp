#include "kernels/runtime.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "kernels/error.h"
#include "kernels/products.h"

namespace fucina {
namespace {

// How long OpenMP's threads spin before they sleep: some tens of microseconds, where libgomp's own
// choice is many milliseconds. On a busy machine a thread that spins takes the core of the one that
// it waits for, and a token that takes 0.2 ms took 24. libgomp reads its environment before main,
// and before the constructors of a program; what stands in .preinit_array comes first.
void set_spinning() {
    if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", "2000", 0);
}
[[gnu::section(".preinit_array"), gnu::used]] void (*const kSetSpinning)() = set_spinning;

constexpr unsigned kFlushBits = 0x8040;  // MXCSR: FTZ (bit 15) and DAZ (bit 6)
constexpr std::string_view kLevels[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
constexpr std::string_view kOrders[] = {"amx", "vdpbf16", "fma"};

struct CpuidLeaf {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(unsigned leaf, unsigned sub_leaf) {
    CpuidLeaf r;
    __get_cpuid_count(leaf, sub_leaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

// The CPU has AMX-BF16 and the kernel grants this process the tile registers.
bool probe_amx() {
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    const CpuidLeaf features = cpuid(7, 0);
    if ((features.edx & kAmxBf16) == 0 || (features.edx & kAmxTile) == 0) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// gcc's builtin also asks whether the operating system saves the registers.
IsaLevel probe_vector() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!avx2) return IsaLevel::scalar;
    if (!avx512) return IsaLevel::avx2;
    constexpr unsigned kAvx512Bf16 = 1u << 5;
    return (cpuid(7, 1).eax & kAvx512Bf16) == 0 ? IsaLevel::avx512 : IsaLevel::avx512_bf16;
}

struct Probe {
    IsaLevel vector = probe_vector();
    bool amx = vector == IsaLevel::avx512_bf16 && probe_amx();
};

const Probe& probe() {
    static const Probe found;
    return found;
}

int allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

void set_level(Runtime& state, std::string_view name) {
    const Probe& cpu = probe();
    IsaLevel level = best_isa();
    bool emulate = false;
    const auto* known = std::find(std::begin(kLevels), std::end(kLevels), name);
    if (known != std::end(kLevels))
        level = static_cast<IsaLevel>(known - kLevels);
    else if (name == "amx-emulated")
        emulate = true;
    else if (!name.empty())
        fail(ExitCode::usage, "FUCINA_ISA=", name,
             " is unknown; take scalar, avx2, avx512, avx512_bf16, amx or amx-emulated");
    if (!emulate && level > best_isa())
        fail(ExitCode::usage, "FUCINA_ISA=", name, " asks for more than this CPU has, which is ",
             name_of(best_isa()));
    state.emulate_amx = emulate;
    state.level = emulate ? IsaLevel::amx : level;
    state.vector_level = state.level < cpu.vector ? state.level : cpu.vector;
}

// What follows from level and numerics.
void settle(Runtime& state) {
    const bool fast = state.numerics == Numerics::fast;
    state.native_bf16 = fast && state.vector_level >= IsaLevel::avx512_bf16;
    if (fast) state.products = fastest_products(product_offer());
}

std::string_view level_of_environment() {
    const char* name = std::getenv("FUCINA_ISA");
    return name == nullptr ? "" : name;
}

Runtime& state() {
    static Runtime process = [] {
        Runtime fresh;
        fresh.threads = allowed_cpus();
        set_level(fresh, level_of_environment());
        flush_denormals();
        return fresh;
    }();
    return process;
}

}  // namespace

const Runtime& runtime() {
    return state();
}

IsaLevel best_isa() {
    return probe().amx ? IsaLevel::amx : probe().vector;
}

std::string_view name_of(IsaLevel level) {
    return kLevels[static_cast<int>(level)];
}

std::string_view name_of(ProductOrder order) {
    return kOrders[static_cast<int>(order)];
}

ProductOrder product_order(std::string_view name) {
    const auto* known = std::find(std::begin(kOrders), std::end(kOrders), name);
    if (known == std::end(kOrders))
        fail(ExitCode::usage, "products \"", name, "\" are unknown; take amx, vdpbf16 or fma");
    return static_cast<ProductOrder>(known - kOrders);
}

bool offers(ProductOrder order) {
    return order != ProductOrder::vdpbf16 || runtime().vector_level >= IsaLevel::avx512_bf16;
}

void set_runtime(int threads, Numerics numerics, ProductOrder products) {
    flush_denormals();
    state().threads = threads > 0 ? threads : allowed_cpus();
    state().numerics = numerics;
    state().products = products;
    settle(state());
}

void force_isa(std::string_view level) {
    set_level(state(), level.empty() ? level_of_environment() : level);
    settle(state());
}

void flush_denormals() {
    _mm_setcsr(_mm_getcsr() | kFlushBits);
}

std::string describe_runtime() {
    constexpr const char* names[] = {"scalar", "AVX2", "AVX-512", "AVX-512 with BF16", "AMX-BF16"};
    std::string text = names[static_cast<int>(runtime().level)];
    if (runtime().emulate_amx) text += " (emulated)";
    char brand[49] = {};
    for (unsigned i = 0; i < 3; ++i) {
        const CpuidLeaf part = cpuid(0x80000002u + i, 0);
        std::memcpy(brand + 16 * i, &part, sizeof part);
    }
    const char* first = brand;
    while (*first == ' ') ++first;
    if (*first != '\0') text += concat(", ", first);
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

}  // namespace fucina
