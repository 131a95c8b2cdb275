#include "trainer/run_model.h"

#include "kernels/error.h"

namespace fucina {
namespace {

RecomputeKind recompute_kind(const std::string& name) {
    if (name == "norm") return RecomputeKind::norm;
    if (name == "mla_up") return RecomputeKind::mla_up;
    return name == "block" ? RecomputeKind::block : RecomputeKind::none;
}

ModelOptions model_options(const Recipe& recipe, const Mesh& mesh) {
    const Train& train = recipe.train();
    ModelOptions options;
    options.mesh = &mesh;
    options.chunks = train.numerics() == "fast" ? 1 : recipe.exact().chunks();
    options.compute = train.precision() == "fp32" ? DType::f32 : DType::bf16;
    options.with_mtp = train.mtp_loss() > 0;
    options.recompute = recompute_kind(train.recompute());
    options.weight_shards = recipe.parallel().zero() >= 3 && mesh.world().size() > 1;
    options.sequence = !recipe.parallel().has_sequence() || recipe.parallel().sequence();
    return options;
}

std::string widths(const ModelSpec& spec) {
    if (spec.attention.q_lora_rank == 0) return "the model's queries come without a latent";
    return concat("the model has ", spec.attention.heads, " heads, widths of ", spec.dense_width,
                  " and ", spec.moe.shared_width, " and a vocabulary of ", spec.vocab_size);
}

std::string legal_chunks(int64_t most) {
    std::string legal = "1";
    for (int64_t chunks = 2; chunks <= most; chunks *= 2) legal += concat(", ", chunks);
    return legal;
}

// As a number that this model has.
void settle_chunks(Recipe& recipe, const ModelSpec& spec) {
    const int64_t asked = recipe.exact().chunks();
    if (asked == 0) recipe.mutable_exact()->set_chunks(spec.most_chunks());
    if (asked == 0 || ((asked & (asked - 1)) == 0 && spec.chunks_divide(asked))) return;
    fail(ExitCode::usage, "exact.chunks = ", asked, ", but ", widths(spec),
         "; legal: ", legal_chunks(spec.most_chunks()));
}

}  // namespace

void check_tensor(const ModelSpec& spec, int64_t ranks, const std::string& name) {
    if (spec.chunks_divide(ranks)) return;
    std::string legal = "1";
    for (int64_t more = 2; more <= spec.attention.heads; ++more)
        if (spec.chunks_divide(more)) legal += concat(", ", more);
    fail(ExitCode::usage, name, " = ", ranks, ", but ", widths(spec), "; legal: ", legal);
}

std::unique_ptr<Model> make_model(const ModelSpec& spec, const Mesh& mesh, Recipe& recipe) {
    settle_chunks(recipe, spec);
    const int64_t ranks = mesh.shape().tensor, chunks = recipe.exact().chunks();
    check_tensor(spec, ranks, "parallel.tensor");
    if (recipe.train().numerics() != "fast" && chunks % ranks != 0)
        fail(ExitCode::usage, "parallel.tensor = ", ranks,
             " does not divide exact.chunks = ", chunks, "; legal: ", legal_chunks(chunks));
    return std::make_unique<Model>(spec, model_options(recipe, mesh));
}

std::unique_ptr<Optimizer> make_optimizer(Model& model, const Mesh& mesh, const Recipe& recipe) {
    const bool shared_out = recipe.parallel().zero() > 0 && mesh.world().size() > 1;
    return std::make_unique<Optimizer>(
        recipe.train(), model.parameters(),
        Optimizer::Options{.chunks = model.options().chunks,
                           .mesh = &mesh,
                           .shared_out = shared_out,
                           .grad_shards = shared_out && recipe.parallel().zero() >= 2});
}

}  // namespace fucina
