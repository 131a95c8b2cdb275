// `fucina checkpoint inspect | verify | diff | reshard | prune`.
#include <cstdio>
#include <map>
#include <memory>

#include "kernels/error.h"
#include "kernels/tensor.h"
#include "launch/commands.h"
#include "launch/model_source.h"
#include "launch/process.h"
#include "launch/recipe.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_diff.h"
#include "trainer/checkpoint_reshard.h"
#include "trainer/manifest.h"
#include "trainer/run_directory.h"
#include "trainer/step_line.h"

namespace fucina {
namespace {

struct CheckpointOptions {
    std::string directory, other;
    bool tensors = false, weights = false;
    int64_t keep = 0, files = 1;
};

// A checkpoint directory, or a run's newest.
std::filesystem::path find(const std::string& directory) {
    check_directory(directory, "a run or a checkpoint");
    if (std::filesystem::exists(directory + "/config.json"))
        fail(ExitCode::no_checkpoint, directory,
             ": is a Hugging Face directory; `fucina import` makes a checkpoint of one");
    return find_checkpoint(directory, [](const std::filesystem::path& dir, const std::string& why) {
        std::printf("WARNING: checkpoint %s is damaged and is passed over: %s\n", dir.c_str(),
                    why.c_str());
    });
}

int64_t bytes_of(const SavedTensor& tensor) {
    int64_t bytes = 0;
    for (const SavedBox& box : tensor.boxes()) bytes += box.nbytes();
    return bytes;
}

void print_tensors(const Manifest& manifest) {
    for (const SavedTensor& tensor : manifest.tensors()) {
        std::printf("%-7s %-40s %-5s %-20s", tensor.kind().c_str(), tensor.name().c_str(),
                    tensor.dtype().c_str(), shape_text(shape_of(tensor)).c_str());
        for (const SavedBox& box : tensor.boxes()) {
            std::printf(" %u:%lld", box.file(), static_cast<long long>(box.byte_offset()));
        }
        std::printf("\n");
    }
}

void inspect(const CheckpointOptions& options) {
    if (process().rank() != 0) return;
    const std::filesystem::path dir = find(options.directory);
    const Manifest manifest = read_manifest(dir);
    std::map<std::string, std::pair<int64_t, int64_t>> kinds;  // tensors and bytes
    for (const SavedTensor& tensor : manifest.tensors()) {
        kinds[tensor.kind()].first += 1;
        kinds[tensor.kind()].second += bytes_of(tensor);
    }
    std::printf("checkpoint   %s\nstep         %lld, %lld updates\nnext sample  %lld\n",
                dir.c_str(), static_cast<long long>(manifest.step()),
                static_cast<long long>(manifest.updates()),
                static_cast<long long>(manifest.next_sample()));
    std::printf("model        %s\ntokenizer    %s\n", manifest.model_hash().c_str(),
                manifest.tokenizer_hash().empty() ? "none" : manifest.tokenizer_hash().c_str());
    for (const SavedFile& file : manifest.files()) {
        std::printf("file         %s, %lld bytes\n", file.name().c_str(),
                    static_cast<long long>(file.size()));
    }
    for (const auto& [kind, sizes] : kinds) {
        std::printf("%-12s %lld tensors, %lld bytes\n", kind.c_str(),
                    static_cast<long long>(sizes.first), static_cast<long long>(sizes.second));
    }
    std::printf("%s\n", manifest.model_config().c_str());
    if (options.tensors) print_tensors(manifest);
}

void verify(const CheckpointOptions& options) {
    if (process().rank() != 0) return;
    const std::filesystem::path dir = find(options.directory);
    verify_checkpoint(dir);
    std::printf("%s: every checksum is right, and HDF5 sees the same datasets\n", dir.c_str());
}

void print(const TensorDiff& diff) {
    std::printf("%-7s %-40s ", diff.kind.c_str(), diff.name.c_str());
    if (!diff.apart.empty())
        std::printf("%s\n", diff.apart.c_str());
    else
        std::printf("%s of %s values differ, by at most %.3g; all of them by %.2g of the norm\n",
                    thousands(static_cast<double>(diff.differing)).c_str(),
                    thousands(static_cast<double>(diff.elements)).c_str(), diff.largest,
                    diff.relative);
}

void diff(const CheckpointOptions& options) {
    if (process().rank() != 0) return;
    const CheckpointReader a(find(options.directory)), b(find(options.other));
    const CheckpointDiff diff = diff_checkpoints(a, b);
    for (const TensorDiff& tensor : diff.tensors) print(tensor);
    for (const std::string& line : diff.other) std::printf("%s\n", line.c_str());
    std::printf("%lld tensors are equal to the last bit, %zu differ\n",
                static_cast<long long>(diff.equal), diff.tensors.size());
    if (!diff.same()) fail(ExitCode::data, a.dir().string(), " and ", b.dir().string(), " differ");
}

void reshard(const CheckpointOptions& options) {
    if (process().rank() != 0) return;
    const int64_t bytes =
        reshard_checkpoint({.from = find(options.directory),
                            .out = options.other,
                            .files = options.files,
                            .weights_only = options.weights,
                            .say = [](const std::string& line) { std::puts(line.c_str()); }});
    std::printf("%s: %s bytes in %lld file%s\n", options.other.c_str(),
                thousands(static_cast<double>(bytes)).c_str(),
                static_cast<long long>(options.files), options.files == 1 ? "" : "s");
}

void prune(const CheckpointOptions& options) {
    if (process().rank() != 0) return;
    const RunDirectory run = RunDirectory::open(options.directory);  // not while it trains
    const std::vector<std::filesystem::path> removed = prune_checkpoints(run.path(), options.keep);
    for (const std::filesystem::path& dir : removed) std::printf("removed %s\n", dir.c_str());
    std::printf("%zu removed, %zu left\n", removed.size(), list_checkpoints(run.path()).size());
}

}  // namespace

void add_checkpoint_command(Command app) {
    Command command =
        app.subcommand("checkpoint", "Look into checkpoints, check, compare or remove them");
    auto options = std::make_shared<CheckpointOptions>();
    Command inspect_command = command.subcommand("inspect", "What a checkpoint holds");
    Command verify_command =
        command.subcommand("verify", "Read everything and compare all checksums");
    Command diff_command = command.subcommand(
        "diff", "Which tensors differ, and by how much; exit code 3 if any does");
    Command reshard_command = command.subcommand(
        "reshard", "The same tensors in another number of files, or the weights alone");
    for (Command each : {inspect_command, verify_command, diff_command, reshard_command}) {
        each.option("directory", options->directory, "run or checkpoint directory")
            .path()
            .required();
    }
    diff_command.option("other", options->other, "run or checkpoint directory").path().required();
    reshard_command.option("out", options->other, "checkpoint directory to make").path().required();
    reshard_command.option("--files", options->files, "so many shards")
        .range(int64_t{1}, int64_t{99999})
        .show_default();
    reshard_command.flag("--weights", options->weights, "without the optimizer's moments");
    Command prune_command = command.subcommand("prune", "Remove a run's older checkpoints");
    prune_command.option("run", options->directory, "run directory").path().required();
    prune_command.option("--keep", options->keep, "So many newest valid ones stay")
        .range(int64_t{1}, int64_t{1000000})
        .required();
    inspect_command.flag("--tensors", options->tensors,
                         "every tensor, with the file and byte where each box begins");
    inspect_command.run([options] { inspect(*options); });
    verify_command.run([options] { verify(*options); });
    diff_command.run([options] { diff(*options); });
    reshard_command.run([options] { reshard(*options); });
    prune_command.run([options] { prune(*options); });
}

}  // namespace fucina
