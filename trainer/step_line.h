// The line of a step on the screen.
#pragma once
#include <cstdint>
#include <string>

#include "trainer/metrics.h"

namespace fucina {

class StepLine {
  public:
    // last_step: of the whole run, for the time that is left.
    explicit StepLine(int64_t last_step) : last_step_(last_step) {}

    // seconds: what the step took, saves and evaluation aside. peak_share: of what the machine can.
    std::string text(const StepMetrics& metrics, double seconds, double peak_share);

  private:
    const int64_t last_step_;
    double mean_seconds_ = 0;  // moving average
};

// "1h02m", "3m07s", "12s"
std::string duration_text(double seconds);

// 12345.6 -> "12,346"
std::string thousands(double value);

}  // namespace fucina
