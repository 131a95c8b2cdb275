#include "trainer/memory_plan.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "kernels/arena.h"
#include "model/pass_memory.h"
#include "parallel/pipeline_schedule.h"
#include "trainer/grad_accumulator.h"
#include "trainer/held_memory.h"
#include "trainer/pass_batch.h"
#include "trainer/process_memory.h"

namespace fucina {
namespace {

// How much more memory than the recipe's micro-batches need may be spent on merging them. A pass
// less is a writing, and an adding, of all gradients less.
constexpr double kMostGrowth = 1.1;
constexpr int64_t kSamplesLookedAt = 1 << 16;  // for the widest pass
// The code and the buffers of the first save and evaluation, as measured.
constexpr int64_t kLaterProgram =
    (int64_t{5} << 20) + (kWithCuda ? int64_t{15} << 17 : 0);  // a CUDA back end's host code
constexpr int64_t kTravelProgram = int64_t{3} << 19;           // and MPI's, for weights that travel
// MPI's for each rank of a stage beyond two, as measured with four.
constexpr int64_t kPeerProgram = int64_t{5} << 18;
// What comes and goes leaves gaps between the arena's blocks, as measured: a part of it, until the
// chunks of the head's loss, which do not grow with the model, are the only ones that fit nowhere.
constexpr int64_t kGapShare = 10;
constexpr int64_t kMostGaps = int64_t{16} << 20;

// Of a data index in a wave.
int64_t most_grains(const BatchPlan& batch, int index) {
    int64_t most = 0;
    for (const GrainRange share : batch.shares(index)) most = std::max(most, share.count());
    return most;
}

// The memory of a rank's passes.
class PassPlanner {
  public:
    PassPlanner(const Recipe& recipe, const Model& model, const BatchPlan& batch,
                const MeshShape& mesh, const std::function<int64_t(int64_t)>& sample_tokens)
        : recipe_(recipe),
          model_(model),
          batch_(batch),
          mesh_(mesh),
          stage_(model.options().mesh != nullptr ? model.options().mesh->pipeline().rank() : 0),
          by_wave_(sums_by_wave(batch, mesh)),
          expert_shards_(recipe.parallel().zero() >= 2 ? mesh.expert_data() : 1),
          other_shards_(recipe.parallel().zero() >= 2 ? mesh.data : 1) {
        if (!sample_tokens) return;
        const int64_t samples = recipe.train().global_batch();
        const int64_t steps = std::min(recipe.train().steps(), kSamplesLookedAt / samples + 1);
        for (int64_t step = 0; step < steps; ++step) {
            ends_.push_back({0});
            for (int64_t i = 0; i < samples; ++i)
                ends_.back().push_back(ends_.back().back() + sample_tokens(step * samples + i));
        }
    }

    // At one of this rank's stages.
    PassShape shape(const Pass& pass, int chunk) const {
        const Train& train = recipe_.train();
        const ModelOptions& options = model_.options();
        PassShape shape{.compute = options.compute,
                        .fp8 = options.fp8,
                        .recompute = options.recompute,
                        .with_mtp = options.with_mtp,
                        .balance = train.balance_loss() > 0,
                        .experts_here = experts_here(),
                        .chunks = options.chunks,
                        .tensor = mesh_.tensor,
                        .sequence = options.sequence && mesh_.tensor > 1,
                        .tokens = tokens(pass),
                        .leaves = train.numerics() == "fast" ? 1 : pass.grains.count(),
                        .merges = pass.merges};
        const auto stages = static_cast<int>(options.stage_layers.size());
        const int stage = chunk * stages / model_.chunks() + stage_;
        const auto layers = options.stage_layers.begin();
        shape.begin = std::accumulate(layers, layers + stage, int64_t{0});
        shape.end = shape.begin + layers[stage];
        shape.has_embedding = stage == 0;
        shape.has_head = stage + 1 == stages;
        if (shape.experts_here > 0) shape.received = std::min(own_choices(shape), wave_rows(shape));
        return shape;
    }

