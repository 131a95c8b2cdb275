#include "launch/run_facts.h"

#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/runtime.h"

namespace fucina {

void write_run_facts(const TrainingRun& run, const Process& process) {
    int64_t parameters = 0;
    for (const Parameter* parameter : run.model->all_parameters()) {
        if (parameter->trained) parameters += whole_box(parameter->shape).size();
    }
    const Train& train = run.recipe.train();
    const ModelSpec& spec = run.model->spec();
    char now[64] = "";
    const std::time_t seconds = std::time(nullptr);
    std::strftime(now, sizeof(now), "%Y-%m-%d %H:%M", std::localtime(&seconds));
    nlohmann::ordered_json facts;
    facts["trained parameters"] = parameters;
    facts["model"] = fmt::format("{} layers of width {}, {} experts, {} a token", spec.layers,
                                 spec.hidden_size, spec.moe.router.experts, spec.moe.router.top_k);
    facts["batch"] = fmt::format("{} sequences of up to {} tokens", train.global_batch(),
                                 run.recipe.data().sequence_length());
    facts["numerics"] = fmt::format("{}, {}", train.precision(), train.numerics());
    if (train.precision() != "fp32") facts["order of products"] = name_of(runtime().products);
    facts["machine"] = fmt::format("{}, {} ranks of {} threads", describe_runtime(), process.size(),
                                   runtime().threads);
    facts[run.step == 0 ? "started" : "last resumed"] = now;
    try {
        write_text_file(run.path / "facts.json", facts.dump(2) + "\n");
    } catch (const StorageError&) {
    }
}

}  // namespace fucina
