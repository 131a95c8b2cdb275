// Trains a tiny model under a layout, ranks being threads, and puts together what the ranks hold.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/support/tiny_run.h"
#include "trainer/step_runner.h"

namespace fucina::test {

constexpr int kSteps = 3;

using Overrides = std::vector<std::string>;

struct Ranks {
    int ranks = 1, expert = 1;
    Overrides more = {};

    std::string name() const;
};

// All that a run computes, whole tensors put together from the ranks' parts.
struct Trained {
    std::vector<StepResult> steps;
    std::map<std::string, std::vector<std::byte>> state;
};

// prepare: changes the fresh model, alike on every rank.
using Prepare = std::function<void(Model& model)>;

// Fails the test where two ranks that hold the same part of a tensor do not hold the same bits.
Trained train(const Ranks& layout, const Overrides& base, const Prepare& prepare = {},
              int steps = kSteps);

// Steps and state are the same to the last bit.
void expect_same(const Trained& got, const Trained& expected);

// The losses and settings that the tests share.
Overrides all_losses();

// A router that prefers the experts [0, chosen): the others get no token.
Prepare starve(int64_t chosen);
// A router that has no preference at all, so that every choice is a tie.
void make_ties(Model& model);

}  // namespace fucina::test