    // The most of each over the passes; sums of all stages' gradients are there together.
    // bucket: of gradients, of so many bytes.
    PassMemory most(const std::vector<Pass>& passes, int64_t bucket) const {
        const auto beside = kept_beside(passes);
        PassMemory all;
        int64_t gaps = 0;  // between the most of all gradients and that at the widest moment
        for (int chunk = 0; chunk < model_.chunks(); ++chunk) {
            const PassMemory one = most(passes, chunk, beside[static_cast<size_t>(chunk)], bucket);
            all.activations = std::max(all.activations, one.activations);
            all.gradients += one.gradients;
            gaps = std::max(gaps, one.together - one.gradients);
            all.all_gradients += one.all_gradients;
            all.expert_gradients += one.expert_gradients;
        }
        all.together = gaps + all.gradients;
        return all;
    }

    int64_t scratch(const std::vector<Pass>& passes) const {
        const int64_t longest = recipe_.exact().grain() * recipe_.data().sequence_length();
        int64_t most = 0;
        for (const Pass& pass : passes)
            most = std::max(most, kernel_scratch(model_.spec(), shape(pass, 0), longest));
        return most;
    }

    // Activations beyond `even` where the experts here get as many rows as they can at a time.
    int64_t uneven(const std::vector<Pass>& passes, int64_t even) const {
        int64_t most = even;
        for (const Pass& pass : passes)
            for (int chunk = 0; chunk < model_.chunks(); ++chunk) {
                PassShape shape = this->shape(pass, chunk);
                if (shape.experts_here == 0) return 0;
                const int64_t top_k = model_.spec().moe.router.top_k;
                const int64_t all = shape.tokens / mesh_.tensor * mesh_.expert;
                shape.received = std::min(all * std::min(top_k, shape.experts_here),
                                          std::max(all, wave_rows(shape)));
                most = std::max(most, pass_memory(model_.spec(), shape).activations);
            }
        return most - even;
    }

