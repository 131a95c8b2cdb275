#include "trainer/run_mesh.h"

#include <algorithm>

#include "kernels/error.h"
#include "parallel/device_ranks.h"
#include "trainer/pass_batch.h"

namespace fucina {
namespace {

std::string list(const std::vector<int>& numbers) {
    std::string text;
    for (const int number : numbers) text += concat(text.empty() ? "" : ", ", number);
    return text;
}

// Numbers that divide `whole`, multiples of `unit`.
std::vector<int> divisors(int whole, int unit = 1) {
    std::vector<int> legal;
    for (int divisor = unit; divisor <= whole; divisor += unit)
        if (whole % divisor == 0) legal.push_back(divisor);
    return legal;
}

struct Axis {
    std::string name;  // as the user wrote it: "parallel.tensor", "--tensor"
    int size;
};

// expert.size 0: as many as tensor.
MeshShape mesh_shape(int ranks, const Axis& pipeline, const Axis& tensor, const Axis& expert) {
    if (ranks % pipeline.size != 0)
        fail(ExitCode::usage, pipeline.name, " = ", pipeline.size, " does not divide ", ranks,
             " ranks; legal: ", list(divisors(ranks)));
    const int stage = ranks / pipeline.size;
    if (stage % tensor.size != 0)
        fail(ExitCode::usage, tensor.name, " = ", tensor.size, " does not divide ", stage,
             pipeline.size > 1 ? " ranks of a stage; legal: " : " ranks; legal: ",
             list(divisors(stage)));
    MeshShape shape{.pipeline = pipeline.size,
                    .data = stage / tensor.size,
                    .tensor = tensor.size,
                    .expert = tensor.size};
    if (expert.size > 0) shape.expert = expert.size;
    const std::vector<int> legal = divisors(shape.stage_ranks(), tensor.size);
    if (std::ranges::find(legal, shape.expert) == legal.end())
        fail(ExitCode::usage, expert.name, " = ", shape.expert,
             shape.expert % tensor.size == 0
                 ? concat(" does not divide ", shape.stage_ranks(), " ranks")
                 : concat(" is not a multiple of ", tensor.name, " = ", tensor.size),
             "; legal: ", list(legal));
    return shape;
}

}  // namespace

std::unique_ptr<Mesh> make_mesh(Communicator& world, const Recipe& recipe) {
    const Parallel& parallel = recipe.parallel();
    const auto tensor = static_cast<int>(parallel.has_tensor() ? parallel.tensor() : 1);
    const auto pipeline = static_cast<int>(parallel.has_pipeline() ? parallel.pipeline() : 1);
    const MeshShape shape =
        mesh_shape(world.size(), {"parallel.pipeline", pipeline}, {"parallel.tensor", tensor},
                   {"parallel.expert", static_cast<int>(parallel.expert())});
    const SumOrder order = sum_order(recipe);
    if (recipe.train().numerics() != "fast" && !order.integers &&
        !ranks_fit_tree(shape.data, order)) {
        std::vector<int> legal;
        const int each = pipeline * tensor;
        for (int more = 1; more <= order.replicas; more *= 2) legal.push_back(more * each);
        fail(ExitCode::usage, shape.data, shape.data < world.size() ? " data-parallel" : "",
             " ranks do not divide exact.replicas = ", order.replicas, "; legal: ", list(legal),
             each > 1 ? " ranks in all" : "",
             "; start one of these, or on any number with exact.sums = \"integers\", which takes "
             "more memory and time, or with train.numerics = \"fast\"");
    }
    return std::make_unique<Mesh>(world, shape);
}

std::unique_ptr<Communicator> on_device(Communicator& ranks, const std::string& device,
                                        const std::function<void(const std::string&)>& say) {
    if (device != "cuda") return nullptr;
    if (!kWithCuda)
        fail(ExitCode::usage,
             "run.device = \"cuda\": this program was built without CUDA; `cmake --preset cuda` "
             "sets "
             "up a build with it");
    DeviceRanks made = make_device_ranks(ranks);
    if (ranks.rank() == 0 && !made.note.empty()) say(made.note);
    return std::move(made.ranks);
}

std::unique_ptr<Mesh> make_mesh(Communicator& world, const RunOnlyLayout& layout) {
    return std::make_unique<Mesh>(
        world, mesh_shape(world.size(), {"--pipeline", static_cast<int>(layout.pipeline)},
                          {"--tensor", static_cast<int>(layout.tensor)},
                          {"--expert", static_cast<int>(layout.expert)}));
}

}  // namespace fucina
