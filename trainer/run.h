// A run, built and ready to go: new by `train`, or from a checkpoint by `resume`. Building it is
// kept apart from running it (trainer.h).
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "configs/manifest.pb.h"
#include "model/model.h"
#include "parallel/communicator.h"
#include "trainer/checkpoint.h"
#include "trainer/console.h"
#include "trainer/optimizer.h"
#include "trainer/run_data.h"
#include "trainer/run_directory.h"

namespace fucina {

struct TrainingRun {
    Recipe recipe;
    std::filesystem::path path;             // the run directory
    std::optional<RunDirectory> directory;  // with its lock, on rank 0
    RunData data;
    std::unique_ptr<Communicator> ranks;  // with their tensors on run.device, if it is a GPU
    std::unique_ptr<Mesh> mesh;           // over the communicator that the run was built with
    std::unique_ptr<Model> model;
    std::unique_ptr<Optimizer> optimizer;
    int64_t step = 0;         // done
    int64_t next_sample = 0;  // of the global sequence of samples

    // All that a checkpoint holds, under global names.
    std::vector<NamedTensor> state() const;
};

struct NewRun {
    Recipe recipe;                  // resolved
    std::string toml;               // the same as a file
    std::optional<ModelSpec> spec;  // absent with model.from
    bool fresh = false;             // an old run directory is moved aside
};

// Collective. Nothing is written before the model, the data and the directory are known to be
// usable.
TrainingRun build_run(Communicator& communicator, const NewRun& request, Console& console);

struct ResumePoint {
    std::filesystem::path path;             // the run directory
    std::optional<RunDirectory> directory;  // with its lock, on rank 0
    std::filesystem::path checkpoint;
    Manifest manifest;
    std::vector<std::filesystem::path> damaged;  // newer checkpoints that were passed over
};

// Collective. Takes the run's lock and removes what interrupted saves left.
ResumePoint open_for_resume(Communicator& communicator, const std::filesystem::path& path);

// Collective. Goes to the run's newest checkpoint that is not known to be damaged; exit 10 if there
// is none. Only what is damaged is passed over: one that cannot be read ends the program.
void find_resume_point(Communicator& communicator, ResumePoint& point, Console& console);

// What may not change when a run goes on: fails (exit 2) naming the keys and both values.
void check_resumable(const Manifest& manifest, const Recipe& recipe);

// Collective. recipe: the manifest's with changes applied. Nothing where the checkpoint turns out
// to be damaged: find_resume_point then goes on from the one before. Nothing is touched until a
// checkpoint is loaded whole; then the damaged ones are set aside.
std::optional<TrainingRun> build_resumed_run(Communicator& communicator, ResumePoint& point,
                                             const Recipe& recipe, const std::string& toml,
                                             Console& console);

// Parameters by part of the model, a line each.
std::vector<std::string> parameter_table(Model& model);

}  // namespace fucina
