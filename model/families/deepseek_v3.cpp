// DeepSeek-V3 and R1 (arXiv 2412.19437): config.json keys and tensor names as on the Hugging Face
// hub and as transformers 5 writes them.
#include <nlohmann/json.hpp>
#include <tuple>

#include "kernels/error.h"
#include "model/families.h"

namespace fucina::deepseek_v3 {

namespace {

// Rotation may be given in three places: rope_theta beside rope_scaling on the hub, all of it in
// rope_parameters by transformers 5.
struct RopePlaces {
    const ConfigReader& config;
    std::vector<ConfigReader> objects;

    explicit RopePlaces(const ConfigReader& config) : config(config) {
        for (const char* key : {"rope_scaling", "rope_parameters"})
            if (std::optional<ConfigReader> object = config.object(key)) objects.push_back(*object);
    }
};

double read_theta(const RopePlaces& places) {
    Agreed<double> theta;
    const auto take = [&](const ConfigReader& place) {
        if (place.has("rope_theta"))
            theta.take(place, "rope_theta", place.real("rope_theta", 0, 1e-6));
    };
    take(places.config);
    for (const ConfigReader& object : places.objects) take(object);
    return theta.value_or(10000);
}

int64_t read_original_positions(const RopePlaces& places, int64_t max_positions) {
    constexpr const char* kKey = "original_max_position_embeddings";
    Agreed<int64_t> positions;
    const auto take = [&](const ConfigReader& place) {
        if (place.has(kKey)) positions.take(place, kKey, place.integer(kKey, 0, 1));
    };
    take(places.config);
    for (const ConfigReader& object : places.objects) take(object);
    return positions.value_or(max_positions);
}

std::string read_rope_type(const ConfigReader& object) {
    Agreed<std::string> type;
    for (const char* key : {"rope_type", "type"}) {
        if (!object.has(key)) continue;
        const std::string value = object.text(key, "");
        if (value != "yarn" && value != "default")
            fail(ExitCode::usage, object.where(key), " is \"", value,
                 "\", expected \"yarn\" or \"default\"");
        type.take(object, key, value);
    }
    return type.value_or("default");
}

std::optional<YarnScaling> read_yarn(const ConfigReader& object, int64_t original_positions,
                                     int64_t max_positions) {
    if (read_rope_type(object) == "default") return std::nullopt;
    YarnScaling yarn;
    yarn.original_max_position = original_positions;
    yarn.factor =
        object.optional_real("factor", 1)
            .value_or(static_cast<double>(max_positions) / static_cast<double>(original_positions));
    yarn.beta_fast = object.optional_real("beta_fast", 1e-6).value_or(32);
    yarn.beta_slow = object.optional_real("beta_slow", 1e-6).value_or(1);
    yarn.mscale = object.optional_real("mscale", 0).value_or(0);
    yarn.mscale_all_dim = object.optional_real("mscale_all_dim", 0).value_or(0);
    yarn.attention_factor = object.optional_real("attention_factor", 1e-6);
    yarn.truncate = object.flag("truncate", true);
    return yarn;
}

bool same(const std::optional<YarnScaling>& a, const std::optional<YarnScaling>& b) {
    if (!a || !b) return !a && !b;
    const auto all = [](const YarnScaling& y) {
        return std::tie(y.factor, y.beta_fast, y.beta_slow, y.mscale, y.mscale_all_dim,
                        y.attention_factor, y.truncate);
    };
    return all(*a) == all(*b);
}

void refuse_partial_rotation(const ConfigReader& place) {
    if (place.optional_real("partial_rotary_factor", 0).value_or(1) != 1)
        fail(ExitCode::usage, place.where("partial_rotary_factor"),
             " is not 1; all of qk_rope_head_dim rotates in this family");
}

RopeSpec read_rope(const ConfigReader& config, int64_t max_positions) {
    const RopePlaces places(config);
    RopeSpec rope;
    rope.layout =
        config.flag("rope_interleave", true) ? RopeLayout::interleaved : RopeLayout::half_split;
    rope.theta = read_theta(places);
    refuse_partial_rotation(config);
    const int64_t original = read_original_positions(places, max_positions);
    for (const ConfigReader& object : places.objects) {
        const auto yarn = read_yarn(object, original, max_positions);
        if (&object != &places.objects.front() && !same(yarn, rope.yarn))
            fail(
                ExitCode::usage, config.where("rope_scaling"),
                " and rope_parameters say different things, and both mean the same; keep the right "
                "one");
        rope.yarn = yarn;
        refuse_partial_rotation(object);
    }
    return rope;
}

// A number with two spellings; null under either is 0 where 0 is legal.
int64_t read_either(const ConfigReader& config, const char* one, const char* other,
                    int64_t fallback, int64_t least, int64_t most) {
    Agreed<int64_t> number;
    for (const char* key : {one, other}) {
        if (!config.has(key)) continue;
        const bool none = least == 0 && config.is_null(key);
        number.take(config, key, none ? 0 : config.integer(key, fallback, least, most));
    }
    return number.value_or(fallback);
}

MlaSpec read_attention(const ConfigReader& config) {
    MlaSpec mla;
    mla.heads = config.integer("num_attention_heads", 128, 1);
    const int64_t kv_heads = config.is_null("num_key_value_heads")
                                 ? mla.heads
                                 : config.integer("num_key_value_heads", mla.heads, 1);
    if (kv_heads != mla.heads)
        fail(ExitCode::usage, config.where("num_key_value_heads"), " is ", kv_heads,
             ", expected num_attention_heads = ", mla.heads,
             ": latent attention has no key groups");
    // Absent and null differ here: null (or a recipe's 0) means no query latent.
    mla.q_lora_rank = config.is_null("q_lora_rank") ? 0 : config.integer("q_lora_rank", 1536, 0);
    mla.kv_lora_rank = config.integer("kv_lora_rank", 512, 1);
    mla.nope_dim = config.integer("qk_nope_head_dim", 128, 1);
    mla.rope_dim = config.integer("qk_rope_head_dim", 64, 2);
    mla.v_dim = config.integer("v_head_dim", 128, 1);
    if (mla.rope_dim % 2 != 0)
        fail(ExitCode::usage, config.where("qk_rope_head_dim"), " is ", mla.rope_dim,
             ", expected an even number: dimensions rotate in pairs");
    return mla;
}

MoeSpec read_moe(const ConfigReader& config) {
    MoeSpec moe;
    RouterConfig& router = moe.router;
    router.experts = read_either(config, "n_routed_experts", "num_local_experts", 256, 1, 65536);
    router.top_k = config.integer("num_experts_per_tok", 8, 1, 65536);
    router.groups = config.integer("n_group", 8, 1, 65536);
    router.topk_groups = config.integer("topk_group", 4, 1, 65536);
    router.normalize = config.flag("norm_topk_prob", true);
    router.scale = static_cast<float>(config.real("routed_scaling_factor", 2.5, 0));
    moe.expert_width = config.integer("moe_intermediate_size", 2048, 1);
    // null is none, as in DeepSeek's own code.
    const int64_t shared =
        config.is_null("n_shared_experts") ? 0 : config.integer("n_shared_experts", 1, 0, 65536);
    moe.shared_width = shared * moe.expert_width;
    const int64_t group_size = router.experts / router.groups;
    if (router.experts % router.groups != 0)
        fail(ExitCode::usage, config.where("n_group"), " = ", router.groups,
             " does not divide n_routed_experts = ", router.experts);
    if (router.groups > 1 && group_size < 2)
        fail(ExitCode::usage, config.where("n_group"), " = ", router.groups, " leaves ", group_size,
             " of n_routed_experts = ", router.experts, " in a group; expected at least 2");
    if (router.topk_groups > router.groups)
        fail(ExitCode::usage, config.where("topk_group"), " = ", router.topk_groups,
             " is more than n_group = ", router.groups);
    if (router.top_k > group_size * router.topk_groups)
        fail(ExitCode::usage, config.where("num_experts_per_tok"), " = ", router.top_k,
             " is more than the ", group_size * router.topk_groups,
             " experts of topk_group = ", router.topk_groups, " groups");
    return moe;
}

void refuse_unsupported(const ConfigReader& config) {
    const auto expect = [&](const char* key, const char* only) {
        const std::string value = config.text(key, only);
        if (value != only)
            fail(ExitCode::usage, config.where(key), " is \"", value, "\"; only \"", only,
                 "\" is supported");
    };
    expect("hidden_act", "silu");
    expect("topk_method", "noaux_tc");
    expect("scoring_func", "sigmoid");
    if (config.flag("attention_bias", false))
        fail(ExitCode::usage, config.where("attention_bias"),
             " is true; biases in attention are not supported, expected false");
    if (const double dropout = config.optional_real("attention_dropout", 0).value_or(0))
        fail(ExitCode::usage, config.where("attention_dropout"), " is ", dropout,
             "; dropout is not supported, expected 0");
    if (const int64_t freq = config.integer("moe_layer_freq", 1, 1); freq != 1)
        fail(ExitCode::usage, config.where("moe_layer_freq"), " is ", freq,
             "; every layer after the dense ones has experts, expected 1");
}

}  // namespace

ModelSpec read_config(const ConfigReader& config) {
    refuse_unsupported(config);
    ModelSpec spec;
    spec.vocab_size = config.integer("vocab_size", 129280, 1, 1 << 24);
    spec.hidden_size = config.integer("hidden_size", 7168, 1, 1 << 20);
    spec.layers = config.integer("num_hidden_layers", 61, 1, 4096);
    spec.dense_layers = std::min(config.integer("first_k_dense_replace", 3, 0), spec.layers);
    spec.dense_width = config.integer("intermediate_size", 18432, 1, 1 << 22);
    spec.max_positions = config.integer("max_position_embeddings", 4096, 1);
    spec.mtp_layers = read_either(config, "num_nextn_predict_layers", "num_mtp_layers", 1, 0, 64);
    spec.norm_eps = config.real("rms_norm_eps", 1e-6, 0);
    spec.initializer_range = config.real("initializer_range", 0.02, 0);
    spec.tied_head = config.flag("tie_word_embeddings", false);
    if (spec.vocab_size > 1) spec.eos_ids = {1};
    spec.eos_ids = config.ids("eos_token_id", spec.eos_ids, spec.vocab_size);
    spec.eos_by_default = !config.has("eos_token_id");
    const std::vector<int32_t> bos = config.ids("bos_token_id", {}, spec.vocab_size);
    if (!bos.empty()) spec.bos_id = bos.front();
    spec.attention = read_attention(config);
    spec.rope = read_rope(config, spec.max_positions);
    spec.moe = read_moe(config);
    return spec;
}

nlohmann::json write_config(const ModelSpec& spec) {
    const MlaSpec& mla = spec.attention;
    const RouterConfig& router = spec.moe.router;
    nlohmann::json config = {
        {"model_type", "deepseek_v3"},
        {"architectures", {"DeepseekV3ForCausalLM"}},
        {"vocab_size", spec.vocab_size},
        {"hidden_size", spec.hidden_size},
        {"intermediate_size", spec.dense_width},
        {"moe_intermediate_size", spec.moe.expert_width},
        {"num_hidden_layers", spec.layers},
        {"num_attention_heads", mla.heads},
        {"num_key_value_heads", mla.heads},
        {"n_shared_experts", spec.moe.shared_width / spec.moe.expert_width},
        {"n_routed_experts", router.experts},
        {"routed_scaling_factor", router.scale},
        {"kv_lora_rank", mla.kv_lora_rank},
        {"q_lora_rank", mla.q_lora_rank == 0 ? nlohmann::json() : nlohmann::json(mla.q_lora_rank)},
        {"qk_rope_head_dim", mla.rope_dim},
        {"qk_nope_head_dim", mla.nope_dim},
        {"v_head_dim", mla.v_dim},
        {"n_group", router.groups},
        {"topk_group", router.topk_groups},
        {"num_experts_per_tok", router.top_k},
        {"first_k_dense_replace", spec.dense_layers},
        {"norm_topk_prob", router.normalize},
        {"hidden_act", "silu"},
        {"max_position_embeddings", spec.max_positions},
        {"initializer_range", spec.initializer_range},
        {"rms_norm_eps", spec.norm_eps},
        {"tie_word_embeddings", spec.tied_head},
        {"rope_theta", spec.rope.theta},
        {"rope_interleave", spec.rope.layout == RopeLayout::interleaved},
        {"attention_bias", false},
        {"num_nextn_predict_layers", spec.mtp_layers},
        {"eos_token_id", spec.eos_ids},
    };
    if (spec.bos_id) config["bos_token_id"] = *spec.bos_id;
    if (const auto& yarn = spec.rope.yarn) {
        nlohmann::json& scaling = config["rope_scaling"];
        scaling = {{"type", "yarn"},
                   {"rope_type", "yarn"},
                   {"rope_theta", spec.rope.theta},
                   {"factor", yarn->factor},
                   {"original_max_position_embeddings", yarn->original_max_position},
                   {"beta_fast", yarn->beta_fast},
                   {"beta_slow", yarn->beta_slow},
                   {"mscale", yarn->mscale},
                   {"mscale_all_dim", yarn->mscale_all_dim},
                   {"truncate", yarn->truncate}};
        if (yarn->attention_factor) scaling["attention_factor"] = *yarn->attention_factor;
    }
    return config;
}

}  // namespace fucina::deepseek_v3
