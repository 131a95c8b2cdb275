// DeepSeek-V3's tensor names on the Hugging Face hub, and transformers 5's fused spelling of the
// experts.
#include "model/families.h"

namespace fucina::deepseek_v3 {

namespace {

using Spelling = std::vector<WeightPiece>;

WeightEntry whole(std::string parameter, std::string tensor, const std::vector<int64_t>& shape) {
    return {std::move(parameter), shape, {{WeightPiece{std::move(tensor), shape, 0}}}, {}};
}

// Matrices of `columns` columns, one over the other.
WeightEntry stacked(std::string parameter, int64_t columns,
                    const std::vector<std::pair<std::string, int64_t>>& rows) {
    Spelling pieces;
    int64_t row = 0;
    for (const auto& [tensor, count] : rows) {
        pieces.push_back({tensor, {count, columns}, row * columns});
        row += count;
    }
    return {std::move(parameter), {row, columns}, {std::move(pieces)}, {}};
}

WeightEntry linear(WeightEntry entry) {
    entry.fp8 = true;
    return entry;
}

void add_attention(const ModelSpec& spec, const std::string& ours, const std::string& theirs,
                   std::vector<WeightEntry>& out) {
    const MlaSpec& mla = spec.attention;
    const int64_t d = spec.hidden_size, latent = mla.kv_lora_rank + mla.rope_dim;
    const bool q_lora = mla.q_lora_rank > 0;
    const int64_t queries = q_lora ? mla.q_lora_rank : mla.heads * mla.qk_dim();
    out.push_back(
        linear(stacked(ours + "qkv_down", d,
                       {{theirs + (q_lora ? "q_a_proj.weight" : "q_proj.weight"), queries},
                        {theirs + "kv_a_proj_with_mqa.weight", latent}})));
    if (q_lora) {
        out.push_back(whole(ours + "q_norm", theirs + "q_a_layernorm.weight", {mla.q_lora_rank}));
        out.push_back(linear(whole(ours + "q_up", theirs + "q_b_proj.weight",
                                   {mla.heads * mla.qk_dim(), mla.q_lora_rank})));
    }
    out.push_back(whole(ours + "kv_norm", theirs + "kv_a_layernorm.weight", {mla.kv_lora_rank}));
    out.push_back(linear(whole(ours + "kv_up", theirs + "kv_b_proj.weight",
                               {mla.heads * (mla.nope_dim + mla.v_dim), mla.kv_lora_rank})));
    out.push_back(
        linear(whole(ours + "out", theirs + "o_proj.weight", {d, mla.heads * mla.v_dim})));
}

void add_mlp(int64_t d, int64_t width, const std::string& ours, const std::string& theirs,
             std::vector<WeightEntry>& out) {
    out.push_back(linear(
        stacked(ours + "gate_up", d,
                {{theirs + "gate_proj.weight", width}, {theirs + "up_proj.weight", width}})));
    out.back().shape = {2, width, d};
    out.push_back(linear(whole(ours + "down", theirs + "down_proj.weight", {d, width})));
}

void add_experts(const ModelSpec& spec, const std::string& ours, const std::string& theirs,
                 std::vector<WeightEntry>& out) {
    const int64_t d = spec.hidden_size, f = spec.moe.expert_width, n = spec.moe.router.experts;
    Spelling gate_up, down;
    for (int64_t e = 0; e < n; ++e) {
        const std::string expert = theirs + std::to_string(e);
        gate_up.push_back({expert + ".gate_proj.weight", {f, d}, 2 * e * f * d});
        gate_up.push_back({expert + ".up_proj.weight", {f, d}, (2 * e + 1) * f * d});
        down.push_back({expert + ".down_proj.weight", {d, f}, e * d * f});
    }
    out.push_back(linear({ours + "gate_up",
                          {n, 2, f, d},
                          {std::move(gate_up), {{theirs + "gate_up_proj", {n, 2 * f, d}, 0}}},
                          {}}));
    out.push_back(linear(
        {ours + "down", {n, d, f}, {std::move(down), {{theirs + "down_proj", {n, d, f}, 0}}}, {}}));
}

void add_block(const ModelSpec& spec, bool moe, const std::string& ours, const std::string& theirs,
               std::vector<WeightEntry>& out) {
    const int64_t d = spec.hidden_size;
    out.push_back(whole(ours + "attention_norm", theirs + "input_layernorm.weight", {d}));
    add_attention(spec, ours + "attention.", theirs + "self_attn.", out);
    out.push_back(whole(ours + "mlp_norm", theirs + "post_attention_layernorm.weight", {d}));
    if (!moe) {
        add_mlp(d, spec.dense_width, ours + "mlp.", theirs + "mlp.", out);
        return;
    }
    const int64_t n = spec.moe.router.experts;
    out.push_back(whole(ours + "moe.router", theirs + "mlp.gate.weight", {n, d}));
    out.push_back(
        whole(ours + "moe.router_bias", theirs + "mlp.gate.e_score_correction_bias", {n}));
    out.back().fp32 = true;
    add_experts(spec, ours + "moe.experts.", theirs + "mlp.experts.", out);
    if (spec.moe.shared_width > 0)
        add_mlp(d, spec.moe.shared_width, ours + "moe.shared.", theirs + "mlp.shared_experts.",
                out);
}

}  // namespace

std::vector<WeightEntry> weights(const ModelSpec& spec, bool with_mtp) {
    const int64_t d = spec.hidden_size;
    std::vector<WeightEntry> out;
    out.push_back(whole("embedding", "model.embed_tokens.weight", {spec.vocab_size, d}));
    if (spec.tied_head) out.back().stand_in = "lm_head.weight";
    for (int64_t layer = 0; layer < spec.layers; ++layer)
        add_block(spec, spec.is_moe(layer), "layers." + std::to_string(layer) + ".",
                  "model.layers." + std::to_string(layer) + ".", out);
    out.push_back(whole("norm", "model.norm.weight", {d}));
    if (!spec.tied_head) out.push_back(whole("head", "lm_head.weight", {spec.vocab_size, d}));
    if (with_mtp) {
        const std::string theirs = "model.layers." + std::to_string(spec.layers) + ".";
        out.push_back(whole("mtp.embedding_norm", theirs + "enorm.weight", {d}));
        out.push_back(whole("mtp.hidden_norm", theirs + "hnorm.weight", {d}));
        out.push_back(whole("mtp.join", theirs + "eh_proj.weight", {d, 2 * d}));
        add_block(spec, spec.is_moe(spec.layers), "mtp.block.", theirs, out);
        out.push_back(whole("mtp.norm", theirs + "shared_head.norm.weight", {d}));
    }
    return out;
}

}  // namespace fucina::deepseek_v3
