// ModelSpec: a model as data, dimensions and choices, whatever family it comes from. Read from a
// Hugging Face config.json or from a recipe's model section, which has the same key names; defaults
// are transformers'.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/moe.h"
#include "kernels/rope.h"

namespace fucina {

struct RopeSpec {
    double theta = 10000;
    std::optional<YarnScaling> yarn;
    RopeLayout layout = RopeLayout::interleaved;
};

// Multi-head latent attention (arXiv 2405.04434 §2.1).
struct MlaSpec {
    int64_t heads = 0;
    int64_t q_lora_rank = 0;  // 0: queries come straight from the hidden state
    int64_t kv_lora_rank = 0;
    int64_t nope_dim = 0, rope_dim = 0, v_dim = 0;  // per head
    int64_t qk_dim() const { return nope_dim + rope_dim; }
};

struct MoeSpec {
    RouterConfig router;
    int64_t expert_width = 0;
    int64_t shared_width = 0;  // of all shared experts together; 0: none
};

struct ModelSpec {
    std::string family;  // config.json's model_type
    int64_t vocab_size = 0, hidden_size = 0;
    int64_t layers = 0;        // decoder blocks, MTP not counted
    int64_t dense_layers = 0;  // the first ones have a dense MLP, the others experts
    int64_t dense_width = 0;
    int64_t max_positions = 0;
    int64_t mtp_layers = 0;  // as configured; whether they exist is decided by weights or recipe
    double norm_eps = 1e-6;
    double initializer_range = 0.02;
    bool tied_head = false;
    std::vector<int32_t> eos_ids;  // generation stops at any of them
    bool eos_by_default = false;   // no file named them
    std::optional<int32_t> bos_id;
    MlaSpec attention;
    RopeSpec rope;
    MoeSpec moe;

    bool is_moe(int64_t layer) const { return layer >= dense_layers; }
    int64_t moe_layers() const { return dense_layers < layers ? layers - dense_layers : 0; }

    // Whether sums over heads, widths of MLPs and vocabulary can be cut into so many equal chunks
    // (kernels/k_cut.h): 1, 2 or 4; those that FP8 products are of, in whole blocks of 128. Queries
    // straight from the hidden state are not cut.
    bool chunks_divide(int64_t chunks, bool fp8 = false) const;
    int64_t most_chunks(bool fp8 = false) const;

    // Fails (exit 2) in one line that begins with source_name: unknown model_type, wrong type or
    // range, numbers that do not divide (both are named), features that are not supported.
    static ModelSpec from_config(const nlohmann::json& config, const std::string& source_name);
    // The config.json of this model; from_config gives the same spec back.
    nlohmann::json to_config() const;
};

}  // namespace fucina
