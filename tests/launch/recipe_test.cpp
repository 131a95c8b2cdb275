// Recipes: every kind of mistake gives its one line, and every legal one comes back as it went in.
#include "launch/recipe.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "kernels/error.h"
#include "launch/recipe_rules.h"
#include "model/model_spec.h"

namespace fucina {
namespace {

constexpr const char* kModel =
    "[model]\nvocab_size = 256\nhidden_size = 64\nintermediate_size = 96\n"
    "moe_intermediate_size = 32\nnum_hidden_layers = 3\nnum_attention_heads = 4\n"
    "n_routed_experts = 8\nkv_lora_rank = 16\nqk_rope_head_dim = 8\nv_head_dim = 12\n"
    "qk_nope_head_dim = 10\nnum_experts_per_tok = 2\nrope_theta = 10000\n"
    "[model.rope_scaling]\ntype = \"yarn\"\nfactor = 4\n"
    "original_max_position_embeddings = 64\n";

constexpr const char* kRest =
    "[run]\ndir = \"runs/a\"\n"
    "[data]\ntrain = [{path = \"ids.json\"}, {path = \"b\", format = \"store\", weight = 2}]\n"
    "sequence_length = 32\n"
    "[train]\nsteps = 10\nbetas = [0.9, 0.99]\nlearning_rate = 1e-3\n";

std::string good() {
    return std::string(kModel) + kRest;
}

ResolvedRecipe parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return parse_recipe(text, "r.toml", overrides);
}

// The message of the error that parsing gives; all of them are usage errors.
std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
    try {
        parse(text, overrides);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::usage);
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
        return error.what();
    }
    return "no error";
}

TEST(Recipe, DefaultsFileAndOverridesAreTold) {
    const ResolvedRecipe resolved = parse(good(), {"train.steps=20", "run.dir=runs/b"});
    EXPECT_EQ(resolved.recipe.train().steps(), 20);
    EXPECT_EQ(resolved.recipe.run().dir(), "runs/b");
    EXPECT_EQ(resolved.recipe.train().learning_rate(), 1e-3);
    EXPECT_EQ(resolved.recipe.train().schedule(), "cosine");
    EXPECT_EQ(resolved.recipe.exact().grain(), 1);
    EXPECT_EQ(resolved.recipe.model().rope_theta(), 10000.0);  // an integer for a float
    EXPECT_EQ(resolved.recipe.model().num_key_value_heads(), 4);
    EXPECT_EQ(resolved.recipe.data().train(0).format(), "tokens");
    EXPECT_EQ(resolved.recipe.data().train(0).weight(), 1.0);
    EXPECT_EQ(resolved.recipe.train().router_bias_update(), 1e-3);
    EXPECT_EQ(resolved.origins.at("train.steps"), "--set");
    EXPECT_EQ(resolved.origins.at("train.learning_rate"), "file");
    EXPECT_EQ(resolved.origins.at("train.schedule"), "default");
    const std::string listing = recipe_listing(resolved);
    EXPECT_NE(listing.find("train.steps"), std::string::npos);
    EXPECT_NE(listing.find("--set"), std::string::npos);
}

TEST(Recipe, AModelFromElsewhereIsTrainedAsItIs) {
    const ResolvedRecipe resolved = parse(kRest, {"model.from=hf"});
    EXPECT_EQ(resolved.recipe.train().router_bias_update(), 0.0);
    EXPECT_TRUE(resolved.recipe.train().has_router_bias_update());
    EXPECT_EQ(resolved.recipe.train().balance_loss(), 0.0);
    EXPECT_EQ(resolved.recipe.train().mtp_loss(), 0.0);
    EXPECT_FALSE(resolved.recipe.model().has_vocab_size());
    EXPECT_EQ(
        parse(kRest, {"model.from=hf", "train.balance_loss=0.5"}).recipe.train().balance_loss(),
        0.5);
}

TEST(Recipe, ModelSectionIsAConfigJson) {
    const nlohmann::json json = model_json(parse(good()).recipe);
    EXPECT_EQ(json.at("model_type"), "deepseek_v3");
    EXPECT_EQ(json.at("hidden_size"), 64);
    EXPECT_TRUE(json.at("q_lora_rank").is_null());
    EXPECT_EQ(json.at("rope_scaling").at("factor"), 4.0);
    EXPECT_EQ(json.at("rms_norm_eps"), 1e-6);
    EXPECT_FALSE(json.contains("from"));
    EXPECT_FALSE(json.contains("rope_parameters"));
}

using google::protobuf::FieldDescriptor;

