// `fucina import HF_DIR OUT`: a Hugging Face directory's weights as a checkpoint.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "trainer/hf_import.h"
#include "trainer/manifest.h"
#include "trainer/step_line.h"

namespace fucina {
namespace {

struct Options {
    std::string from, out;
    double shard_gb = 16;
};

void print(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

void import_directory(const Options& options) {
    if (process().rank() != 0) return;
    const std::filesystem::path from = options.from;
    check_directory(from, "a Hugging Face directory");
    if (!std::filesystem::exists(from / "config.json"))
        for (const char* name : {kManifestName, "checkpoints"})
            if (std::filesystem::exists(from / name))
                fail(ExitCode::usage, options.from,
                     ": is a run or a checkpoint already; expected a Hugging Face directory");
    const Imported done = import_model(options.from, options.out,
                                       {.shard_bytes = static_cast<int64_t>(options.shard_gb * 1e9),
                                        .threads = process().use_threads(0),
                                        .say = print});
    for (const std::string& note : done.notes) print(note);
    print(fmt::format("{}: {} tensors in {} file{}, {:.3f} GB of fp32, {} in {}", options.out,
                      thousands(static_cast<double>(done.tensors)), done.files,
                      done.files == 1 ? "" : "s", static_cast<double>(done.bytes) / 1e9,
                      done.kept == 0
                          ? "written"
                          : fmt::format("{:.1f} MB of it kept of an earlier import, the rest "
                                        "written",
                                        static_cast<double>(done.kept) / 1e6),
                      duration_text(done.seconds)));
}

}  // namespace

void add_import_command(Command app) {
    Command command = app.subcommand(
        "import", "Make a checkpoint of a Hugging Face directory, resuming where one was stopped");
    const auto options = std::make_shared<Options>();
    command.option("HF_DIR", options->from, "config.json and safetensors: fp32, bf16 or FP8")
        .path()
        .required();
    command.option("OUT", options->out, "the checkpoint directory to make").path().required();
    command.option("--shard-size", options->shard_gb, "GB that one file has at most")
        .range(1e-6, 1e6)
        .show_default();
    command.run([options] { import_directory(*options); });
}

}  // namespace fucina
