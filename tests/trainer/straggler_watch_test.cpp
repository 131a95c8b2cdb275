// Guards against a slow rank that nobody hears of, and against warnings about ranks that are not.
#include "trainer/straggler_watch.h"

#include <gtest/gtest.h>

#include <vector>

namespace fucina {
namespace {

std::vector<std::string> hosts(size_t ranks) {
    std::vector<std::string> names;
    for (size_t r = 0; r < ranks; ++r) names.push_back("host" + std::to_string(r));
    return names;
}

// The steps at which it speaks.
std::vector<int64_t> spoken(StragglerWatch& watch, const std::vector<std::vector<double>>& steps) {
    std::vector<int64_t> at;
    for (size_t s = 0; s < steps.size(); ++s) {
        if (watch.after(static_cast<int64_t>(s) + 1, steps[s]))
            at.push_back(static_cast<int64_t>(s) + 1);
    }
    return at;
}
std::vector<std::vector<double>> times(size_t count, const std::vector<double>& seconds) {
    return std::vector<std::vector<double>>(count, seconds);
}

TEST(StragglerWatch, NamesTheRankOnceAfterSeveralSteps) {
    StragglerWatch watch(hosts(4));
    const std::vector<double> slow{1.0, 1.1, 1.9, 0.9};
    for (int step = 1; step < 5; ++step) EXPECT_FALSE(watch.after(step, slow));
    EXPECT_EQ(
        watch.after(5, slow).value_or(""),
        "WARNING: step 5: rank 2 on host2 is slow: 1.9 s a grain for 5 steps, the median rank "
        "1 s (1.9 times); the others wait for it");
    for (int step = 6; step < 500; ++step) EXPECT_FALSE(watch.after(step, slow));
}

TEST(StragglerWatch, SpeaksAgainAfterARecovery) {
    StragglerWatch watch(hosts(2));
    std::vector<std::vector<double>> steps = times(6, {1, 2});
    const auto add = [&](const auto& more) { steps.insert(steps.end(), more.begin(), more.end()); };
    add(times(1, {1, 1}));  // one good step is no recovery
    add(times(6, {1, 2}));
    add(times(5, {1, 1}));
    add(times(5, {1, 2}));
    EXPECT_EQ(spoken(watch, steps), (std::vector<int64_t>{5, 23}));
}

TEST(StragglerWatch, IsSilentAboutWhatIsNotSlow) {
    StragglerWatch watch(hosts(3));
    EXPECT_TRUE(spoken(watch, times(9, {1, 1.4, 1})).empty());
    EXPECT_TRUE(spoken(watch, times(9, {0.001, 0.005, 0.001})).empty()) << "milliseconds";
    EXPECT_TRUE(spoken(watch, times(9, {0, 1, 0})).empty()) << "one rank alone has work";
    EXPECT_TRUE(spoken(watch, times(9, {0, 1, 1})).empty());
    std::vector<std::vector<double>> now_and_then;
    for (int i = 0; i < 20; ++i)
        now_and_then.push_back(i % 5 == 4 ? std::vector<double>{1, 1, 1}
                                          : std::vector<double>{1, 1, 3});
    EXPECT_TRUE(spoken(watch, now_and_then).empty()) << "never five in a row";
}

}  // namespace
}  // namespace fucina