// The ends of what the table calls legal, as TOML; of an open end, a value close to it.
std::vector<std::string> legal_ends(const FieldDescriptor& field) {
    const FieldRule& rule = rule_of(field);
    std::vector<std::string> ends;
    const bool quoted = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    for (const std::string& choice : rule.choice())
        ends.push_back(quoted ? "\"" + choice + "\"" : choice);
    if (!rule.equal_to().empty()) ends.push_back("4");
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL && ends.empty()) return {"true", "false"};
    if (rule.range().empty()) return ends;
    const Interval range = parse_interval(rule.range());
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64)
        return {std::to_string(static_cast<int64_t>(range.low)),
                std::to_string(range.high < 0x1p63 ? static_cast<int64_t>(range.high) : INT64_MAX)};
    const double high = std::isinf(range.high) ? 1e300 : range.high * (range.high_open ? 0.999 : 1);
    return {concat(range.low_open ? 1e-300 : range.low), concat(high)};
}

// What a legal value of a key asks of others, each as the table's meaning says.
std::vector<std::string> companions(const std::string& key, const std::string& value) {
    if (key == "n_group")
        return {"model.n_routed_experts=" + std::to_string(2 * std::stoll(value)),
                "model.topk_group=" + value};
    if (key == "topk_group")
        return {"model.n_group=" + value,
                "model.n_routed_experts=" + std::to_string(2 * std::stoll(value))};
    if (key == "num_experts_per_tok")
        return {"model.n_routed_experts=65536", "model.n_group=1", "model.topk_group=1"};
    if (key == "n_routed_experts")
        return {"model.n_group=1", "model.topk_group=1", "model.num_experts_per_tok=1"};
    if (key == "min_learning_rate") return {"train.learning_rate=" + value};
    if (key == "warmup_steps" && value != "0") return {"train.steps=" + value};
    if (key == "grain") return {"train.micro_batch=" + value, "train.global_batch=" + value};
    if (key == "bos_token_id" || key == "eos_token_id") return {"model.vocab_size=16777216"};
    if (key == "num_attention_heads") return {"model.num_key_value_heads=" + value};
    return {};
}

// Every value that the table calls legal makes a model, or the table promises what the model's
// reader refuses.
void expect_legal(const google::protobuf::Descriptor& type, const std::string& path) {
    for (const FieldDescriptor* field : fields_of(type)) {
        const std::string name = join_path(path, field->name());
        if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
            if (field->name() == "rope_scaling") expect_legal(*field->message_type(), name);
            continue;
        }
        if (field->name() == "from") continue;
        const std::vector<std::string> ends = legal_ends(*field);
        EXPECT_FALSE(ends.empty()) << name << ": the table says nothing of what is legal";
        for (const std::string& value : ends) {
            std::vector<std::string> set = {"model.n_group=2", "model.topk_group=2"};
            for (const std::string& other : companions(field->name(), value)) set.push_back(other);
            set.push_back(name + "=" + value);
            if (field->name() == "rope_type") set.push_back("model.rope_scaling.type=" + value);
            if (name == "model.rope_scaling.rope_theta") set.push_back("model.rope_theta=" + value);
            if (field->name() == "type") set.push_back("model.rope_scaling.rope_type=" + value);
            try {
                ModelSpec::from_config(model_json(parse(good(), set).recipe), "model");
            } catch (const Error& error) {
                ADD_FAILURE() << name << " = " << value << ": " << error.what();
            }
        }
    }
}

TEST(Recipe, WhatTheTableCallsLegalMakesAModel) {
    expect_legal(*ModelKeys::descriptor(), "model");
    EXPECT_NE(error_of(good(), {"model.attention_bias=true"})
                  .find("model.attention_bias is true; legal: false"),
              std::string::npos)
        << error_of(good(), {"model.attention_bias=true"});
}

// Outside of the model the recipe's own reader is the judge.
TEST(Recipe, WhatTheTableCallsLegalIsRead) {
    for (const FieldDescriptor* section : fields_of(*Recipe::descriptor())) {
        if (section->name() == "model") continue;
        for (const FieldDescriptor* field : fields_of(*section->message_type())) {
            if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated())
                continue;
            const std::string name = join_path(section->name(), field->name());
            for (const std::string& value : legal_ends(*field)) {
                std::vector<std::string> set = companions(field->name(), value);
                set.push_back(name + "=" + value);
                EXPECT_EQ(error_of(good(), set), "no error") << name;
            }
        }
    }
}

TEST(Recipe, TheBaseOfRotationMayStandInItsTable) {
    std::string text = good();
    text.erase(text.find("rope_theta = 10000\n"), std::string("rope_theta = 10000\n").size());
    const Recipe recipe =
        parse(text, {"model.n_group=1", "model.topk_group=1", "model.rope_scaling.rope_theta=500"})
            .recipe;
    EXPECT_EQ(ModelSpec::from_config(model_json(recipe), "model").rope.theta, 500);
    EXPECT_EQ(parse(text).recipe.model().rope_theta(), 10000);
}

