// ExactSum: a sum of doubles without rounding, so that it depends neither on their order nor on how
// threads and ranks share them (Neal 2015, arXiv 1505.05571: a small superaccumulator).
#pragma once
#include <array>
#include <cstdint>
#include <span>

namespace fucina {

class ExactSum {
  public:
    void add(double x);
    void add(const ExactSum& other);
    // Rounded once, to nearest even; NaN if anything added was NaN or infinite.
    double value() const;

    // For communication: sums of these words over at most 2^30 ranks are those of the sum. They are
    // the same for every way to the same sum.
    static constexpr int kWords = 68;
    std::span<int64_t> words();

  private:
    static constexpr int kLimbs = kWords - 1;  // of 32 bits, from 2^-1074; the last says how many
                                               // addends were not finite
    void carry();

    std::array<int64_t, kWords> words_{};
    int64_t since_carry_ = 0;  // additions to a limb since all were below 2^32
};

}  // namespace fucina
