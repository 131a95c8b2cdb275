// `fucina report RUN_DIR`: writes RUN_DIR/report.html; with --prompt the model writes a sample
// for it first.
#include "trainer/report/report.h"

#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "model/generation.h"

namespace fucina {
namespace {

struct ReportOptions {
    std::string run_dir, prompt;
    int64_t max_tokens = 120;
    double temperature = 0.7;
};

// Appends what the newest checkpoint makes of the prompt to samples.jsonl.
void add_sample(const ReportOptions& options) {
    set_runtime(process().use_threads(0), Numerics::exact);
    const ModelSource source(options.run_dir, false);
    const Tokenizer tokenizer = source.tokenizer("");
    const TextEnds ends = tokenizer.ends(source.end_choice("auto"));
    const std::vector<int32_t> prompt =
        begin_text(tokenizer, ends, options.prompt, source.spec().bos_id);
    Model model = source.load({.compute = DType::bf16, .training = false});
    GenerationOptions generation{.max_tokens = options.max_tokens,
                                 .sampling = {.temperature = options.temperature, .top_p = 0.9},
                                 .stop_ids = source.stops(ends)};
    const std::vector<int32_t> made = generate(model, prompt, generation);
    nlohmann::ordered_json sample;
    if (source.manifest() != nullptr) sample["step"] = source.manifest()->step();
    sample["prompt"] = options.prompt;
    sample["text"] = tokenizer.decode(made);
    const std::string path = options.run_dir + "/samples.jsonl";
    std::ofstream file(path, std::ios::binary | std::ios::app);
    file << sample.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    file.close();
    if (!file) fail(ExitCode::storage, path, ": cannot write");
    std::cout << options.prompt << sample["text"].get<std::string>() << "\n";
}

}  // namespace

void add_report_command(Command app) {
    Command command = app.subcommand("report", "Write a run's report.html");
    const auto options = std::make_shared<ReportOptions>();
    command.option("RUN_DIR", options->run_dir, "the run directory").path().required();
    const Option prompt = command.option(
        "--prompt", options->prompt, "add a sample: the newest checkpoint goes on with this text");
    command.option("--max-tokens", options->max_tokens, "of the sample")
        .needs(prompt)
        .range(int64_t{1}, int64_t{1} << 24)
        .show_default();
    command.option("--temperature", options->temperature, "of the sample; 0: no chance")
        .needs(prompt)
        .range(0.0, 1000.0)
        .show_default();
    command.run([options] {
        if (process().rank() != 0) return;
        if (!options->prompt.empty()) add_sample(*options);
        std::cout << write_report(options->run_dir) << "\n";
    });
}

}  // namespace fucina