TEST(Recipe, WrittenTomlReadsBackEqual) {
    Recipe recipe = parse(good()).recipe;
    recipe.mutable_run()->set_dir("odd \"name\" \\ \t\x01 caf\xc3\xa9");
    std::mt19937_64 random(7);
    for (int i = 0; i < 200; ++i) {
        recipe.mutable_train()->set_learning_rate(
            std::ldexp(static_cast<double>(random()), -64 - static_cast<int>(random() % 60)));
        recipe.mutable_train()->set_min_learning_rate(0);
        const std::string text = recipe_toml(recipe);
        const Recipe back = parse(text).recipe;
        ASSERT_TRUE(google::protobuf::util::MessageDifferencer::Equals(recipe, back)) << text;
        ASSERT_EQ(back.train().learning_rate(), recipe.train().learning_rate());
    }
}

struct Mistake {
    const char* from;  // in the good recipe
    const char* to;
    const char* message;  // what the error must contain
};

class RecipeMistake : public testing::TestWithParam<Mistake> {};

TEST_P(RecipeMistake, GetsItsLine) {
    std::string text = good();
    const size_t at = text.find(GetParam().from);
    ASSERT_NE(at, std::string::npos);
    text.replace(at, std::string(GetParam().from).size(), GetParam().to);
    const std::string error = error_of(text);
    EXPECT_NE(error.find(GetParam().message), std::string::npos) << error;
    EXPECT_TRUE(std::ranges::all_of(error, [](unsigned char c) { return c >= 0x20; })) << error;
}

INSTANTIATE_TEST_SUITE_P(
    All, RecipeMistake,
    testing::Values(
        Mistake{"steps = 10", "micro_bach = 2\nsteps = 10",
                "r.toml:25:1: train has no field \"micro_bach\"; did you mean \"micro_batch\"?"},
        Mistake{"steps = 10", "steps = \"a\\nb\\u007f\"",
                "train.steps is the string \"a b\"; expected"},
        Mistake{"steps = 10", "\"a\\nb\" = 1\nsteps = 10", "train has no field \"a b\""},
        Mistake{"steps = 10", "steps = \x01", "r.toml:25:9: Error while parsing"},
        Mistake{"steps = 10",
                "steps = 10\ngr\xc3\xb6\xc3\x9f"
                "e = 1",
                "r.toml:26:3: Error while parsing key-value pair: expected '=', saw"},
        Mistake{"steps = 10", "steps = \"\"\"a\xc3\xb6\\\n \xc3\xb6\"\"\"",
                "train.steps is the string \"a\xc3\xb6\xc3\xb6\"; expected"},
        Mistake{"steps = 10", "steps = \"\"\"a\"\"\"\"\xc3\xb6",
                "r.toml:25:17: Error while parsing"},
        Mistake{"steps = 10", "steps = '\xc3\xb6'  # \xc3\xb6\nx = \"\\\"\xc3\xb6\"",
                "train.steps is the string \"\xc3\xb6\"; expected"},
        Mistake{"steps = 10", "steps = 10\"\xc3\xb6\"", "r.toml:25:11: Error while parsing"},
        Mistake{"dir = \"runs/a\"", "dir = \"a\\u0000b\"",
                "run.dir is the string \"a b\", with a zero byte in it"},
        Mistake{"[train]", "[trian]", ": a recipe has no field \"trian\"; did you mean \"train\"?"},
        Mistake{"steps = 10", "steps = \"ten\"",
                "r.toml:25:9: train.steps is the string \"ten\"; expected: integer"},
        Mistake{"steps = 10", "steps = 10.5", "train.steps is the number 10.5; expected: integer"},
        Mistake{"steps = 10", "steps = 0", "train.steps is the integer 0, outside [1, "},
        Mistake{"steps = 10", "steps = 10\nsteps = 11",
                "r.toml:26:9: duplicate key: cannot redefine"},
        Mistake{"steps = 10", "steps = 10\neps = nan", "train.eps is the number nan, outside"},
        Mistake{"steps = 10", "steps = 99999999999999999999", "r.toml:25:"},
        Mistake{"steps = 10", "warmup_steps = 11\nsteps = 10",
                "train.warmup_steps is 11, more than"},
        Mistake{"steps = 10", "", "missing: train.steps"},
        Mistake{"hidden_size = 64", "", "missing: model.hidden_size"},
        Mistake{"steps = 10", "steps = 10\nmin_learning_rate = 1", "train.min_learning_rate is 1"},
        Mistake{"[0.9, 0.99]", "[0.9]", "train.betas has 1 values; expected 2"},
        Mistake{"[0.9, 0.99]", "[0.9, 1.0]", "train.betas is the number 1, outside [0, 1)"},
        Mistake{"[0.9, 0.99]", "0.9", "train.betas is the number 0.9; expected: list of numbers"},
        Mistake{"steps = 10", "steps = 10\nschedule = \"cosin\"",
                "legal: cosine, wsd, constant; did you mean \"cosine\"?"},
        Mistake{"ids.json", "ids.bin", "data.train[0] has no format"},
        Mistake{"ids.json", "ids.txt", "data.tokenizer is missing"},
        Mistake{"{path = \"ids.json\"}", "{format = \"text\"}", "missing: data.train[0].path"},
        Mistake{"{path = \"ids.json\"}", "{path = \"ids.json\", wieght = 1}",
                "data.train[0] has no field \"wieght\"; did you mean \"weight\"?"},
        Mistake{"{path = \"ids.json\"}", "3", "data.train is the integer 3"},
        Mistake{"vocab_size = 256", "from = \"hf\"\nvocab_size = 256",
                "model.from and model.vocab_size are both set"},
        Mistake{"type = \"yarn\"", "typ = \"yarn\"",
                "model.rope_scaling has no field \"typ\"; did you mean \"type\"?"},
        Mistake{"dir = \"runs/a\"", "dir = \"\"", "run.dir is empty"},
        Mistake{"dir = \"runs/a\"", "dir = ", "r.toml:20:"}));

