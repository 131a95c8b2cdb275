// The executor's tensor cores as a filter: reads int32 type (0 bf16, 1 e4m3), n and steps, then
// a [64][steps][32 bytes], b [n][steps][32 bytes] and d [64][n] in fp32; writes d after the steps.
#include <cstdio>
#include <vector>

#include "tests/simt/tensor_core.h"

namespace {

template <class T>
std::vector<T> read(size_t count) {
    std::vector<T> values(count);
    if (std::fread(values.data(), sizeof(T), count, stdin) != count) std::exit(1);
    return values;
}

// Row r of `bytes` has `steps` times 32 bytes; this is step `step` of all rows.
std::vector<uint8_t> step_of(const std::vector<uint8_t>& bytes, size_t steps, size_t step) {
    constexpr size_t kRow = fucina::simt::kOperandRowBytes;
    std::vector<uint8_t> out(bytes.size() / steps);
    for (size_t row = 0; row < out.size() / kRow; ++row)
        std::memcpy(&out[row * kRow], &bytes[(row * steps + step) * kRow], kRow);
    return out;
}

}  // namespace

int main() {
    const std::vector<int32_t> head = read<int32_t>(3);
    const size_t n = static_cast<size_t>(head[1]), steps = static_cast<size_t>(head[2]);
    const std::vector<uint8_t> a = read<uint8_t>(64 * steps * 32),
                               b = read<uint8_t>(n * steps * 32);
    std::vector<float> d = read<float>(64 * n);
    for (size_t step = 0; step < steps; ++step)
        fucina::simt::tensor_core_multiply(static_cast<fucina::simt::Operand>(head[0]), head[1],
                                           step_of(a, steps, step).data(),
                                           step_of(b, steps, step).data(), d.data());
    return std::fwrite(d.data(), sizeof(float), d.size(), stdout) == d.size() ? 0 : 1;
}
