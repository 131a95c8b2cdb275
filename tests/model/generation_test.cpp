// Choice of tokens, and generation against logits of the full forward.
#include "model/generation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

TEST(ChooseToken, GreedyTakesTheLowestIdAmongEquals) {
    const std::vector<float> logits = {1, 5, -2, 5};
    EXPECT_EQ(choose_token(logits, {}, 0), 1);
}

TEST(ChooseToken, LogitsThatAreNotFiniteAreRefused) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = HUGE_VALF;
    for (const float bad : {nan, inf, -inf}) {
        for (const double temperature : {0.0, 0.7}) {
            try {
                choose_token(std::vector<float>{1, bad, 2}, {.temperature = temperature}, 5);
                ADD_FAILURE() << bad;
            } catch (const Error& error) {
                EXPECT_EQ(error.code(), ExitCode::non_finite);
                EXPECT_CONTAINS(std::string(error.what()), "the logit of token 1 is");
            }
        }
    }
}

// Probabilities 0.5, 0.3, 0.15, 0.05: top-p 0.6 keeps two, whose shares become 5/8 and 3/8.
TEST(ChooseToken, TopPKeepsTheSmallestSet) {
    std::vector<float> logits;
    for (const double p : {0.05, 0.3, 0.15, 0.5}) logits.push_back(static_cast<float>(std::log(p)));
    const Sampling sampling{.temperature = 1, .top_p = 0.6, .seed = 3};
    std::vector<int> counts(4);
    constexpr int kDraws = 4000;
    for (uint32_t step = 0; step < kDraws; ++step)
        ++counts[static_cast<size_t>(choose_token(logits, sampling, step))];
    EXPECT_EQ(counts[0] + counts[2], 0);
    EXPECT_NEAR(counts[3], kDraws * 0.625, 4 * std::sqrt(kDraws * 0.625 * 0.375));
}

// Temperature ½ squares the odds: 0.5² to 0.25² is 4 to 1.
TEST(ChooseToken, TemperatureSharpens) {
    const std::vector<float> logits = {std::log(0.5f), std::log(0.25f)};
    const Sampling sampling{.temperature = 0.5, .seed = 9};
    int first = 0;
    constexpr int kDraws = 4000;
    for (uint32_t step = 0; step < kDraws; ++step)
        first += choose_token(logits, sampling, step) == 0;
    EXPECT_NEAR(first, kDraws * 0.8, 4 * std::sqrt(kDraws * 0.8 * 0.2));
}

TEST(ChooseToken, SeedAndStepDecide) {
    const std::vector<float> logits(50, 0.0f);
    const Sampling one{.temperature = 1, .seed = 1}, two{.temperature = 1, .seed = 2};
    std::vector<int32_t> a, again, b;
    for (uint32_t step = 0; step < 20; ++step) {
        a.push_back(choose_token(logits, one, step));
        again.push_back(choose_token(logits, one, step));
        b.push_back(choose_token(logits, two, step));
    }
    EXPECT_EQ(a, again);
    EXPECT_NE(a, b);
}

TEST(Generate, GreedyFollowsTheFullForward) {
    const ModelSpec spec = test::tiny_spec();
    Model model = test::tiny_model(spec, {.compute = DType::f32, .training = false});
    std::vector<int32_t> text = {3, 14, 15, 9};
    std::vector<int32_t> heard;
    const std::vector<int32_t> made =
        generate(model, text, {.max_tokens = 12}, [&](int32_t id) { heard.push_back(id); });
    EXPECT_EQ(made, heard);
    ASSERT_EQ(made.size(), 12u);
    for (const int32_t id : made) {
        const std::vector<std::vector<int32_t>> so_far = {text};
        const Tensor logits = model.logits(make_batch(so_far));
        const float* last = logits.row<float>(logits.rows() - 1);
        EXPECT_EQ(id, std::max_element(last, last + spec.vocab_size) - last);
        text.push_back(id);
    }
    // The third token as a stop token ends the text before it.
    const std::vector<int32_t> prompt(text.begin(), text.begin() + 4);
    const auto first = std::ranges::find(made, made[2]) - made.begin();
    const std::vector<int32_t> stopped =
        generate(model, prompt, {.max_tokens = 12, .stop_ids = {made[2]}}, [](int32_t) {});
    EXPECT_EQ(static_cast<int64_t>(stopped.size()), first);
}

// However many are in work together, also where some end early and others take their place.
TEST(Generate, TextsInABatchAreWhatTheyAreAlone) {
    const ModelSpec spec = test::tiny_spec();
    const auto prompts = test::random_documents({5, 1, 9, 3, 7, 2, 4}, spec.vocab_size, 5);
    for (const DType compute : {DType::f32, DType::bf16})
        for (const double temperature : {0.0, 0.9}) {
            Model model = test::tiny_model(spec, {.compute = compute, .training = false});
            GenerationOptions options{.max_tokens = 10,
                                      .sampling = {.temperature = temperature, .seed = 3}};
            std::vector<std::vector<int32_t>> alone;
            for (const auto& prompt : prompts) alone.push_back(generate(model, prompt, options));
            options.stop_ids = {alone[2][4], alone[0][1]};
            for (size_t i = 0; i < prompts.size(); ++i)
                alone[i] = generate(model, prompts[i], options);
            EXPECT_LT(alone[0].size(), 2U);
            for (const int64_t together : {1, 2, 3, 100}) {
                std::vector<std::vector<int32_t>> heard(prompts.size());
                EXPECT_EQ(generate_all(model, prompts, together, options,
                                       [&](size_t i, int32_t id) { heard[i].push_back(id); }),
                          alone)
                    << together;
                EXPECT_EQ(heard, alone);
            }
        }
}

// Of texts of many lengths, to the last bit.
TEST(Generate, LogitsDoNotDependOnTheOtherTexts) {
    const ModelSpec spec = test::tiny_spec();
    Model model = test::tiny_model(spec, {.compute = DType::bf16, .training = false});
    const auto texts = test::random_documents({6, 19, 11}, spec.vocab_size, 8);
    const std::vector<int32_t> next = {3, 1, 4};
    std::vector<LatentCache> together, alone;
    std::vector<Continuation> prompts, tokens;
    for (size_t i = 0; i < texts.size(); ++i) {
        together.push_back(model.make_cache(20));
        alone.push_back(model.make_cache(20));
    }
    for (size_t i = 0; i < texts.size(); ++i) {
        prompts.push_back({texts[i], &together[i]});
        tokens.push_back({{&next[i], 1}, &together[i]});
    }
    const Tensor first = model.extend(prompts), second = model.extend(tokens);
    for (size_t i = 0; i < texts.size(); ++i) {
        const auto same = [&](const Tensor& batch, const Tensor& own) {
            const auto row = static_cast<int64_t>(i);
            return std::memcmp(batch.row<float>(row), own.raw(),
                               static_cast<size_t>(own.bytes())) == 0;
        };
        EXPECT_TRUE(same(first, model.extend(texts[i], alone[i]))) << i;
        EXPECT_TRUE(same(second, model.extend({&next[i], 1}, alone[i]))) << i;
    }
}

}  // namespace
}  // namespace fucina