TEST(Recipe, OverridesAreCheckedLikeTheFile) {
    EXPECT_NE(
        error_of(good(), {"train.micro_bach=2"}).find("--set train.micro_bach=2: train has no"),
        std::string::npos);
    EXPECT_NE(error_of(good(), {"train.steps=x"}).find("the value is no TOML; expected: integer"),
              std::string::npos);
    EXPECT_NE(error_of(good(), {"train.steps"}).find("expected path=value"), std::string::npos);
    EXPECT_NE(error_of(good(), {"train.steps.a=1"}).find("train.steps has no fields"),
              std::string::npos);
    EXPECT_NE(error_of(good(), {"=1"}).find("expected path=value"), std::string::npos);
    EXPECT_NE(error_of(good(), {"train=1"}).find("train is the integer 1; expected: table"),
              std::string::npos);
    EXPECT_NE(error_of(good(), {"train.=1"}).find("train has no field \"\""), std::string::npos);
    EXPECT_EQ(parse(good(), {"run.dir=7"}).recipe.run().dir(), "7");
    EXPECT_EQ(parse(good(), {"data.train=[{path='x.h5'}]"}).recipe.data().train_size(), 1);
    EXPECT_EQ(parse(good(), {"model.rope_scaling.factor=8"}).recipe.model().rope_scaling().factor(),
              8.0);
}

// Any bytes give a recipe or one line, never anything else.
TEST(Recipe, SurvivesMutations) {
    std::mt19937 random(11);
    const std::string original = good();
    int failures = 0;
    for (int round = 0; round < 3000; ++round) {
        std::string text = original;
        for (int edit = 0; edit < 1 + round % 8; ++edit) {
            const size_t at = random() % text.size();
            switch (random() % 4) {
                case 0:
                    text[at] = static_cast<char>(random());
                    break;
                case 1:
                    text.erase(at, 1 + random() % 5);
                    break;
                case 2:
                    text.insert(at, 1, "[]{}\"'=.\n#"[random() % 10]);
                    break;
                default:
                    text.insert(at, text.substr(random() % text.size(), random() % 30));
            }
            if (text.empty()) text = " ";
        }
        failures += error_of(text) != "no error";
    }
    EXPECT_GT(failures, 1000);
    EXPECT_NE(error_of("a = " + std::string(100000, '[')), "no error");
}

TEST(Recipe, EveryFieldIsDocumentedAndItsDefaultIsLegal) {
    const std::string table = recipe_table();
    EXPECT_EQ(table.find("|  |\n"), std::string::npos) << "a field has no line of documentation";
    parse(good());  // reads every default, checked against its range
}

TEST(Recipe, ShippedRecipesAreLegal) {
    int recipes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(FUCINA_SOURCE_DIR "/configs")) {
        if (entry.path().extension() != ".toml") continue;
        EXPECT_NO_THROW(load_recipe(entry.path().string(), {})) << entry.path();
        ++recipes;
    }
    EXPECT_GE(recipes, 1);
}

TEST(Recipe, TableInTheDocumentationIsTheSchema) {
    std::ifstream file(FUCINA_SOURCE_DIR "/docs/formats.md");
    std::stringstream text;
    text << file.rdbuf();
    EXPECT_NE(text.str().find(recipe_table()), std::string::npos)
        << "docs/formats.md is out of date: put the output of `fucina recipe-table` between its "
           "two recipe markers";
}

}  // namespace
}  // namespace fucina
