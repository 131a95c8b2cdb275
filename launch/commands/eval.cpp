// `fucina eval MODEL --data FILE | --tokens IDS.json`: loss of a model on data, and its logits.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/ids_file.h"
#include "data/npy.h"
#include "data/text_check.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "model/generation.h"
#include "trainer/evaluator.h"
#include "trainer/run_data.h"
#include "trainer/run_mesh.h"
#include "trainer/run_model.h"
#include "trainer/weights.h"

namespace fucina {

namespace {

struct EvalOptions : ModelChoice {
    std::string data, format, tokens, logits, gradients;
    int64_t sequence_length = 0;
    double mtp_loss = 0, balance_loss = 0;
};

using Documents = std::vector<std::vector<int32_t>>;

constexpr int64_t kTokensAtATime = 4096;
constexpr int64_t kSequenceLength = 2048;  // where nothing else says

void write_logits(Model& model, const Documents& documents, const std::string& path) {
    const size_t length = documents.front().size();
    for (size_t i = 0; i < documents.size(); ++i)
        if (documents[i].size() != length)
            fail(ExitCode::usage, "--logits needs sequences of one length: list ", i, " has ",
                 documents[i].size(), " ids, list 0 has ", length);
    const std::array<int64_t, 3> shape = {static_cast<int64_t>(documents.size()),
                                          static_cast<int64_t>(length), model.spec().vocab_size};
    NpyWriter writer(path, shape);
    for (const std::vector<int32_t>& document : documents) {
        const Tensor logits = model.logits(make_batch({&document, 1}));
        const HostValues<float> of_document(model.options().exec, logits);
        const std::span<const float> values = of_document.span();
        if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); }))
            fail(ExitCode::non_finite, "eval: logits of list ", &document - documents.data(),
                 " are NaN or infinite; the model overflows, or its training diverged");
        writer.append(values);
    }
    writer.commit();
}

void print_result(double loss, int64_t tokens, std::optional<double> bits_per_byte = {}) {
    if (!std::isfinite(loss))
        fail(ExitCode::non_finite, "eval: the loss over ", tokens,
             " tokens is NaN or infinite; the model overflows, or its training diverged");
    std::printf("loss        %.9g nats a token\n", loss);
    if (bits_per_byte) std::printf("            %.6g bits a byte of text\n", *bits_per_byte);
    std::printf("perplexity  %.6g\ntokens      %lld\n", std::exp(loss),
                static_cast<long long>(tokens));
}

// For comparison with other implementations: all documents in one pass, with gradients.
void run_gradients(Model& model, const Documents& documents, const EvalOptions& options) {
    const TokenBatch batch = make_batch(documents);
    const auto labels = static_cast<double>(count_labels(batch));
    const auto mtp_labels = static_cast<double>(Model::count_mtp_labels(batch));
    const auto sequences = static_cast<double>(batch.sequence_offsets.size() - 1);
    PassOptions pass{.loss_scale = 1 / labels};
    if (options.mtp_loss > 0) pass.mtp_scale = options.mtp_loss / mtp_labels;
    pass.balance_scale = options.balance_loss / sequences;
    const PassResult result = model.forward_backward(batch, pass);
    print_result(result.loss.value() / labels, batch.tokens());
    if (options.mtp_loss > 0)
        std::printf("mtp loss    %.9g\n", result.mtp_loss.value() / mtp_labels);
    if (options.balance_loss > 0)
        std::printf("balance     %.9g\n", result.balance.value() / sequences);
    write_gradients(model, options.gradients);
}

// The lists of --tokens as a loader's only source.
std::unique_ptr<BatchLoader> load_lists(const Documents& documents, const std::string& name,
                                        int64_t vocab_size) {
    size_t longest = 1;
    for (const std::vector<int32_t>& document : documents)
        longest = std::max(longest, document.size());
    BlendSource source{
        std::make_shared<const TokenStore>(TokenStore::from_lists(documents, vocab_size, name))};
    return std::make_unique<BatchLoader>(
        std::vector<BlendSource>{source},
        LoaderOptions{.sequence_length = static_cast<int64_t>(longest), .shuffle = false});
}

int64_t sequence_length(const EvalOptions& options, const ModelSource& source) {
    if (options.sequence_length > 0) {
        check_positions(options.sequence_length, source.spec(), "--sequence-length",
                        ExitCode::usage);
        return options.sequence_length;
    }
    if (source.manifest()) return source.manifest()->recipe().data().sequence_length();
    return std::min(kSequenceLength, source.spec().max_positions);
}

RunData load_file(Communicator& communicator, const EvalOptions& options, const ModelSource& source,
                  Console& console) {
    Recipe recipe;
    Data& data = *recipe.mutable_data();
    Source& file = *data.add_train();
    file.set_path(options.data);
    file.set_format(options.format);
    file.set_weight(1);
    const Data trained = source.manifest() ? source.manifest()->recipe().data() : Data();
    data.set_append_eos(!trained.has_append_eos() || trained.append_eos());
    data.set_begin_token(trained.has_begin_token() ? trained.begin_token() : "auto");
    data.set_end_token(trained.has_end_token() ? trained.end_token() : "auto");
    data.set_chat_template(trained.chat_template());
    data.set_cache(trained.cache());
    data.set_shuffle(false);
    data.set_broken_limit(kBrokenLimit);
    data.set_sequence_length(sequence_length(options, source));
    data.set_tokenizer(source.tokenizer_path(options.tokenizer));
    return open_run_data(communicator, recipe, source.spec().vocab_size, console);
}