  private:
    PassMemory most(const std::vector<Pass>& passes, int chunk,
                    const std::vector<PassShape::Beside>& beside, int64_t bucket) const {
        PassMemory most;
        int held = 0;
        std::set<int> replicas;  // that have sums of their own
        for (const Pass& pass : passes) {
            PassShape shape = this->shape(pass, chunk);
            shape.beside = beside[static_cast<size_t>(&pass - passes.data())];
            // Those that no other rank holds need no exchange.
            if (pass.ends_wave && pass.wave > 0 && (!by_wave_ || mesh_.expert_data() == 1))
                ++shape.merges;
            shape.held = held;
            shape.integers = batch_.order().integers;
            shape.apart = !batch_.one_wave() || shape.integers;
            shape.replicas = static_cast<int>(replicas.size());
            for (int64_t grain = pass.grains.begin; grain < pass.grains.end; ++grain)
                shape.new_replicas += replicas.insert(batch_.replica(pass.wave, grain)).second;
            shape.last = &pass == &passes.back();
            shape.held_shards = by_wave_ ? expert_shards_ : 1;
            shape.expert_holders = mesh_.expert_data();
            shape.other_holders = mesh_.data;
            shape.shards = recipe_.parallel().zero() >= 2;
            shape.joins = by_wave_ && pass.wave > 0;
            const bool ends = by_wave_ ? pass.ends_wave : shape.last;
            if (ends && exchanges_early(pass.wave)) shape.bucket = bucket;
            const PassMemory one = pass_memory(model_.spec(), shape);
            most.activations = std::max(most.activations, one.activations);
            most.gradients = std::max(most.gradients, one.gradients);
            most.together = std::max(most.together, one.together);
            most.all_gradients = one.expert_gradients / expert_shards_ +
                                 (one.all_gradients - one.expert_gradients) / other_shards_;
            most.expert_gradients = one.expert_gradients;
            held = shape.integers ? 1 : held + 1 - shape.merges;
            if (pass.ends_wave && by_wave_) held = 1;
        }
        return most;
    }
    int64_t own_choices(const PassShape& shape) const {
        return shape.tokens / mesh_.tensor * model_.spec().moe.router.top_k;
    }
    // Of an exchange's wave; one expert's are as many as it gets evenly.
    int64_t wave_rows(const PassShape& shape) const {
        const int64_t mean = own_choices(shape);
        return std::max(TokenDispatcher::limit(model_.options().dispatch_rows, mean),
                        mean * mesh_.expert / model_.spec().moe.router.experts);
    }
    // What other micro-batches keep while one goes through a stage of this rank, forward and
    // backward: [stages][passes]. Weights' gradients that wait are counted as all that forward
    // kept.
    std::vector<std::vector<PassShape::Beside>> kept_beside(const std::vector<Pass>& passes) const {
        const auto chunks = static_cast<size_t>(model_.chunks());
        std::vector<int64_t> kept(chunks, 0);
        for (size_t chunk = 0; chunk < chunks; ++chunk)
            for (const Pass& pass : passes)
                kept[chunk] =
                    std::max(kept[chunk],
                             kept_activations(model_.spec(), shape(pass, static_cast<int>(chunk))));
        const Schedule schedule = pipeline_schedule(recipe_);
        std::vector<std::vector<PassShape::Beside>> beside(
            chunks, std::vector<PassShape::Beside>(passes.size()));
        int64_t all = 0, expected = 0;  // what the next action takes is on its way
        for (const Pass& pass : passes)
            if (mesh_.pipeline > 1) expected = std::max(expected, stream_bytes(pass));
        for (const Action& action :
             schedule_actions(schedule, mesh_.pipeline, stage_, static_cast<int>(passes.size()),
                              model_.chunks())) {
            const auto chunk = static_cast<size_t>(action.chunk);
            auto& [forward, backward] = beside[chunk][static_cast<size_t>(action.micro_batch)];
            if (action.kind == Action::forward) {
                forward = all + expected;
                all += kept[chunk];
            } else {
                backward = std::max(backward, all - kept[chunk] + expected);
            }
            if (action.kind == last_action(schedule)) all -= kept[chunk];
        }
        return beside;
    }
    // Of the residual stream.
    int64_t stream_bytes(const Pass& pass) const {
        const ModelOptions& options = model_.options();
        const int64_t rows = tokens(pass) / (options.sequence ? mesh_.tensor : 1);
        return rows * model_.spec().hidden_size * size_of(options.compute);
    }
    // Gradients are exchanged while the wave's last backward runs.
    bool exchanges_early(size_t wave) const {
        for (int index = 0; index < batch_.ranks(); ++index)
            if (batch_.share(wave, index).count() == 0) return false;
        return true;
    }
    int64_t experts_here() const {
        const Mesh* mesh = model_.options().mesh;
        if (mesh == nullptr || mesh->shape().expert == 1) return 0;
        const std::array<int64_t, 1> all{model_.spec().moe.router.experts};
        return std::max<int64_t>(1,
                                 box_of(all, {.expert = 0}, mesh->shape(), mesh->rank()).extent[0]);
    }
    // Of the widest of the steps.
    int64_t tokens(const Pass& pass) const {
        const int64_t grain = recipe_.exact().grain(), batch = recipe_.train().global_batch();
        if (ends_.empty()) return pass.grains.count() * grain * recipe_.data().sequence_length();
        const auto begin = static_cast<size_t>(pass.grains.begin * grain);
        const auto end = static_cast<size_t>(std::min(pass.grains.end * grain, batch));
        int64_t most = 0;
        for (const std::vector<int64_t>& step : ends_)
            most = std::max(most, step[end] - step[begin]);
        return most;
    }

