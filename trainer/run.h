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
    std::filesystem::path path;  // the run directory
    std::optional<RunDirectory> directory;
    std::filesystem::path checkpoint;
    Manifest manifest;
};

// Collective. Takes the run's lock and finds its newest checkpoint; exit 10 if there is none.
ResumePoint find_resume_point(Communicator& communicator, const std::filesystem::path& path,
                              Console& console);

// What may not change when a run goes on: fails (exit 2) naming the keys and both values.
void check_resumable(const Manifest& manifest, const Recipe& recipe);

// Collective. recipe: the manifest's with changes applied. A checkpoint that turns out to be
// damaged is set aside, loudly, and the one before is taken.
TrainingRun build_resumed_run(Communicator& communicator, ResumePoint point, const Recipe& recipe,
                              const std::string& toml, Console& console);

// Parameters by part of the model, a line each.
std::vector<std::string> parameter_table(Model& model);

}  // namespace fucina