// What is evaluated stands in `train`.
RunData open_data(Communicator& communicator, const EvalOptions& options, const ModelSource& source,
                  Console& console) {
    if (options.tokens.empty()) return load_file(communicator, options, source, console);
    const int64_t vocab_size = source.spec().vocab_size;
    RunData data;
    const Documents documents = read_ids(options.tokens, vocab_size);
    for (size_t i = 0; i < documents.size(); ++i)
        check_positions(static_cast<int64_t>(documents[i].size()), source.spec(),
                        concat(options.tokens, ": list ", i), ExitCode::data);
    data.train = load_lists(documents, options.tokens, vocab_size);
    check_predicts(*data.train);
    return data;
}

DType compute_type(const EvalOptions& options, const ModelSource& source) {
    std::string precision = options.precision;
    if (precision.empty() && source.manifest())
        precision = source.manifest()->recipe().train().precision();
    return precision == "fp32" ? DType::f32 : DType::bf16;
}

void run_eval(const EvalOptions& options) {
    const auto communicator = process().make_communicator();
    const bool speaks = communicator->rank() == 0;
    Console console(speaks);
    const ModelSource source(options.model, speaks);
    const auto on_gpu = on_device(*communicator, options.device,
                                  [&](const std::string& text) { console.line(text); });
    Communicator& ranks = on_gpu ? *on_gpu : *communicator;
    const std::string note = compute_as_trained(ranks, source, compute_type(options, source));
    if (!note.empty()) console.line(note);
    const RunData opened = open_data(*communicator, options, source, console);
    const PackedStore& data = opened.train->source(0);
    check_tensor(source.spec(), options.layout.tensor, "--tensor");
    check_pipeline(source.spec(), options.layout.pipeline, "--pipeline");
    const auto mesh = make_mesh(ranks, options.layout);
    Model model = source.load({.exec = mesh->exec(),
                               .compute = compute_type(options, source),
                               .fp8 = options.precision == "fp8",
                               .training = !options.gradients.empty(),
                               .with_mtp = options.mtp_loss > 0,
                               .mesh = mesh.get()});
    if (speaks && !options.logits.empty())
        write_logits(model, read_ids(options.tokens, source.spec().vocab_size), options.logits);
    if (!options.gradients.empty()) {
        if (speaks)
            run_gradients(model, read_ids(options.tokens, source.spec().vocab_size), options);
        return;
    }
    const int64_t average = std::max<int64_t>(1, data.store().tokens() / data.sequences());
    std::vector<int32_t> token_bytes;
    if (opened.tokenizer) token_bytes = opened.tokenizer->token_bytes();
    const HeldOutLoss loss = evaluate_loss(
        *mesh, model, *opened.train, std::max<int64_t>(1, kTokensAtATime / average), token_bytes);
    if (!speaks) return;
    print_result(loss.nats_per_token, data.store().tokens(), loss.bits_per_byte);
    if (data.store().is_masked())
        std::printf("supervised  %lld of them\n", static_cast<long long>(data.labels()));
}

}  // namespace

void add_eval_command(Command app) {
    Command command = app.subcommand("eval", "Loss and perplexity of a model on data");
    auto options = std::make_shared<EvalOptions>();
    add_model_options(command, *options, "as in training");
    const Option data =
        command.option("--data", options->data, "text, JSON lines or token store").path();
    command
        .option("--format", options->format, "text, jsonl, tokens or store; default: by the ending")
        .one_of({"text", "jsonl", "tokens", "store"});
    command
        .option("--sequence-length", options->sequence_length,
                "longer documents are cut; default: as in training")
        .range(int64_t{1}, int64_t{1} << 24);
    const Option tokens =
        command.option("--tokens", options->tokens, "token ids: a JSON list of lists").path();
    command
        .option("--logits", options->logits,
                "write logits here: .npy, fp32 [sequences, length, vocabulary]")
        .path()
        .needs(tokens);
    command.option("--gradients", options->gradients).path().hidden().needs(tokens);
    command.option("--mtp-loss", options->mtp_loss).hidden();
    command.option("--balance-loss", options->balance_loss).hidden();
    tokens.excludes(data);
    command.run([options] {
        if (options->data.empty() && options->tokens.empty())
            fail(ExitCode::usage, "eval needs --data FILE or --tokens IDS.json");
        if (!options->layout.one_rank() && !(options->logits.empty() && options->gradients.empty()))
            fail(ExitCode::usage,
                 "--logits is made by one rank; leave --expert, --tensor and --pipeline out");
        run_eval(*options);
    });
}

}  // namespace fucina
