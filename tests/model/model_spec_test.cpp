// ModelSpec from config.json: spellings, defaults, and one-line errors.
#include "model/model_spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using nlohmann::json;

std::string error_of(const json& changes) {
    try {
        test::tiny_spec(changes);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::usage);
        const std::string text = error.what();
        EXPECT_EQ(text.find('\n'), std::string::npos);
        EXPECT_EQ(text.rfind("tiny", 0), 0u) << text;
        return text;
    }
    ADD_FAILURE() << changes.dump() << " was accepted";
    return {};
}

TEST(ModelSpec, DefaultsAreThoseOfTransformers) {
    const ModelSpec spec = ModelSpec::from_config({{"model_type", "deepseek_v3"}}, "c");
    EXPECT_EQ(spec.vocab_size, 129280);
    EXPECT_EQ(spec.hidden_size, 7168);
    EXPECT_EQ(spec.layers, 61);
    EXPECT_EQ(spec.dense_layers, 3);
    EXPECT_EQ(spec.attention.q_lora_rank, 1536);
    EXPECT_EQ(spec.attention.qk_dim(), 192);
    EXPECT_EQ(spec.moe.router.groups, 8);
    EXPECT_EQ(spec.moe.shared_width, 2048);
    EXPECT_EQ(spec.rope.theta, 10000);
    EXPECT_FALSE(spec.rope.yarn);
    EXPECT_EQ(spec.eos_ids, std::vector<int32_t>{1});
}

TEST(ModelSpec, NullQueryRankMeansNoQueryLatent) {
    EXPECT_EQ(test::tiny_spec({{"q_lora_rank", nullptr}}).attention.q_lora_rank, 0);
    EXPECT_EQ(test::tiny_spec({{"q_lora_rank", 0}}).attention.q_lora_rank, 0);
}

// What transformers, or DeepSeek's own code where transformers refuses, takes null for.
TEST(ModelSpec, NullIsWhatTheOthersTakeItFor) {
    const auto with_null = [](const char* key) { return test::tiny_spec({{key, nullptr}}); };
    EXPECT_EQ(with_null("n_shared_experts").moe.shared_width, 0);
    EXPECT_EQ(with_null("rope_interleave").rope.layout, RopeLayout::half_split);
    EXPECT_FALSE(with_null("norm_topk_prob").moe.router.normalize);
    EXPECT_FALSE(with_null("tie_word_embeddings").tied_head);
    EXPECT_EQ(with_null("num_key_value_heads").attention.heads, 3);
    EXPECT_EQ(with_null("num_nextn_predict_layers").mtp_layers, 0);
    EXPECT_TRUE(with_null("eos_token_id").eos_ids.empty());
    for (const char* key :
         {"attention_bias", "attention_dropout", "rope_scaling", "rope_parameters",
          "quantization_config", "bos_token_id", "pad_token_id"})
        with_null(key);
    for (const char* key : {"vocab_size",
                            "hidden_size",
                            "num_hidden_layers",
                            "first_k_dense_replace",
                            "intermediate_size",
                            "moe_intermediate_size",
                            "num_attention_heads",
                            "kv_lora_rank",
                            "qk_nope_head_dim",
                            "qk_rope_head_dim",
                            "v_head_dim",
                            "n_routed_experts",
                            "num_experts_per_tok",
                            "n_group",
                            "topk_group",
                            "routed_scaling_factor",
                            "rms_norm_eps",
                            "initializer_range",
                            "max_position_embeddings",
                            "rope_theta",
                            "hidden_act",
                            "topk_method",
                            "scoring_func",
                            "moe_layer_freq"})
        EXPECT_CONTAINS(error_of({{key, nullptr}}), std::string(key) + " is null, expected");
    const json yarn = {{"type", "yarn"},
                       {"factor", nullptr},
                       {"beta_fast", nullptr},
                       {"mscale", nullptr},
                       {"attention_factor", nullptr},
                       {"truncate", nullptr},
                       {"original_max_position_embeddings", 16}};
    const RopeSpec rope = test::tiny_spec({{"rope_scaling", yarn}}).rope;
    EXPECT_EQ(rope.yarn->factor, 4);
    EXPECT_EQ(rope.yarn->beta_fast, 32);
    EXPECT_FALSE(rope.yarn->attention_factor);
    EXPECT_FALSE(rope.yarn->truncate);
}

