// Generation: one token after another from a Model, with its latent cache.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace fucina {

struct Sampling {
    double temperature = 0;  // 0: the most likely token, the lowest id among equals
    double top_p = 1;        // of the smallest set of tokens with at least this probability
    uint64_t seed = 0;
};

// The next token from logits [V]; `step` numbers the draws of a text.
// Logits that are not all finite fail (exit 13).
int32_t choose_token(std::span<const float> logits, const Sampling& sampling, uint32_t step);

struct GenerationOptions {
    int64_t max_tokens = 256;  // at most so many new ones
    Sampling sampling;
    std::vector<int32_t> stop_ids;  // ends after any of them, which is not part of the result
};

// Fails with `code` where `tokens` are more than the model has positions for, `what` being what is
// so long. Rotary positions beyond those trained would compute, and mean nothing.
void check_positions(int64_t tokens, const ModelSpec& spec, const std::string& what, ExitCode code);

// prompt: at least one id, and no more than the model has positions for; generation ends at the
// model's last position. on_token hears of every new token as it is chosen.
std::vector<int32_t> generate(Model& model, std::span<const int32_t> prompt,
                              const GenerationOptions& options,
                              const std::function<void(int32_t)>& on_token = {});

// What each of the prompts goes on with, which is what it would alone. At most `together` of them
// are in work at a time: one that ends makes room for the next. on_token: of the prompt of that
// number.
std::vector<std::vector<int32_t>> generate_all(
    Model& model, std::span<const std::vector<int32_t>> prompts, int64_t together,
    const GenerationOptions& options,
    const std::function<void(size_t prompt, int32_t token)>& on_token = {});

}  // namespace fucina
