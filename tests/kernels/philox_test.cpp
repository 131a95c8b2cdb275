// Philox against the known answers published with the Random123 library (philox4x32, 10 rounds).
#include "kernels/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace fucina {
namespace {

TEST(Philox, GivesThePublishedAnswers) {
    EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
              (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    const uint32_t ones = 0xffffffff;
    EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
              (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(
        philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
        (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryPartOfTheKeyMatters) {
    const RandomKey key{.seed = 1, .purpose = RandomPurpose::test, .stream = 2, .step = 3};
    std::set<PhiloxBlock> seen{random_block(key, 4), random_block(key, 5),
                               random_block(key, uint64_t{1} << 40)};
    for (int change = 0; change < 5; ++change) {
        RandomKey other = key;
        if (change == 0) other.seed += 1;
        if (change == 1) other.seed += uint64_t{1} << 32;
        if (change == 2) other.purpose = RandomPurpose::sampling;
        if (change == 3) other.stream += 1;
        if (change == 4) other.step += 1;
        seen.insert(random_block(other, 4));
    }
    EXPECT_EQ(seen.size(), 8u);
}

TEST(Philox, UnitIntervalIsOpen) {
    EXPECT_GT(to_unit_interval(0), 0.0);
    EXPECT_LT(static_cast<float>(to_unit_interval(0xffffffff)), 1.0f);
}

}  // namespace
}  // namespace fucina