TEST(ModelSpec, TwoSpellingsMustAgree) {
    const json yarn = {{"type", "yarn"}, {"factor", 4}}, other = {{"type", "yarn"}, {"factor", 8}};
    const json none = {{"rope_type", "default"}};
    const json theta = {{"rope_type", "default"}, {"rope_theta", 500}};
    struct Case {
        json changes;
        std::vector<std::string> named;
    };
    const std::vector<Case> cases = {
        {{{"num_nextn_predict_layers", 0}, {"num_mtp_layers", 1}},
         {"num_mtp_layers is 1", "num_nextn_predict_layers is 0"}},
        {{{"num_local_experts", 12}}, {"num_local_experts is 12", "n_routed_experts is 6"}},
        {{{"rope_theta", 10000}, {"rope_parameters", theta}},
         {"rope_parameters.rope_theta is 500", "rope_theta is 10000"}},
        {{{"rope_scaling", yarn}, {"rope_parameters", other}}, {"rope_scaling", "rope_parameters"}},
        {{{"rope_scaling", yarn}, {"rope_parameters", none}}, {"rope_scaling", "rope_parameters"}},
        {{{"rope_scaling", {{"type", "yarn"}, {"rope_type", "default"}}}},
         {"rope_scaling.type is yarn", "rope_scaling.rope_type is default"}},
        {{{"original_max_position_embeddings", 8},
          {"rope_scaling", {{"type", "yarn"}, {"original_max_position_embeddings", 16}}}},
         {"rope_scaling.original_max_position_embeddings is 16", "is 8"}},
        {{{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor"}},
    };
    for (const Case& one : cases)
        for (const std::string& name : one.named) EXPECT_CONTAINS(error_of(one.changes), name);
    json both = {{"rope_theta", 500}, {"rope_scaling", yarn}, {"rope_parameters", yarn}};
    both["rope_parameters"]["rope_type"] = "yarn";
    both["rope_parameters"]["rope_theta"] = 500;
    EXPECT_EQ(test::tiny_spec(both).rope.theta, 500);
    EXPECT_EQ(test::tiny_spec({{"num_local_experts", 6}, {"num_mtp_layers", 1}}).mtp_layers, 1);
    EXPECT_EQ(
        test::tiny_spec({{"rope_scaling", json::object()}, {"rope_parameters", theta}}).rope.theta,
        500);
}

TEST(ModelSpec, HubAndNewRopeSpellingsAgree) {
    const json yarn = {{"factor", 4.0},   {"original_max_position_embeddings", 16},
                       {"mscale", 1.0},   {"mscale_all_dim", 0.5},
                       {"beta_fast", 32}, {"beta_slow", 1}};
    json hub = {{"rope_theta", 5000.0}, {"rope_scaling", yarn}};
    hub["rope_scaling"]["type"] = "yarn";
    json renamed = hub;
    renamed["rope_scaling"].erase("type");
    renamed["rope_scaling"]["rope_type"] = "yarn";
    json flat = {{"rope_parameters", yarn}};
    flat["rope_parameters"]["rope_type"] = "yarn";
    flat["rope_parameters"]["rope_theta"] = 5000.0;
    for (const json& config : {hub, renamed, flat}) {
        const RopeSpec rope = test::tiny_spec(config).rope;
        EXPECT_EQ(rope.theta, 5000);
        ASSERT_TRUE(rope.yarn) << config.dump();
        EXPECT_EQ(rope.yarn->factor, 4);
        EXPECT_EQ(rope.yarn->original_max_position, 16);
        EXPECT_EQ(rope.yarn->mscale_all_dim, 0.5);
        EXPECT_TRUE(rope.yarn->truncate);
    }
    EXPECT_FALSE(test::tiny_spec({{"rope_scaling", nullptr}}).rope.yarn);
    const json none = {{"rope_type", "default"}};
    EXPECT_FALSE(test::tiny_spec({{"rope_parameters", none}}).rope.yarn);
}

TEST(ModelSpec, ConfigRoundTrip) {
    const json yarn = {{"type", "yarn"}, {"factor", 4}, {"attention_factor", 1.25}};
    const json changes = {{"tie_word_embeddings", true},
                          {"rms_norm_eps", 1e-5},
                          {"n_shared_experts", 2},
                          {"eos_token_id", json::array({3, 5})},
                          {"rope_scaling", yarn}};
    const ModelSpec spec = test::tiny_spec(changes);
    const json written = spec.to_config();
    EXPECT_EQ(ModelSpec::from_config(written, "again").to_config(), written);
    EXPECT_EQ(written["rms_norm_eps"], 1e-5);
    EXPECT_EQ(written["n_shared_experts"], 2);
    EXPECT_EQ(written["rope_scaling"]["original_max_position_embeddings"], 64);
}

// The default end of text is id 1.
TEST(ModelSpec, AVocabularyOfOneHasNoEndOfText) {
    const json small = {{"model_type", "deepseek_v3"}, {"vocab_size", 1}};
    const ModelSpec spec = ModelSpec::from_config(small, "config.json");
    EXPECT_TRUE(spec.eos_ids.empty());
    EXPECT_TRUE(ModelSpec::from_config(spec.to_config(), "again").eos_ids.empty());
}

TEST(ModelSpec, TextsInMessagesAreShortAndOnOneLine) {
    for (const std::string& text : {std::string("de\nep"), std::string(201, 'x')}) {
        try {
            test::tiny_spec({{"rope_scaling", {{"type", text}}}});
            ADD_FAILURE() << "accepted";
        } catch (const Error& error) {
            const std::string line = error.what();
            EXPECT_EQ(line.find('\n'), line.npos);
            EXPECT_LT(line.size(), 200u);
        }
    }
}

TEST(ModelSpec, MistakesNameKeyAndBothNumbers) {
    EXPECT_CONTAINS(error_of({{"model_type", "gpt5"}}), "\"gpt5\"");
    EXPECT_CONTAINS(error_of({{"model_type", "gpt5"}}), "known families: deepseek_v3");
    EXPECT_CONTAINS(error_of({{"model_type", nullptr}}), "is missing");
    const std::string divide = error_of({{"n_group", 4}});
    EXPECT_CONTAINS(divide, "n_group = 4");
    EXPECT_CONTAINS(divide, "n_routed_experts = 6");
    EXPECT_CONTAINS(error_of({{"hidden_size", "24"}}),
                    "hidden_size is \"24\", expected an integer");
    EXPECT_CONTAINS(error_of({{"hidden_size", -4}}), "hidden_size is -4");
    EXPECT_CONTAINS(error_of({{"vocab_size", 1.5}}), "vocab_size is 1.5");
    EXPECT_CONTAINS(error_of({{"vocab_size", 18446744073709551615u}}), "vocab_size is 1844674407");
    EXPECT_CONTAINS(error_of({{"qk_rope_head_dim", 7}}), "qk_rope_head_dim is 7");
    EXPECT_CONTAINS(error_of({{"num_key_value_heads", 1}}), "num_attention_heads = 3");
    EXPECT_CONTAINS(error_of({{"num_experts_per_tok", 5}}), "more than the 4 experts");
    EXPECT_CONTAINS(error_of({{"topk_group", 4}}), "n_group = 3");
    EXPECT_CONTAINS(error_of({{"attention_bias", true}}), "attention_bias is true");
    EXPECT_CONTAINS(error_of({{"hidden_act", "gelu"}}), "\"gelu\"");
    const json llama3 = {{"type", "llama3"}};
    EXPECT_CONTAINS(error_of({{"rope_scaling", llama3}}), "rope_scaling.type is \"llama3\"");
    EXPECT_CONTAINS(error_of({{"rope_scaling", 4}}), "rope_scaling is 4, expected an object");
    EXPECT_CONTAINS(error_of({{"eos_token_id", json::array({1, -1})}}), "eos_token_id is [1,-1]");
}

}  // namespace
}  // namespace fucina
