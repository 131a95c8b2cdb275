// ModelSource: MODEL on a command line: a run directory, a checkpoint or a Hugging Face directory.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "configs/manifest.pb.h"
#include "data/chat_format.h"
#include "data/tokenizer/tokenizer.h"
#include "launch/command_line.h"
#include "model/model.h"
#include "parallel/communicator.h"
#include "trainer/run_mesh.h"

namespace fucina {

// Fails (exit 3) where `path` is no directory that can be read; "no such directory; expected ...".
void check_directory(const std::filesystem::path& path, const char* expected);

// What commands that run a model have in common: MODEL, --tokenizer, --precision, --device; under
// mpirun
// --pipeline, --tensor and --expert.
struct ModelChoice {
    std::string model, tokenizer;
    std::string precision;  // bf16, fp32, or empty
    std::string device = "cpu";
    RunOnlyLayout layout;
};
// `precision` says what it is where it is not given.
void add_model_options(Command command, ModelChoice& choice, const char* precision);

class ModelSource {
  public:
    // Fails when there is no such directory (exit 3), or when it is neither a Hugging Face
    // directory nor holds a valid checkpoint (exit 10). Checkpoints passed over are named on
    // standard output if `speaks`.
    ModelSource(const std::filesystem::path& directory, bool speaks);

    const ModelSpec& spec() const { return spec_; }
    // The newest valid checkpoint of a run, or the directory itself.
    const std::filesystem::path& directory() const { return directory_; }
    const Manifest* manifest() const {
        return manifest_ ? &*manifest_ : nullptr;
    }  // null: not a checkpoint

    Model load(const ModelOptions& options) const;

    // Where the model's tokenizer.json should be: `given`, else beside the weights, else where the
    // recipe had it; empty when nothing says.
    std::string tokenizer_path(const std::string& given) const;
    // Fails (exit 2 without a path, exit 3 on another tokenizer than the model was trained with).
    Tokenizer tokenizer(const std::string& given) const;
    // The model's chat template: `given`, else the run's, else the one beside the tokenizer, else
    // that of the weights the run began with.
    std::optional<ChatFormat> chat_format(const std::string& given,
                                          const std::string& tokenizer) const;
    // data.begin_token and data.end_token of the model's run; `begin`, unless it is "auto",
    // instead.
    TextEndChoice end_choice(const std::string& begin) const;
    // Where a text ends that the model generates.
    std::vector<int32_t> stops(const TextEnds& ends) const;

  private:
    std::filesystem::path directory_;
    std::optional<Manifest> manifest_;
    ModelSpec spec_;
};

// The ids that a text to be gone on with begins with: what begins every text, unless it is there,
// and the text. A text of nothing begins with `ends.start`, or else with the model's `bos`; without
// either it fails (exit 2).
std::vector<int32_t> begin_text(const Tokenizer& tokenizer, const TextEnds& ends,
                                const std::string& text, std::optional<int32_t> bos);

// Collective. Sets the runtime for exact numerics with all of this process's cores, and for
// products in the order that the model's run had, or the fastest. Returns what is to be said:
// nothing, or that not all CPUs have the run's order.
std::string compute_as_trained(Communicator& communicator, const ModelSource& source,
                               DType compute);

}  // namespace fucina
