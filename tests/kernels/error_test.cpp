// What a message of an error looks like, whatever it quotes.
#include "kernels/error.h"

#include <gtest/gtest.h>

namespace fucina {
namespace {

TEST(Error, IsOneLineWhateverItQuotes) {
    const Error error(ExitCode::data, "a\tb\nc\x7f\x01 d\n \n");
    EXPECT_STREQ(error.what(), "a b c   d");
    EXPECT_EQ(one_line("line\n\n"), "line");
    EXPECT_EQ(one_line("\n"), "");
    EXPECT_EQ(one_line("più"), "più");
}

TEST(Error, KeepsBothEndsOfWhatIsTooLong) {
    const std::string line = one_line("/start" + std::string(20'000, 'x') + ": what to do");
    EXPECT_EQ(line.size(), 999u);
    EXPECT_TRUE(line.starts_with("/startx"));
    EXPECT_TRUE(line.ends_with("x: what to do"));
    EXPECT_NE(line.find("x [...] x"), std::string::npos);
}

TEST(Error, CutsNoCharacterInTwo) {
    std::string accents;
    for (int i = 0; i < 50; ++i) accents += "ù";  // two bytes each
    for (const size_t most : {20u, 21u, 22u, 23u}) {
        const std::string line = one_line(accents, most);
        EXPECT_LE(line.size(), most);
        const size_t gap = line.find(" [...] ");
        ASSERT_NE(gap, std::string::npos);
        EXPECT_EQ(gap % 2, 0u) << most;
        EXPECT_EQ((line.size() - gap - 7) % 2, 0u) << most;
    }
}

}  // namespace
}  // namespace fucina
