// Work in a child process: its result, its errors, and its end by a crash or a limit.
#include "data/child.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <vector>

#include "kernels/error.h"
#include "tests/support/expect_text.h"

namespace fucina {
namespace {

std::string refusal(const std::function<std::string()>& body, const ChildLimits& limits = {}) {
    try {
        in_child("FILE", body, limits);
    } catch (const Error& error) {
        return concat(static_cast<int>(error.code()), " ", error.what());
    }
    return "returned";
}

TEST(Child, GivesItsResultWhateverItsSize) {
    EXPECT_EQ(in_child("FILE", [] { return std::string("a\0b\n", 4); }), std::string("a\0b\n", 4));
    EXPECT_EQ(in_child("FILE", [] { return std::string(1 << 20, 'x'); }).size(), 1u << 20);
    EXPECT_EQ(in_child("FILE", [] { return std::string(); }), "");
}

TEST(Child, ChangesNothingHere) {
    int number = 1;
    in_child("FILE", [&] { return std::to_string(++number); });
    EXPECT_EQ(number, 1);
}

TEST(Child, ItsErrorsKeepTheirCodeAndText) {
    const auto broken = []() -> std::string { fail(ExitCode::no_checkpoint, "a: b"); };
    EXPECT_EQ(refusal(broken), "10 a: b");
    EXPECT_EQ(refusal([]() -> std::string { throw 7; }),
              "1 something that is no exception was thrown");
}

TEST(Child, ACrashIsALine) {
    for (const int number : {SIGSEGV, SIGABRT, SIGKILL}) {
        const std::string line = refusal([&]() -> std::string { return raise(number), ""; });
        EXPECT_CONTAINS(line, concat("3 FILE: reading it ended with signal ", number));
    }
    EXPECT_CONTAINS(refusal([]() -> std::string { _exit(7); }), "3 FILE: reading it failed");
}

TEST(Child, TakesSoMuchTimeAndMemory) {
    const auto spin = []() -> std::string {
        volatile int64_t i = 0;
        for (;;) i = i + 1;
    };
    EXPECT_CONTAINS(refusal(spin, {.seconds = 1}), "signal 9 ");
    const auto sleep = []() -> std::string { return pause(), ""; };
    EXPECT_CONTAINS(refusal(sleep, {.seconds = 1}), "signal 9 ");
    const auto hoard = [] {
        std::vector<char> bytes(size_t{1} << 28);
        return std::to_string(bytes.size());
    };
    EXPECT_EQ(refusal(hoard, {.bytes = 1 << 24}), "1 out of memory");
    EXPECT_EQ(refusal(hoard), "returned");
}

}  // namespace
}  // namespace fucina
