#include "launch/recipe.h"

#include <bit>
#include <fstream>
#include <sstream>

#include "kernels/error.h"
#include "launch/home_path.h"
#include "launch/recipe_reader.h"
#include "launch/recipe_rules.h"

namespace fucina {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int64_t kLargestFile = 16 << 20;  // bytes; a recipe is a page

class Resolver {
  public:
    Resolver(ResolvedRecipe* out, std::string name) : out_(*out), name_(std::move(name)) {}

    void resolve(std::string_view text, const std::vector<std::string>& overrides) {
        RecipeReader reader(&out_.recipe, &out_.origins);
        reader.read_text(text, name_);
        for (const std::string& assignment : overrides) reader.read_override(assignment);
        check_model_source();
        fill_dependent();
        fill(&reader, &out_.recipe, "");
        if (!missing_.empty()) {
            fail(ExitCode::usage, name_, ": missing: ", missing_,
                 "; add to the recipe, or with --set path=value");
        }
        guess_formats("data.train", out_.recipe.mutable_data()->mutable_train());
        guess_formats("data.valid", out_.recipe.mutable_data()->mutable_valid());
        check_together();
    }

  private:
    void note(const std::string& path, const char* origin) { out_.origins[path] = origin; }

    void check_model_source() {
        const ModelKeys& model = out_.recipe.model();
        if (!model.has_from()) return;
        for (const FieldDescriptor* field : fields_of(*ModelKeys::descriptor())) {
            if (field->name() != "from" && is_present(model, *field)) {
                fail(ExitCode::usage, name_, ": model.from and model.", field->name(),
                     " are both set; a model comes from one or from the other");
            }
        }
    }

    // Defaults that depend on other values.
    void fill_dependent() {
        Recipe& recipe = out_.recipe;
        if (recipe.model().has_from()) {
            // A model that was trained elsewhere is trained on as it is, unless told otherwise.
            Train& train = *recipe.mutable_train();
            const auto zero = [&](const char* name) {
                const FieldDescriptor& field = *Train::descriptor()->FindFieldByName(name);
                if (is_present(train, field)) return;
                train.GetReflection()->SetDouble(&train, &field, 0.0);
                note(join_path("train", name), "as model.from is set");
            };
            zero("router_bias_update");
            zero("balance_loss");
            zero("mtp_loss");
            return;
        }
        ModelKeys& model = *recipe.mutable_model();
        if (model.has_num_attention_heads() && !model.has_num_key_value_heads()) {
            model.set_num_key_value_heads(model.num_attention_heads());
            note("model.num_key_value_heads", "as model.num_attention_heads");
        }
        if (model.has_rope_theta()) return;
        for (const Rope* rope : {&model.rope_parameters(), &model.rope_scaling()}) {
            if (!rope->has_rope_theta()) continue;
            model.set_rope_theta(rope->rope_theta());
            note("model.rope_theta", "as the one in the table");
        }
    }

    void fill(RecipeReader* reader, Message* message, const std::string& path) {
        if (path == "model" && out_.recipe.model().has_from()) return;
        for (const FieldDescriptor* field : fields_of(*message->GetDescriptor())) {
            const std::string inner = join_path(path, field->name());
            const FieldRule& rule = rule_of(*field);
            const bool table = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
            if (rule.path() && is_present(*message, *field)) expand(message, *field);
            if (is_present(*message, *field) || (table && !field->is_repeated())) {
                fill_inside(reader, message, *field, inner);
            } else if (!rule.value().empty()) {
                reader->read_default(message, *field, inner);
            } else if (rule.required() || needed_without(*message, rule)) {
                missing_ += concat(missing_.empty() ? "" : ", ", inner);
            }
        }
    }

    static void expand(Message* message, const FieldDescriptor& field) {
        const auto& reflection = *message->GetReflection();
        reflection.SetString(message, &field, expand_home(reflection.GetString(*message, &field)));
    }

    void fill_inside(RecipeReader* reader, Message* message, const FieldDescriptor& field,
                     const std::string& path) {
        const auto& reflection = *message->GetReflection();
        if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return;
        if (field.is_repeated()) {
            std::map<std::string, std::string> unused;  // a list counts as one value
            RecipeReader quiet(&out_.recipe, &unused);
            for (int i = 0; i < reflection.FieldSize(*message, &field); ++i) {
                fill(&quiet, reflection.MutableRepeatedMessage(message, &field, i),
                     concat(path, "[", i, "]"));
            }
        } else if (field.message_type() != Rope::descriptor()) {  // an absent rope table means none
            fill(reader, reflection.MutableMessage(message, &field), path);
        }
    }

