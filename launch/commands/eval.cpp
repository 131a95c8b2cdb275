// `fucina eval MODEL --tokens IDS.json`: loss of a model on token ids, and its logits.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "data/ids_file.h"
#include "data/npy.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "trainer/weights.h"

namespace fucina {

namespace {

struct EvalOptions {
    std::string model, tokens, logits, precision = "bf16", gradients;
    double mtp_loss = 0, balance_loss = 0;
};

constexpr int64_t kTokensAtATime = 4096;

// Consecutive documents, at most kTokensAtATime tokens or one document at a time.
template <class Body>
void for_each_batch(const std::vector<std::vector<int32_t>>& documents, const Body& body) {
    size_t begin = 0;
    while (begin < documents.size()) {
        size_t end = begin;
        int64_t tokens = 0;
        while (end < documents.size() &&
               (end == begin ||
                tokens + static_cast<int64_t>(documents[end].size()) <= kTokensAtATime))
            tokens += static_cast<int64_t>(documents[end++].size());
        body(make_batch(std::span(documents).subspan(begin, end - begin)));
        begin = end;
    }
}

void write_logits(Model& model, const std::vector<std::vector<int32_t>>& documents,
                  const std::string& path) {
    const size_t length = documents.front().size();
    for (size_t i = 0; i < documents.size(); ++i)
        if (documents[i].size() != length)
            fail(ExitCode::usage, "--logits needs sequences of one length: list ", i, " has ",
                 documents[i].size(), " ids, list 0 has ", length);
    const std::array<int64_t, 3> shape = {static_cast<int64_t>(documents.size()),
                                          static_cast<int64_t>(length), model.spec().vocab_size};
    NpyWriter writer(path, shape);
    for_each_batch(documents, [&](const TokenBatch& batch) {
        const Tensor logits = model.logits(batch);
        writer.append({logits.data<float>(), static_cast<size_t>(logits.size())});
    });
    writer.commit();
}

void print_result(double loss_sum, int64_t labels, int64_t tokens) {
    const double loss = labels == 0 ? 0 : loss_sum / static_cast<double>(labels);
    std::printf(
        "loss        %.9g nats a token\nperplexity  %.6g\ntokens      %lld (%lld with a label)\n",
        loss, std::exp(loss), static_cast<long long>(tokens), static_cast<long long>(labels));
}

// For comparisons with other implementations: all documents in one pass, loss and gradients.
void run_gradients(Model& model, const std::vector<std::vector<int32_t>>& documents,
                   const EvalOptions& options) {
    const TokenBatch batch = make_batch(documents);
    const int64_t labels = count_labels(batch), mtp_labels = Model::count_mtp_labels(batch);
    PassOptions pass{.loss_scale = 1.0 / static_cast<double>(labels)};
    if (options.mtp_loss > 0) pass.mtp_scale = options.mtp_loss / static_cast<double>(mtp_labels);
    pass.balance_scale =
        options.balance_loss / static_cast<double>(batch.sequence_offsets.size() - 1);
    const PassResult result = model.forward_backward(batch, pass);
    const auto sum = [](const std::vector<double>& values) {
        double total = 0;
        for (const double value : values) total += value;
        return total;
    };
    print_result(sum(result.grain_loss), labels, batch.tokens());
    if (options.mtp_loss > 0)
        std::printf("mtp loss    %.9g\n",
                    sum(result.grain_mtp_loss) / static_cast<double>(mtp_labels));
    if (options.balance_loss > 0)
        std::printf(
            "balance     %.9g\n",
            sum(result.grain_balance) / static_cast<double>(batch.sequence_offsets.size() - 1));
    write_gradients(model, options.gradients);
}

void run_eval(const EvalOptions& options) {
    set_runtime(process().use_threads(0), Numerics::exact);
    ModelSource source(options.model);
    const auto documents = read_ids(options.tokens, source.spec().vocab_size);
    Model model = source.load({.compute = options.precision == "fp32" ? DType::f32 : DType::bf16,
                               .training = !options.gradients.empty(),
                               .with_mtp = options.mtp_loss > 0});
    if (!options.gradients.empty()) {
        run_gradients(model, documents, options);
        return;
    }
    if (!options.logits.empty()) write_logits(model, documents, options.logits);
    double loss = 0;
    int64_t labels = 0, tokens = 0;
    for_each_batch(documents, [&](const TokenBatch& batch) {
        for (const double sum : model.evaluate(batch).grain_loss) loss += sum;
        labels += count_labels(batch);
        tokens += batch.tokens();
    });
    if (process().rank() == 0) print_result(loss, labels, tokens);
}

}  // namespace

void add_eval_command(CLI::App& app) {
    CLI::App* command = app.add_subcommand("eval", "Loss and perplexity of a model on data");
    auto options = std::make_shared<EvalOptions>();
    command->add_option("model", options->model, "run, checkpoint or Hugging Face directory")
        ->required();
    command->add_option("--tokens", options->tokens, "token ids: a JSON list of lists")->required();
    command->add_option("--logits", options->logits,
                        "write logits here: .npy, fp32 [sequences, length, vocabulary]");
    command->add_option("--precision", options->precision, "bf16 or fp32")
        ->check(CLI::IsMember({"bf16", "fp32"}));
    command->add_option("--gradients", options->gradients)->group("");
    command->add_option("--mtp-loss", options->mtp_loss)->group("");
    command->add_option("--balance-loss", options->balance_loss)->group("");
    command->callback([options] { run_eval(*options); });
}

}  // namespace fucina
