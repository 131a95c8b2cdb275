// A tiny DeepSeek-V3 with random weights that are far from initial ones: every gain, bias and
// expert matters.
#pragma once
#include <nlohmann/json.hpp>

#include "model/model.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {

inline nlohmann::json tiny_config() {
    return {{"model_type", "deepseek_v3"},
            {"vocab_size", 37},
            {"hidden_size", 24},
            {"intermediate_size", 40},
            {"moe_intermediate_size", 12},
            {"num_hidden_layers", 3},
            {"num_attention_heads", 3},
            {"num_key_value_heads", 3},
            {"n_routed_experts", 6},
            {"num_experts_per_tok", 2},
            {"n_group", 3},
            {"topk_group", 2},
            {"first_k_dense_replace", 1},
            {"q_lora_rank", 10},
            {"kv_lora_rank", 14},
            {"qk_rope_head_dim", 6},
            {"qk_nope_head_dim", 5},
            {"v_head_dim", 7},
            {"max_position_embeddings", 64},
            {"num_nextn_predict_layers", 1},
            {"eos_token_id", 1}};
}

inline ModelSpec tiny_spec(const nlohmann::json& changes = nlohmann::json::object()) {
    nlohmann::json config = tiny_config();
    config.update(changes);
    return ModelSpec::from_config(config, "tiny");
}

inline void randomize(Model& model, uint64_t seed) {
    for (Parameter* parameter : model.parameters()) {
        const bool vector = parameter->value.rank() == 1;
        Random random(seed++);
        for (float& x : std::span(parameter->value.data<float>(),
                                  static_cast<size_t>(parameter->value.size())))
            x = (vector && parameter->trained ? 1.0f : 0.0f) + 0.2f * random.normal();
    }
    model.repack();
}

// Every loss runs.
inline const PassOptions kAllLosses = {
    .loss_scale = 0.02, .mtp_scale = 0.01, .balance_scale = 0.05};

inline Model tiny_model(const ModelSpec& spec, const ModelOptions& options, uint64_t seed = 7) {
    Model model(spec, options);
    randomize(model, seed);
    return model;
}

// Documents of the given lengths, random ids.
inline std::vector<std::vector<int32_t>> random_documents(std::vector<int64_t> lengths,
                                                          int64_t vocab, uint64_t seed) {
    Random random(seed);
    std::vector<std::vector<int32_t>> documents;
    for (const int64_t length : lengths) {
        documents.emplace_back();
        for (int64_t t = 0; t < length; ++t)
            documents.back().push_back(static_cast<int32_t>(random.below(vocab)));
    }
    return documents;
}

}  // namespace fucina::test
