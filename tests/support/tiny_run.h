// Runs of a tiny model within the test's process, by the functions that train and resume call.
#pragma once
#include <cfenv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/runtime.h"
#include "launch/recipe.h"
#include "tests/support/tiny_model.h"
#include "trainer/trainer.h"

namespace fucina::test {

class TinyRun {
  public:
    // The run directory is `path`; ids.json lies beside `data`.
    TinyRun(std::filesystem::path path, std::filesystem::path data,
            const std::vector<std::vector<int32_t>>& documents)
        : path_(std::move(path)), data_(std::move(data)) {
        std::ofstream(data_) << nlohmann::json(documents).dump();
        std::fegetenv(&arithmetic_);
        set_runtime(1, Numerics::exact);
    }
    // Other tests of the process see denormals again.
    ~TinyRun() { std::fesetenv(&arithmetic_); }

    const std::filesystem::path& path() const { return path_; }
    std::vector<std::string> base;  // overrides that always hold

    Recipe recipe(const std::vector<std::string>& overrides) const {
        std::string text = "[run]\ndir = \"" + path_.string() + "\"\n[model]\n";
        const nlohmann::json model = tiny_config();
        for (const auto& [key, value] : model.items()) {
            if (key != "model_type") text += key + " = " + value.dump() + "\n";
        }
        text += "[data]\nsequence_length = 8\nshuffle = false\ntrain = [{path = \"" +
                data_.string() + "\"}]\n";
        text +=
            "[train]\nsteps = 3\nglobal_batch = 4\nmicro_batch = 2\nlearning_rate = 1e-2\n"
            "schedule = \"constant\"\nprecision = \"fp32\"\nthreads = 1\n"
            "[checkpoint]\nkeep = 9\n";
        std::vector<std::string> all = base;
        all.insert(all.end(), overrides.begin(), overrides.end());
        return parse_recipe(text, "recipe.toml", all).recipe;
    }

    TrainingRun build(Communicator& communicator, const std::vector<std::string>& overrides) {
        const Recipe made = recipe(overrides);
        return build_run(communicator,
                         {.recipe = made,
                          .toml = recipe_toml(made),
                          .spec = ModelSpec::from_config(model_json(made), "recipe.toml")},
                         console_);
    }
    // As `fucina resume` does.
    TrainingRun resume(Communicator& communicator, const std::vector<std::string>& overrides,
                       const std::filesystem::path& path = {}) {
        ResumePoint point = open_for_resume(communicator, path.empty() ? path_ : path);
        std::optional<TrainingRun> run;
        while (!run) {
            find_resume_point(communicator, point, console_);
            const Recipe changed = parse_recipe(recipe_toml(point.manifest.recipe()),
                                                point.checkpoint.string(), overrides)
                                       .recipe;
            check_resumable(point.manifest, changed);
            Recipe kept = changed;
            kept.mutable_data()->clear_restart();
            run = build_resumed_run(communicator, point, changed, recipe_toml(kept), console_);
        }
        return std::move(*run);
    }

    void train(const std::vector<std::string>& overrides) {
        const auto self = make_self_communicator();
        Trainer(build(*self, overrides), console_).train();
    }
    void go_on(const std::vector<std::string>& overrides) {
        const auto self = make_self_communicator();
        Trainer(resume(*self, overrides), console_).train();
    }

  private:
    std::filesystem::path path_, data_;
    Console console_{false};
    std::fenv_t arithmetic_{};
};

// The first tensor that differs, or "".
inline std::string difference(const TrainingRun& one, const TrainingRun& other) {
    const auto a = one.state(), b = other.state();
    if (a.size() != b.size()) return "the number of tensors";
    for (size_t i = 0; i < a.size(); ++i) {
        const auto bytes = static_cast<size_t>(a[i].tensor.bytes());
        if (a[i].name != b[i].name || a[i].tensor.bytes() != b[i].tensor.bytes() ||
            (bytes > 0 && std::memcmp(a[i].tensor.raw(), b[i].tensor.raw(), bytes) != 0)) {
            return a[i].kind + " " + a[i].name;
        }
    }
    return one.optimizer->updates() == other.optimizer->updates() ? "" : "updates";
}

}  // namespace fucina::test
