// StragglerWatch: finds the rank for which the others wait, step after step: a machine that is hot,
// shared or broken.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fucina {

class StragglerWatch {
  public:
    static constexpr double kRatio = 1.5;      // to the median rank
    static constexpr double kSeconds = 0.005;  // and so much more than it, a grain
    static constexpr int kSteps = 5;           // in a row

    // hosts: by rank. alike: so many neighbouring ranks have the same work, the stage of a
    // pipeline; 0: all.
    explicit StragglerWatch(std::vector<std::string> hosts, int alike = 0);

    // seconds: what each rank computed in the step for one grain, without waiting for others; 0: it
    // had none. A line when a rank has been slow for kSteps steps, once until it has been as fast
    // as the others for as many.
    std::optional<std::string> after(int64_t step, std::span<const double> seconds);

  private:
    const std::vector<std::string> hosts_;
    const size_t alike_;
    std::vector<int> slow_, fast_;  // steps in a row, by rank
    std::vector<bool> said_;
};

}  // namespace fucina