    static bool needed_without(const Message& message, const FieldRule& rule) {
        if (rule.required_without().empty()) return false;
        const FieldDescriptor* other =
            message.GetDescriptor()->FindFieldByName(rule.required_without());
        return !is_present(message, *other);
    }

    void guess_formats(const std::string& path,
                       google::protobuf::RepeatedPtrField<Source>* sources) const {
        static const std::map<std::string, std::string> kByEnding = {
            {".txt", "text"}, {".jsonl", "jsonl"}, {".json", "tokens"}, {".h5", "store"}};
        for (int i = 0; i < sources->size(); ++i) {
            Source& source = *sources->Mutable(i);
            if (source.has_format()) continue;
            const size_t dot = source.path().rfind('.');
            const auto found = kByEnding.find(dot == std::string::npos ? std::string()
                                                                       : source.path().substr(dot));
            if (found == kByEnding.end()) {
                fail(ExitCode::usage, name_, ": ", path, "[", i, "] has no format, and \"",
                     source.path(),
                     "\" does not end in .txt, .jsonl, .json or .h5; add format = \"text\", "
                     "\"jsonl\", \"tokens\" or \"store\"");
            }
            source.set_format(found->second);
        }
    }

    void check_together() const {
        const Data& data = out_.recipe.data();
        const Train& train = out_.recipe.train();
        if (train.betas_size() != 2) {
            fail(ExitCode::usage, name_, ": train.betas has ", train.betas_size(),
                 " values; expected 2");
        }
        if (train.warmup_steps() > train.steps()) {
            fail(ExitCode::usage, name_, ": train.warmup_steps is ", train.warmup_steps(),
                 ", more than train.steps, ", train.steps());
        }
        if (train.min_learning_rate() > train.learning_rate()) {
            fail(ExitCode::usage, name_, ": train.min_learning_rate is ", train.min_learning_rate(),
                 ", more than train.learning_rate, ", train.learning_rate());
        }
        if (train.micro_batch() % out_.recipe.exact().grain() != 0) {
            fail(ExitCode::usage, name_, ": train.micro_batch is ", train.micro_batch(),
                 ", no multiple of exact.grain, ", out_.recipe.exact().grain());
        }
        const int64_t replicas = out_.recipe.exact().replicas();
        if ((replicas & (replicas - 1)) != 0) {
            fail(ExitCode::usage, name_, ": exact.replicas is ", replicas,
                 ", no power of two; the nearest are ", std::bit_floor(uint64_t(replicas)), " and ",
                 std::bit_ceil(uint64_t(replicas)));
        }
        for (const auto* sources : {&data.train(), &data.valid()}) {
            for (const Source& source : *sources) {
                const bool text = source.format() == "text" || source.format() == "jsonl";
                if (text && !data.has_tokenizer()) {
                    fail(ExitCode::usage, name_, ": data.tokenizer is missing, and \"",
                         source.path(), "\" has format \"", source.format(),
                         "\"; name a tokenizer.json, or make one with `fucina tokenizer train`");
                }
            }
        }
    }

    ResolvedRecipe& out_;
    std::string name_;
    std::string missing_;
};

}  // namespace

ResolvedRecipe load_recipe(const std::string& path, const std::vector<std::string>& overrides) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(ExitCode::usage, path, ": cannot open the recipe");
    std::string text(static_cast<size_t>(kLargestFile) + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file.bad()) fail(ExitCode::usage, path, ": cannot read the recipe; is it a file?");
    text.resize(static_cast<size_t>(file.gcount()));
    if (static_cast<int64_t>(text.size()) > kLargestFile) {
        fail(ExitCode::usage, path, ": larger than ", kLargestFile, " bytes; is it a recipe?");
    }
    return parse_recipe(text, path, overrides);
}

ResolvedRecipe parse_recipe(std::string_view text, const std::string& name,
                            const std::vector<std::string>& overrides) {
    ResolvedRecipe resolved;
    Resolver(&resolved, name).resolve(text, overrides);
    return resolved;
}

}  // namespace fucina
