// `fucina checkpoint inspect DIR` and `fucina checkpoint verify DIR`.
#include <cstdio>
#include <map>
#include <memory>

#include "kernels/error.h"
#include "launch/commands.h"
#include "launch/process.h"
#include "launch/recipe.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

struct CheckpointOptions {
    std::string directory;
    bool tensors = false;
};

// A checkpoint directory, or a run's newest.
std::filesystem::path find(const std::string& directory) {
    if (!std::filesystem::is_directory(directory)) {
        fail(ExitCode::data, directory, ": no such directory; expected a run or a checkpoint");
    }
    return find_checkpoint(directory, [](const std::filesystem::path& dir, const std::string& why) {
        std::printf("WARNING: checkpoint %s is damaged and is passed over: %s\n", dir.c_str(),
                    why.c_str());
    });
}

std::string shape_of(const SavedTensor& tensor) {
    std::string text = "[";
    for (int d = 0; d < tensor.shape_size(); ++d) {
        text += concat(d == 0 ? "" : ", ", tensor.shape(d));
    }
    return text + "]";
}

int64_t bytes_of(const SavedTensor& tensor) {
    int64_t bytes = 0;
    for (const SavedBox& box : tensor.boxes()) bytes += box.nbytes();
    return bytes;
}

void print_tensors(const Manifest& manifest) {
    for (const SavedTensor& tensor : manifest.tensors()) {
        std::printf("%-7s %-40s %-5s %-20s", tensor.kind().c_str(), tensor.name().c_str(),
                    tensor.dtype().c_str(), shape_of(tensor).c_str());
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

}  // namespace

void add_checkpoint_command(Command app) {
    Command command = app.subcommand("checkpoint", "Look into a checkpoint, or check it");
    auto options = std::make_shared<CheckpointOptions>();
    Command inspect_command = command.subcommand("inspect", "What a checkpoint holds");
    Command verify_command =
        command.subcommand("verify", "Read everything and compare all checksums");
    for (Command each : {inspect_command, verify_command}) {
        each.option("directory", options->directory, "run or checkpoint directory")
            .path()
            .required();
    }
    inspect_command.flag("--tensors", options->tensors,
                         "every tensor, with the file and byte where each box begins");
    inspect_command.run([options] { inspect(*options); });
    verify_command.run([options] { verify(*options); });
}

}  // namespace fucina
