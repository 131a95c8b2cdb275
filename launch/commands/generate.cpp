// `fucina generate MODEL --prompt TEXT`: goes on with a text, token by token.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/ids_file.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "model/generation.h"
#include "trainer/run_mesh.h"
#include "trainer/run_model.h"

namespace fucina {

namespace {

struct GenerateOptions : ModelChoice {
    std::vector<std::string> prompts;
    std::string tokens, begin_token = "auto", chat_template, system;
    int64_t max_tokens = 256, batch = 8;
    Sampling sampling{.temperature = 0.8, .top_p = 0.95};
    bool ignore_eos = false, chat = false;
};

// Prints what is new of a growing text. A character whose bytes are not all there yet waits.
class TextStream {
  public:
    explicit TextStream(const Tokenizer& tokenizer, std::vector<int32_t> prompt)
        : tokenizer_(tokenizer), ids_(std::move(prompt)) {
        print(tokenizer_.decode(ids_));
    }
    void add(int32_t id) {
        ids_.push_back(id);
        const std::string text = tokenizer_.decode(ids_);
        if (!text.ends_with("\xef\xbf\xbd")) print(text);
    }
    void finish() {
        print(tokenizer_.decode(ids_));
        std::cout << std::endl;
    }

  private:
    void print(const std::string& text) {
        if (text.size() > printed_) std::cout << text.substr(printed_) << std::flush;
        printed_ = std::max(printed_, text.size());
    }
    const Tokenizer& tokenizer_;
    std::vector<int32_t> ids_;
    size_t printed_ = 0;  // bytes
};

GenerationOptions generation_options(const GenerateOptions& options, const ModelSource& source,
                                     const TextEnds& ends) {
    GenerationOptions result{.max_tokens = options.max_tokens, .sampling = options.sampling};
    if (!options.ignore_eos) result.stop_ids = source.stops(ends);
    return result;
}

// Says so where the model's positions, not the text, ended it.
void note_positions(const ModelSpec& spec, size_t prompt, size_t made, int64_t max_tokens) {
    const auto all = static_cast<int64_t>(prompt + made);
    if (all == spec.max_positions && static_cast<int64_t>(made) < max_tokens)
        std::cerr << "note: stopped at the last of the model's " << all
                  << " positions (max_position_embeddings)" << std::endl;
}

// What each prompt goes on with.
std::vector<std::vector<int32_t>> go_on(const GenerateOptions& options, Model& model,
                                        std::span<const std::vector<int32_t>> prompts,
                                        const GenerationOptions& generation,
                                        const std::function<void(int32_t)>& on_token = {}) {
    auto made = generate_all(model, prompts, options.batch, generation, [&](size_t, int32_t id) {
        if (on_token) on_token(id);
    });
    for (size_t i = 0; i < prompts.size(); ++i)
        note_positions(model.spec(), prompts[i].size(), made[i].size(), options.max_tokens);
    return made;
}

// Ids in, ids out: one JSON list a line, prompt included.
void continue_lists(const GenerateOptions& options, const ModelSource& source, Model& model) {
    const auto prompts = read_ids(options.tokens, source.spec().vocab_size);
    for (size_t i = 0; i < prompts.size(); ++i)
        if (prompts[i].empty())
            fail(ExitCode::data, options.tokens, ": list ", i, " has no ids to begin with");
    const auto made = go_on(options, model, prompts, generation_options(options, source, {}));
    for (size_t i = 0; i < prompts.size(); ++i) {
        std::vector<int32_t> ids = prompts[i];
        ids.insert(ids.end(), made[i].begin(), made[i].end());
        for (size_t t = 0; t < ids.size(); ++t) std::cout << (t ? ", " : "[") << ids[t];
        std::cout << "]" << std::endl;
    }
}

// A text: what the model is given, and what of it is printed before the new tokens.
struct Prompt {
    std::vector<int32_t> ids, shown;
};

// One text is printed as it grows; several when all are made, each behind its number.
void continue_texts(const GenerateOptions& options, Model& model, const Tokenizer& tokenizer,
                    const std::vector<Prompt>& prompts, const GenerationOptions& generation) {
    std::vector<std::vector<int32_t>> ids;
    for (const Prompt& prompt : prompts) ids.push_back(prompt.ids);
    if (prompts.size() == 1) {
        TextStream stream(tokenizer, prompts[0].shown);
        go_on(options, model, ids, generation, [&](int32_t id) { stream.add(id); });
        return stream.finish();
    }
    const auto made = go_on(options, model, ids, generation);
    for (size_t i = 0; i < prompts.size(); ++i) {
        std::vector<int32_t> text = prompts[i].shown;
        text.insert(text.end(), made[i].begin(), made[i].end());
        std::cout << "== " << i + 1 << "\n" << tokenizer.decode(text) << std::endl;
    }
}

void continue_prompts(const GenerateOptions& options, const ModelSource& source, Model& model,
                      const Tokenizer& tokenizer) {
    const TextEnds ends = tokenizer.ends(source.end_choice(options.begin_token));
    std::cerr << ends.note << std::endl;
    std::vector<Prompt> prompts;  // shown without what begins a text
    for (const std::string& prompt : options.prompts)
        prompts.push_back(
            {begin_text(tokenizer, ends, prompt, source.spec().bos_id), tokenizer.encode(prompt)});
    continue_texts(options, model, tokenizer, prompts, generation_options(options, source, ends));
}

// The model's answers, to a message each.
void answer(const GenerateOptions& options, const ModelSource& source, Model& model,
            const Tokenizer& tokenizer) {
    const auto chat = source.chat_format(options.chat_template, options.tokenizer);
    if (!chat)
        fail(ExitCode::usage, options.model,
             ": has no chat template; name one with --chat-template FILE");
    TextEndChoice choice = source.end_choice("auto");
    choice.chat_template = chat->source();
    std::vector<Prompt> prompts;
    for (const std::string& prompt : options.prompts) {
        nlohmann::ordered_json messages;
        if (!options.system.empty())
            messages.push_back({{"role", "system"}, {"content", options.system}});
        messages.push_back({{"role", "user"}, {"content", prompt}});
        // What begins a text is in the template.
        prompts.push_back({tokenizer.encode(chat->render({{"messages", messages}}, true)), {}});
    }
    continue_texts(options, model, tokenizer, prompts,
                   generation_options(options, source, tokenizer.ends(choice)));
}

void run_generate(const GenerateOptions& options) {
    if (process().rank() != 0 && options.layout.one_rank()) return;
    // Ranks that share the model all make the same text; the first one prints it.
    std::unique_ptr<Communicator> communicator = make_self_communicator();
    if (!options.layout.one_rank()) communicator = process().make_communicator();
    if (communicator->rank() != 0)
        for (std::ostream* stream : {&std::cout, &std::cerr}) stream->setstate(std::ios::failbit);
    const auto on_gpu = on_device(*communicator, options.device,
                                  [](const std::string& note) { std::cerr << note << '\n'; });
    Communicator& ranks = on_gpu ? *on_gpu : *communicator;
    const auto mesh = make_mesh(ranks, options.layout);
    const ModelSource source(options.model, false);
    check_tensor(source.spec(), options.layout.tensor, "--tensor");
    check_pipeline(source.spec(), options.layout.pipeline, "--pipeline");
    const DType compute = options.precision == "fp32" ? DType::f32 : DType::bf16;
    const std::string note = compute_as_trained(ranks, source, compute);
    if (!note.empty()) std::cerr << note << std::endl;
    std::optional<Tokenizer> tokenizer;
    if (options.tokens.empty()) tokenizer = source.tokenizer(options.tokenizer);
    Model model = source.load({.exec = mesh->exec(),
                               .compute = compute,
                               .fp8 = options.precision == "fp8",
                               .training = false,
                               .mesh = mesh.get()});
    if (options.chat)
        answer(options, source, model, *tokenizer);
    else if (tokenizer)
        continue_prompts(options, source, model, *tokenizer);
    else
        continue_lists(options, source, model);
}

}  // namespace

void add_generate_command(Command app) {
    Command command = app.subcommand("generate", "Go on with a text");
    auto options = std::make_shared<GenerateOptions>();
    add_model_options(command, *options, "bf16");
    const Option prompt =
        command
            .option("--prompt", options->prompts, "a text's beginning; may be given several times")
            .one_word();
    command
        .option("--tokens", options->tokens,
                "prompts as token ids, a JSON list of lists; prints ids")
        .path()
        .excludes(prompt);
    const Option chat = command.flag("--chat", options->chat,
                                     "answer the prompt, a message, by the model's chat template");
    chat.needs(prompt);
    command.option("--system", options->system, "a system message before it").needs(chat);
    command.option("--chat-template", options->chat_template, "if not the model's own")
        .path()
        .needs(chat);
    command.option("--max-tokens", options->max_tokens, "at most so many new tokens")
        .range(int64_t{1}, int64_t{1} << 24)
        .show_default();
    command.option("--batch", options->batch, "of several prompts, so many are continued together")
        .range(int64_t{1}, int64_t{65536})
        .show_default();
    command
        .option("--temperature", options->sampling.temperature, "0: always the most likely token")
        .range(0.0, 1000.0)
        .show_default();
    command
        .option("--top-p", options->sampling.top_p,
                "choose among the most likely tokens of this joint probability")
        .range(0.0, 1.0)
        .show_default();
    command.option("--seed", options->sampling.seed, "of the draws").show_default();
    command.option("--begin-token", options->begin_token,
                   "before the text: auto (as the tokenizer asks), none, or a token");
    command.flag("--ignore-eos", options->ignore_eos, "go on after the end of the text");
    command.run([options] {
        if (options->prompts.empty() && options->tokens.empty())
            fail(ExitCode::usage, "generate needs --prompt TEXT or --tokens IDS.json");
        run_generate(*options);
    });
}

}  // namespace fucina
