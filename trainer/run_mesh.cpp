#include "trainer/run_mesh.h"

#include "kernels/error.h"
#include "trainer/pass_batch.h"

namespace fucina {
namespace {

std::string list(const std::vector<int>& numbers) {
    std::string text;
    for (const int number : numbers) text += concat(text.empty() ? "" : ", ", number);
    return text;
}

void check_expert(const char* key, int expert, int ranks) {
    if (ranks % expert == 0) return;
    std::vector<int> legal;
    for (int divisor = 1; divisor <= ranks; ++divisor)
        if (ranks % divisor == 0) legal.push_back(divisor);
    fail(ExitCode::usage, key, " = ", expert, " does not divide ", ranks,
         " ranks; legal: ", list(legal));
}

}  // namespace

std::unique_ptr<Mesh> make_mesh(Communicator& world, const Recipe& recipe) {
    const int ranks = world.size();
    const SumOrder order = sum_order(recipe);
    const auto expert =
        static_cast<int>(recipe.parallel().has_expert() ? recipe.parallel().expert() : 1);
    if (recipe.train().numerics() != "fast" && !ranks_fit_tree(ranks, order)) {
        std::vector<int> legal;
        for (int more = 1; more <= order.replicas; more *= 2) legal.push_back(more);
        fail(ExitCode::usage, ranks, " ranks do not divide exact.replicas = ", order.replicas,
             "; legal: ", list(legal), "; start one of these, set a larger exact.replicas",
             " in a new run, or train.numerics = \"fast\"");
    }
    check_expert("parallel.expert", expert, ranks);
    return std::make_unique<Mesh>(world, MeshShape{.data = ranks, .expert = expert});
}

std::unique_ptr<Mesh> make_mesh(Communicator& world, int expert) {
    check_expert("--expert", expert, world.size());
    return std::make_unique<Mesh>(world, MeshShape{.data = world.size(), .expert = expert});
}

}  // namespace fucina
