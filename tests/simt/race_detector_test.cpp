// The race detector alone: what is ordered by release and acquire, and what is not.
#include "tests/simt/race_detector.h"

#include <gtest/gtest.h>

namespace fucina::simt {
namespace {

class Races : public testing::Test {
  protected:
    void SetUp() override {
        detector_.reset(4);
        detector_.cover(64);
    }
    void meet(std::initializer_list<int> threads) {
        Clock clock;
        for (const int thread : threads) detector_.release(thread, clock);
        for (const int thread : threads) detector_.acquire(thread, clock);
    }
    Operation start(int thread) {
        Clock before;
        detector_.release(thread, before);
        return detector_.start(before, "copy");
    }
    // What an operation's access conflicts with: "" if nothing.
    std::string by(const Operation& operation, uint32_t at, bool is_write) {
        const auto conflict = detector_.access(operation, at, 4, is_write);
        if (!conflict) return "";
        return (conflict->kind == Conflict::Kind::not_fenced ? "not fenced: " : "unordered: ") +
               detector_.name_of(conflict->other);
    }
    // -2: no conflict, -1: never written, else the other thread or operation.
    int write(int thread, uint32_t at, uint32_t bytes = 4) {
        return access(thread, at, bytes, true);
    }
    int read(int thread, uint32_t at, uint32_t bytes = 4) {
        return access(thread, at, bytes, false);
    }

    RaceDetector detector_;

  private:
    int access(int thread, uint32_t at, uint32_t bytes, bool is_write) {
        const auto conflict = detector_.access(thread, at, bytes, is_write);
        return conflict ? conflict->other : -2;
    }
};

TEST_F(Races, ReadBeforeAnyWrite) {
    EXPECT_EQ(read(0, 8), -1);
    EXPECT_EQ(write(0, 8), -2);
    EXPECT_EQ(read(0, 8), -2);
    EXPECT_EQ(read(0, 10), -1);  // two of its bytes lie behind the write
}

TEST_F(Races, WriteThenRead) {
    write(0, 0);
    EXPECT_EQ(read(1, 0), 0);
    meet({0, 1});
    EXPECT_EQ(read(1, 0), -2);
    EXPECT_EQ(read(2, 3, 1), 0);  // the meeting was not its
}

TEST_F(Races, WriteThenWrite) {
    write(3, 0);
    EXPECT_EQ(write(1, 2, 1), 3);
    meet({1, 3});
    EXPECT_EQ(write(1, 2, 1), -2);
}

TEST_F(Races, EachOfSeveralReadersIsRemembered) {
    write(0, 0);
    meet({0, 1, 2, 3});
    for (int thread = 1; thread < 4; ++thread) EXPECT_EQ(read(thread, 0), -2);
    meet({0, 1, 3});
    EXPECT_EQ(write(0, 0), 2);
    meet({0, 2});
    EXPECT_EQ(write(0, 0), -2);
    EXPECT_EQ(write(0, 0), -2);
}

// Bytes that were read together have their readers in one list, until some are read alone.
TEST_F(Races, AReaderOfPartOfThemIsOneOfThatPart) {
    write(0, 0, 16);
    meet({0, 1, 2, 3});
    for (int thread = 0; thread < 3; ++thread) EXPECT_EQ(read(thread, 0, 16), -2);
    EXPECT_EQ(read(3, 4), -2);
    meet({0, 1, 2});
    EXPECT_EQ(write(0, 0), -2);
    EXPECT_EQ(write(0, 4), 3);
    EXPECT_EQ(write(0, 8, 8), -2);
    EXPECT_EQ(write(0, 7, 1), 3);
    meet({0, 3});
    EXPECT_EQ(write(0, 4), -2);
}

TEST_F(Races, SoIsTheSecondOfTwo) {
    write(0, 0);
    meet({0, 1, 2});
    EXPECT_EQ(read(1, 0), -2);
    EXPECT_EQ(read(2, 0), -2);
    meet({0, 1});
    EXPECT_EQ(write(0, 0), 2);
}

TEST_F(Races, OrderIsTransitive) {
    write(0, 0);
    meet({0, 1});
    meet({1, 2});
    EXPECT_EQ(read(2, 0), -2);
    EXPECT_EQ(read(3, 0), 0);
}

TEST_F(Races, WhatComesAfterAReleaseIsNotOrderedByIt) {
    meet({0, 1});
    write(0, 0);
    EXPECT_EQ(read(1, 0), 0);
}

TEST_F(Races, AnOperationFollowsItsIssuer) {
    write(0, 0);
    write(1, 8);
    detector_.fence(0);
    detector_.fence(1);
    const Operation copy = start(0);
    EXPECT_EQ(by(copy, 0, false), "");
    EXPECT_EQ(by(copy, 8, false), "unordered: thread 1");
    EXPECT_GE(write(0, 0), 4);  // it may not have read yet
    EXPECT_EQ(detector_.name_of(write(0, 0)), "copy");
    detector_.finish(copy, 0);
    EXPECT_EQ(write(0, 0), -2);
}

TEST_F(Races, AnOperationsWritesAreKnownByItsEnd) {
    const Operation copy = start(0);
    EXPECT_EQ(by(copy, 0, true), "");
    EXPECT_GE(read(0, 0), 4);
    Clock barrier;
    detector_.publish(copy, barrier);
    detector_.acquire(1, barrier);
    EXPECT_EQ(read(1, 0), -2);
    EXPECT_GE(read(0, 0), 4);
    meet({0, 1});
    EXPECT_EQ(read(0, 0), -2);
}

TEST_F(Races, OperationsWantAFenceAfterWrites) {
    write(0, 0);
    EXPECT_EQ(by(start(0), 0, false), "not fenced: thread 0");
    EXPECT_EQ(by(start(0), 0, true), "not fenced: thread 0");
    detector_.fence(0);
    write(0, 4);
    EXPECT_EQ(by(start(0), 0, false), "");
    EXPECT_EQ(by(start(0), 4, false), "not fenced: thread 0");
    meet({0, 1});
    detector_.fence(1);  // on the way from the writer to the operation
    EXPECT_EQ(by(start(1), 4, false), "");
    EXPECT_EQ(by(start(0), 4, false), "not fenced: thread 0");
}

TEST_F(Races, AnOperationOfAWarpgroupEndsWithAllItsParts) {
    write(0, 0);
    detector_.fence(0);
    const Operation wgmma = start(0);
    EXPECT_EQ(by(wgmma, 0, false), "");
    for (int part = 0; part < 4; ++part) {
        EXPECT_GE(write(0, 0), 4) << part;
        detector_.finish(wgmma, 0, part);
    }
    EXPECT_EQ(write(0, 0), -2);
}

TEST_F(Races, ResetForgets) {
    write(0, 0);
    detector_.reset(2);
    detector_.cover(8);
    EXPECT_EQ(read(1, 0), -1);
    EXPECT_EQ(write(1, 0), -2);
}

}  // namespace
}  // namespace fucina::simt
