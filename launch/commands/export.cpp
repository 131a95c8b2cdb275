// `fucina export CHECKPOINT OUT`: a Hugging Face directory of a run's or a checkpoint's weights.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "kernels/error.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "model/model.h"
#include "trainer/hf_export.h"
#include "trainer/step_line.h"

namespace fucina {
namespace {

struct Options {
    std::string model, out, dtype = "bf16", tokenizer, like;
    double shard_gb = 5;
    bool without_mtp = false, force = false;
    std::vector<std::string> prompts;
};

using Logits = std::vector<Tensor>;  // of each prompt, fp32 [tokens, V]

Logits logits_of(const ModelSource& source, const std::vector<std::vector<int32_t>>& prompts,
                 int64_t chunks) {
    Model model = source.load({.compute = DType::f32, .training = false, .chunks = chunks});
    Logits logits;
    for (const std::vector<int32_t>& ids : prompts)
        logits.push_back(model.logits(make_batch(std::span(&ids, 1))));
    return logits;
}

int64_t best(const Tensor& logits, int64_t row) {
    const HostValues<float> values(kHost, logits.slice(row, row + 1));
    return std::ranges::max_element(values.span()) - values.span().begin();
}

// What was written computes what the checkpoint does: of fp32 weights the same bits.
void compare_logits(const Options& options, const ModelSource& source) {
    const Tokenizer tokenizer = source.tokenizer(options.tokenizer);
    const TextEnds ends = tokenizer.ends(source.end_choice("auto"));
    std::vector<std::vector<int32_t>> prompts;
    for (const std::string& text : options.prompts)
        prompts.push_back(begin_text(tokenizer, ends, text, source.spec().bos_id));
    set_runtime(process().use_threads(0), Numerics::exact);
    const int64_t chunks = source.manifest()->recipe().exact().chunks();  // the order of sums
    const Logits expected = logits_of(source, prompts, chunks);
    const Logits got = logits_of(ModelSource(options.out, false), prompts, chunks);
    bool same = true;
    for (size_t p = 0; p < prompts.size(); ++p) {
        const Tensor &a = expected[p], &b = got[p];
        int64_t alike = 0;
        float largest = 0;
        for (int64_t row = 0; row < a.rows(); ++row) alike += best(a, row) == best(b, row) ? 1 : 0;
        const HostValues<float> want(kHost, a), have(kHost, b);
        for (size_t i = 0; i < want.size(); ++i)
            largest = std::max(largest, std::abs(want[i] - have[i]));
        same = same && largest == 0;
        std::printf(
            "prompt %zu: %lld tokens, logits differ by at most %.3g, the likeliest next "
            "token is the same after %lld\n",
            p + 1, static_cast<long long>(a.rows()), static_cast<double>(largest),
            static_cast<long long>(alike));
    }
    if (options.dtype == "fp32" && !same)
        fail(ExitCode::data, options.out, ": other logits than the checkpoint's");
}

void export_checkpoint(const Options& options) {
    if (process().rank() != 0) return;
    const ModelSource source(options.model, true);
    if (source.manifest() == nullptr)
        fail(ExitCode::usage, options.model,
             ": is a Hugging Face directory already; expected a run or a checkpoint");
    check_free(options.out);
    if (!options.prompts.empty()) source.tokenizer(options.tokenizer);  // is wanted at the end
    const std::string tokenizer = source.tokenizer_path(options.tokenizer);
    if (!tokenizer.empty() && std::filesystem::exists(tokenizer))
        source.tokenizer(options.tokenizer);  // refuses another than the model's
    else if (!tokenizer.empty() || source.manifest()->tokenizer_hash().empty())
        std::printf("note: %s; the directory gets none, and --tokenizer FILE names one\n",
                    tokenizer.empty() ? "the run had no tokenizer"
                                      : concat(tokenizer, " is not there").c_str());
    const CheckpointReader reader(source.directory());
    ExportOptions how;
    if (const auto chat = source.chat_format("", options.tokenizer))
        how.chat_template = chat->source();
    how.dtype = options.dtype == "fp32"  ? DType::f32
                : options.dtype == "fp8" ? DType::f8_e4m3
                                         : DType::bf16;
    if (!options.like.empty() && how.dtype != DType::f8_e4m3)
        fail(ExitCode::usage, "--like is for --dtype fp8, not ", options.dtype);
    how.like = options.like;
    how.force = options.force;
    how.threads = process().use_threads(0);
    how.with_mtp = !options.without_mtp;
    how.shard_bytes = static_cast<int64_t>(options.shard_gb * 1e9);
    if (std::filesystem::exists(tokenizer)) how.tokenizer = tokenizer;
    how.say = [](const std::string& line) {
        std::printf("%s\n", line.c_str());
        std::fflush(stdout);
    };
    const Exported done = export_model(reader, options.out, how);
    std::printf(
        "%s",
        fmt::format("{}: {} tensors in {} file{}, {:.3f} GB of {}, written and read back in {}\n",
                    options.out, thousands(static_cast<double>(done.tensors)), done.files,
                    done.files == 1 ? "" : "s", static_cast<double>(done.bytes) / 1e9,
                    options.dtype, duration_text(done.seconds))
            .c_str());
    if (!options.prompts.empty()) compare_logits(options, source);
}

}  // namespace

void add_export_command(Command app) {
    Command command =
        app.subcommand("export", "Write a checkpoint's weights as a Hugging Face directory");
    const auto options = std::make_shared<Options>();
    command.option("CHECKPOINT", options->model, "run or checkpoint directory").path().required();
    command.option("OUT", options->out, "the directory to make").path().required();
    command
        .option("--dtype", options->dtype,
                "of the weights; router biases are fp32; fp8: of linear layers")
        .one_of({"bf16", "fp32", "fp8"})
        .show_default();
    command
        .option("--like", options->like,
                "with fp8: the Hugging Face directory that the model came from; what was not "
                "trained keeps its bytes, and it is told how much of the training is kept")
        .path();
    command.flag("--force", options->force, "with --like: however little is kept");
    command.option("--shard-size", options->shard_gb, "GB that one file has at most")
        .range(1e-6, 1e6)
        .show_default();
    command.option("--tokenizer", options->tokenizer, "tokenizer.json; default: the run's").path();
    command.flag("--without-mtp", options->without_mtp,
                 "leave the MTP module out, which transformers does not use");
    command
        .option("--verify", options->prompts,
                "a text, once or several times: compare logits of what was written with the "
                "checkpoint's")
        .one_word();
    command.run([options] { export_checkpoint(*options); });
}

}  // namespace fucina
