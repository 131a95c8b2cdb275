// Random tensors for tests: the same values for the same seed, everywhere.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/tensor.h"

namespace fucina::test {

// SplitMix64 (Steele et al. 2014), and uniforms and rough normals from it.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
    float normal() { return (uniform() + uniform() + uniform() + uniform() - 2.0f) * 1.7320508f; }
    int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

  private:
    uint64_t state_;
};

inline float get(const Tensor& x, int64_t row, int64_t column) {
    return x.dtype() == DType::bf16 ? to_float(x.row<bfloat16>(row)[column])
                                    : x.row<float>(row)[column];
}

inline void set(const Tensor& x, int64_t row, int64_t column, float value) {
    if (x.dtype() == DType::bf16)
        x.row<bfloat16>(row)[column] = to_bfloat16(value);
    else
        x.row<float>(row)[column] = value;
}

inline Tensor random_tensor(std::initializer_list<int64_t> shape, DType type, uint64_t seed,
                            float scale = 1.0f) {
    Tensor x = Tensor::empty(shape, type);
    Random random(seed);
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < x.row_size(); ++j) set(x, i, j, scale * random.normal());
    return x;
}

// Infinities and NaN, more and more of the latter.
inline Tensor non_finite_logits(int64_t tokens, int64_t experts) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    constexpr float kInf = std::numeric_limits<float>::infinity();
    Tensor logits = Tensor::empty({tokens, experts}, DType::f32);
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t e = 0; e < experts; ++e)
            set(logits, t, e, (e * 7 + t) % 5 < t % 5 ? kNan : e % 3 == 0 ? kInf : -kInf);
    return logits;
}

// The same bits, -0 and +0 told apart.
inline bool bit_equal(const Tensor& a, const Tensor& b) {
    if (a.dtype() != b.dtype() || a.size() != b.size() || a.row_size() != b.row_size())
        return false;
    const auto bytes = static_cast<size_t>(a.row_size() * size_of(a.dtype()));
    for (int64_t i = 0; i < a.rows(); ++i)
        if (std::memcmp(a.raw() + i * a.row_stride() * size_of(a.dtype()),
                        b.raw() + i * b.row_stride() * size_of(b.dtype()), bytes) != 0)
            return false;
    return true;
}

}  // namespace fucina::test
