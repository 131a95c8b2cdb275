// The loss on held-out data: every sequence of every source of data.valid once, shared among ranks.
#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "data/batch_loader.h"
#include "model/model.h"
#include "parallel/mesh.h"

namespace fucina {

struct HeldOutLoss {
    double nats_per_token = 0;  // mean cross-entropy of the tokens that are predicted
    // The same sum in bits, over the bytes of text that these tokens stand for: comparable between
    // tokenizers. Absent where the tokens' bytes are not known, or there are none.
    std::optional<double> bits_per_byte;
};

// The same on every rank and for any number of ranks. `at_a_time`: sequences of one forward.
// `token_bytes`: of each id (Tokenizer::token_bytes), or empty; ids beyond it have none.
HeldOutLoss evaluate_loss(const Mesh& mesh, Model& model, const BatchLoader& valid,
                          int64_t at_a_time, std::span<const int32_t> token_bytes = {});

}  // namespace fucina
