#include "trainer/run_model.h"

#include <numeric>

#include "kernels/error.h"
#include "model/stage_layers.h"

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
    options.exec = mesh.exec();
    options.mesh = &mesh;
    options.chunks = train.numerics() == "fast" ? 1 : recipe.exact().chunks();
    options.compute = train.precision() == "fp32" ? DType::f32 : DType::bf16;
    options.fp8 = train.precision() == "fp8";
    options.with_mtp = train.mtp_loss() > 0;
    options.recompute = recompute_kind(train.recompute());
    options.weight_shards = recipe.parallel().zero() >= 3 && mesh.world().size() > 1;
    options.dispatch_rows = recipe.parallel().dispatch_rows();
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
    const bool fp8 = recipe.train().precision() == "fp8";
    if (asked == 0) recipe.mutable_exact()->set_chunks(spec.most_chunks(fp8));
    if (asked == 0 || ((asked & (asked - 1)) == 0 && spec.chunks_divide(asked, fp8))) return;
    fail(ExitCode::usage, "exact.chunks = ", asked, ", but ", widths(spec),
         fp8 ? ", and fp8 takes shares of whole 128s" : "",
         "; legal: ", legal_chunks(spec.most_chunks(fp8)));
}

// Of the recipe, or else as equal as can be.
std::vector<int64_t> stage_layers(const Parallel& parallel, const ModelSpec& spec, bool with_mtp) {
    const int64_t ranks = parallel.has_pipeline() ? parallel.pipeline() : 1;
    int64_t each = parallel.virtual_stages() > 0 ? parallel.virtual_stages() : 2;
    if (ranks == 1 || parallel.schedule() != "interleaved") each = 1;
    check_pipeline(spec, ranks, "parallel.pipeline");
    check_pipeline(spec, ranks * each, "parallel.pipeline times parallel.virtual_stages");
    const auto& asked = parallel.stage_layers();
    if (asked.empty()) return split_layers(spec, static_cast<int>(ranks * each), with_mtp);
    const int64_t layers = std::accumulate(asked.begin(), asked.end(), int64_t{0});
    if (asked.size() != ranks * each || layers != spec.layers)
        fail(ExitCode::usage, "parallel.stage_layers names ", layers, " layers in ", asked.size(),
             " stages; expected ", spec.layers, " in ", ranks * each);
    return {asked.begin(), asked.end()};
}

}  // namespace

void check_tensor(const ModelSpec& spec, int64_t ranks, const std::string& name) {
    if (spec.chunks_divide(ranks)) return;
    std::string legal = "1";
    for (int64_t more = 2; more <= spec.attention.heads; ++more)
        if (spec.chunks_divide(more)) legal += concat(", ", more);
    fail(ExitCode::usage, name, " = ", ranks, ", but ", widths(spec), "; legal: ", legal);
}

void check_pipeline(const ModelSpec& spec, int64_t stages, const std::string& name) {
    if (stages <= spec.layers) return;
    fail(ExitCode::usage, name, " = ", stages, ", but the model has ", spec.layers,
         " layers, and every stage has one; legal: up to ", spec.layers);
}

std::unique_ptr<Model> make_model(const ModelSpec& spec, const Mesh& mesh, Recipe& recipe) {
    settle_chunks(recipe, spec);
    const int64_t ranks = mesh.shape().tensor, chunks = recipe.exact().chunks();
    check_tensor(spec, ranks, "parallel.tensor");
    if (recipe.train().numerics() != "fast" && chunks % ranks != 0)
        fail(ExitCode::usage, "parallel.tensor = ", ranks,
             " does not divide exact.chunks = ", chunks, "; legal: ", legal_chunks(chunks));
    ModelOptions options = model_options(recipe, mesh);
    options.stage_layers = stage_layers(recipe.parallel(), spec, options.with_mtp);
    return std::make_unique<Model>(spec, options);
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