    const Recipe& recipe_;
    const Model& model_;
    const BatchPlan& batch_;
    const MeshShape mesh_;
    const int stage_;  // of the pipeline's ranks
    const bool by_wave_;
    const int expert_shards_, other_shards_;
    std::vector<std::vector<int64_t>> ends_;  // [steps][samples + 1] running sums of their tokens
};

}  // namespace

bool MemoryPlan::has(const std::string& purpose) const {
    return std::ranges::any_of(predicted, [&](const auto& row) { return row.first == purpose; });
}

int64_t MemoryPlan::total() const {
    int64_t sum = -shared;
    for (const auto& [purpose, bytes] : predicted) sum += bytes;
    return sum;
}

MemoryPlan plan_memory(const Recipe& recipe, Model& model, const BatchPlan& batch, int index,
                       const std::function<int64_t(int64_t)>& sample_tokens, int64_t pass_grains) {
    const Mesh* const made = model.options().mesh;
    const MeshShape mesh = made != nullptr ? made->shape() : MeshShape{.data = batch.ranks()};
    const PassPlanner planner(recipe, model, batch, mesh, sample_tokens);
    const auto held = held_bytes(recipe, model);
    const int64_t gathered = gatherer_bytes(recipe, model);
    const int64_t of_other_stages = received_gradients(recipe, model);
    const Exchange exchange = exchange_of(recipe, model);
    const Gathered by_block(model, size_of(model.options().compute));
    const int64_t exchanged = exchange.bytes + by_block.travelling;
    const auto plan_for = [&](int64_t grains) {
        MemoryPlan plan{
            .passes = batch.passes(index, grains), .pass_grains = grains, .predicted = held};
        const PassMemory most = planner.most(plan.passes, exchange.bucket);
        // Gradients of other stages come when activations are gone.
        const int64_t at_end = of_other_stages > 0 ? most.all_gradients + of_other_stages : 0;
        const int64_t gradients = std::max(most.gradients, at_end);
        const int64_t together = std::max(most.together, at_end);
        plan.predicted.emplace_back("gradients", gradients);
        plan.predicted.emplace_back("activations", most.activations);
        plan.predicted.emplace_back("communication", exchanged + gathered);
        const int64_t gaps = std::min((together + exchanged + gathered) / kGapShare, kMostGaps);
        plan.shared = gradients + most.activations - together - gaps;
        plan.shared += by_block.apart;
        // Weights are gathered beside all gradients, when activations are gone.
        const int64_t beyond = most.all_gradients + gathered - together;
        plan.shared += gathered - std::clamp<int64_t>(beyond, 0, gathered);
        return plan;
    };
    const bool given = pass_grains > 0;
    const int64_t largest = most_grains(batch, index);
    if (!given)
        pass_grains = std::max<int64_t>(recipe.train().micro_batch() / recipe.exact().grain(), 1);
    MemoryPlan best = plan_for(pass_grains);
    const auto bound = static_cast<int64_t>(kMostGrowth * static_cast<double>(best.total()));
    // A pipeline runs better with more passes.
    const bool merges = recipe.train().merge_passes() && !given && mesh.pipeline == 1;
    while (merges && best.pass_grains < largest) {
        MemoryPlan merged = plan_for(2 * best.pass_grains);
        if (merged.total() > bound) break;
        best = std::move(merged);
    }
    // What depends on threads and the moment has no say in how passes are cut.
    best.uneven =
        planner.uneven(best.passes, planner.most(best.passes, exchange.bucket).activations);
    best.predicted.emplace_back("kernel scratch", planner.scratch(best.passes));
    const int64_t of_mpi = (by_block.travelling > 0 ? kTravelProgram : 0) +
                           std::max(mesh.stage_ranks() - 2, 0) * kPeerProgram;
    best.predicted.emplace_back(kProgramPurpose, program_bytes() + kLaterProgram + of_mpi);
    return best;
}

}  // namespace fucina
