#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/optimizer.h"
#include "kernels/runtime.h"
#include "model/random.h"
#include "model/stage.h"
#include "model/stage_layers.h"
#include "parallel/stage_link.h"
#include "parallel/tree_sum.h"

namespace fucina {

struct Model::Parts {
    Parts(const ModelSpec& model_spec, const ModelOptions& model_options);

    // decodes: by its last rows alone, which ranks do not share.
    PassContext context(const TokenBatch& batch, bool decodes = false);
    const RopeTable& rope_for(int64_t positions);
    void prepare(StagePass& pass, int chunk, const PassOptions& options);
    BlockWeights* weights_of(size_t chunk) const {
        return weights.empty() ? nullptr : weights[chunk].get();
    }
    void zero_mtp_grads(const StagePass& pass);
    void make_stages();
    // Takes rows through all stages, by x = visit(stage, x) and between ranks: what the last stage
    // gives, and nothing on the ranks of others.
    template <class Visit>
    Tensor through(PassContext& context, const Visit& visit);
    bool has_last() const { return here.back()->is_last(); }
    size_t moe_layers() const {
        return static_cast<size_t>(spec.moe_layers()) +
               (options.with_mtp && spec.is_moe(spec.layers) ? 1 : 0);
    }

    ModelSpec spec;
    ModelOptions options;
    ParameterSet set;
    std::vector<Stage> stages;       // of the whole pipeline; those of others have no elements
    std::vector<const Stage*> here;  // of this rank
    std::vector<Parameter*> held;    // that have elements here, and of each of our stages
    std::vector<std::vector<Parameter*>> held_by_chunk;
    std::optional<StageLink> link;  // where there are several ranks
    RopeTable rope;
    int64_t rope_positions = 0;
    std::optional<TokenDispatcher> dispatcher;
    std::vector<std::unique_ptr<BlockWeights>> weights;  // of each of our stages, if any
};

Model::Parts::Parts(const ModelSpec& model_spec, const ModelOptions& model_options)
    : spec(model_spec),
      options(model_options),
      set(options.exec, options.mesh != nullptr ? options.mesh->shape() : MeshShape(),
          options.mesh != nullptr ? options.mesh->rank() : 0,
          options.chunks > 0 ? options.chunks : spec.most_chunks(options.fp8),
          options.weight_shards, options.fp8) {
    make_stages();
    options.chunks = set.chunks();
    if (options.mesh != nullptr && options.mesh->shape().expert > 1)
        dispatcher.emplace(options.mesh->expert(), spec.moe.router.experts,
                           options.mesh->shape().tensor, options.dispatch_rows);
    // No two stages of a rank use the same weights: the first and the last are on different ranks.
    for (const Stage* stage : here)
        if (options.weight_shards)
            weights.push_back(std::make_unique<BlockWeights>(
                *options.mesh, stage->weights(),
                BlockWeights::Options{.compute = options.compute, .with_dgrad = options.training}));
    if (options.mesh != nullptr && options.mesh->shape().pipeline > 1)
        link.emplace(options.mesh->pipeline());
}

void Model::Parts::make_stages() {
    const int ranks = options.mesh != nullptr ? options.mesh->shape().pipeline : 1;
    const int rank = options.mesh != nullptr ? options.mesh->pipeline().rank() : 0;
    if (options.stage_layers.empty())
        options.stage_layers = split_layers(spec, ranks, options.with_mtp);
    const auto count = static_cast<int>(options.stage_layers.size());
    FUCINA_CHECK(count % ranks == 0 && (ranks > 1 || count == 1), count, " stages on ", ranks,
                 " ranks");
    // The table is the first stage's, and by a tied head and MTP the last's.
    const bool shared = spec.tied_head || options.with_mtp;
    set.place(0, shared ? ranks - 1 : 0);
    Parameter* table = set.plain("embedding", {spec.vocab_size, spec.hidden_size}, {.tensor = 0});
    stages.reserve(options.stage_layers.size());
    Stage::Place place;
    for (int s = 0; s < count; ++s) {
        set.place(s % ranks, s % ranks);
        const size_t before = set.all().size();
        place.begin = place.end;
        place.end += options.stage_layers[static_cast<size_t>(s)];
        place.first = s == 0;
        place.last = s + 1 == count;
        stages.emplace_back(set, spec, place, table, options.with_mtp);
        if (s % ranks != rank) continue;
        here.push_back(&stages.back());
        const auto declared = set.all().subspan(before);
        auto& held_here = held_by_chunk.emplace_back(declared.begin(), declared.end());
        // In the order of forward.
        if (place.first)
            held_here.insert(held_here.begin(), table);
        else if (place.last && shared)
            held_here.push_back(table);
    }
    FUCINA_CHECK(place.end == spec.layers, "stages of ", place.end, " layers, the model has ",
                 spec.layers);
    for (Parameter* parameter : set.all())
        if (set.holds(*parameter)) held.push_back(parameter);
    if (ranks == 1 || !shared) return;
    table->made_here.assign(table->grads.size(), rank == ranks - 1);
    table->made_here[0] = rank == 0;
    if (!has_last()) table->packed.reset();  // whose products are the head's
}

template <class Visit>
Tensor Model::Parts::through(PassContext& context, const Visit& visit) {
    Tensor x;
    for (size_t chunk = 0; chunk < here.size(); ++chunk) {
        const Stage& stage = *here[chunk];
        context.weights = weights_of(chunk);
        stage.expect_forward(context);
        if (!stage.is_first()) {
            link->expect(context.activations(context.stream_rows(), spec.hidden_size),
                         static_cast<int>(chunk), StageLink::rows);
            x = link->received(static_cast<int>(chunk), StageLink::rows);
        }
        x = visit(stage, std::move(x));
        if (!stage.is_last()) link->send(x, static_cast<int>(chunk), StageLink::rows);
    }
    return has_last() ? x : Tensor();
}

const RopeTable& Model::Parts::rope_for(int64_t positions) {
    if (positions > rope_positions) {
        rope_positions = std::max({positions, 2 * rope_positions, int64_t{256}});
        rope = make_rope_table(rope_positions, spec.attention.rope_dim, spec.rope.theta,
                               spec.rope.yarn, spec.rope.layout);
        if (!options.exec.on_host()) {
            rope.cos = options.exec.clone(rope.cos);
            rope.sin = options.exec.clone(rope.sin);
        }
    }
    return rope;
}

PassContext Model::Parts::context(const TokenBatch& batch, bool decodes) {
    PassContext context;
    context.exec = options.exec;
    context.set_rows(batch.positions, batch.cu_seqlens, batch.sequence_offsets);
    context.grain_offsets = batch.grain_offsets;
    context.chunks = set.chunks();
    if (options.mesh != nullptr && options.mesh->shape().tensor > 1) {
        context.tensor = &options.mesh->tensor();
        context.sequence = options.sequence && !decodes;
    }
    context.cut_rows(false);
    const auto last = std::max_element(batch.positions.begin(), batch.positions.end());
    context.rope = &rope_for(last == batch.positions.end() ? 1 : int64_t{*last} + 1);
    context.dtype = options.compute;
    context.recompute = options.recompute;
    if (dispatcher) context.dispatcher = &*dispatcher;
    return context;
}

void Model::Parts::prepare(StagePass& pass, int chunk, const PassOptions& options) {
    pass.options = options;
    pass.report.expert_counts.assign(
        moe_layers(), std::vector<int64_t>(static_cast<size_t>(spec.moe.router.experts), 0));
    pass.weight_grads.done = options.grad_done;
    pass.weight_grads.waits = options.weights_wait;
    pass.weight_grads.sum_ranks = [this](const Tensor& grad) {
        tree_sum(this->options.mesh->tensor(), grad);
    };
    pass.context = context(pass.batch);
    pass.context.weights = weights_of(static_cast<size_t>(chunk));
    pass.context.keeps = true;
    pass.context.balance_scale = options.balance_scale;
    pass.context.expert_capacity = options.expert_capacity;
    pass.context.expert_sums = options.expert_sums;
    if (options.grains_apart) pass.context.cut_grains(true);
    pass.context.weight_grads = &pass.weight_grads;
    pass.context.report = &pass.report;
}

// Where MTP does not run.
void Model::Parts::zero_mtp_grads(const StagePass& pass) {
    const auto zero = [&](Parameter& parameter, size_t use) {
        if (!parameter.trained) return;
        // One node will do; without grains there is none, but of experts, whom others send to.
        if (pass.context.nodes->empty() && parameter.layout.expert < 0) return;
        parameter.exec.zero(parameter.grad(use));
        if (pass.options.grad_done) pass.options.grad_done(parameter, use, 0);
    };
    for (Parameter* parameter : held) {
        if (parameter->name.starts_with("mtp.")) zero(*parameter, 0);
        if (parameter->name == "embedding" || parameter->name == "head")
            for (size_t use = parameter->grads.size() / 2; use < parameter->grads.size(); ++use)
                zero(*parameter, use);
    }
}

Model::Model(const ModelSpec& spec, const ModelOptions& options)
    : parts_(std::make_unique<Parts>(spec, options)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;

const ModelSpec& Model::spec() const {
    return parts_->spec;
}

const ModelOptions& Model::options() const {
    return parts_->options;
}

std::span<const std::unique_ptr<BlockWeights>> Model::block_weights() const {
    return parts_->weights;
}

std::span<Parameter* const> Model::parameters() {
    return parts_->held;
}

std::span<Parameter* const> Model::all_parameters() {
    return parts_->set.all();
}

int Model::chunks() const {
    return static_cast<int>(parts_->here.size());
}

std::span<Parameter* const> Model::parameters(int chunk) {
    return parts_->held_by_chunk[static_cast<size_t>(chunk)];
}

Parameter* Model::find(const std::string& name) {
    for (Parameter* parameter : all_parameters())
        if (parameter->name == name) return parameter;
    return nullptr;
}

void Model::initialize(uint64_t seed, std::string_view prefix) {
    for (Parameter* parameter : parameters()) {
        if (!parameter->name.starts_with(prefix)) continue;
        const Tensor& value = parameter->master();
        edit_on_host(parameter->exec, value, [&](const Tensor& values) {
            const HostValues<float> on_host(kHost, values);
            const std::span<float> data = on_host.span();
            if (value.rank() < 2) {
                std::fill(data.begin(), data.end(), parameter->trained ? 1.0f : 0.0f);
                return;
            }
            for_each_run(parameter->shape, parameter->master_box(),
                         [&](int64_t first, int64_t local, int64_t count) {
                             fill_normal(data.subspan(static_cast<size_t>(local),
                                                      static_cast<size_t>(count)),
                                         first, seed, parameter->name, spec().initializer_range);
                         });
        });
    }
}

void Model::repack() {
    for (Parameter* parameter : parameters())
        if (parameter->packed && !parameter->shard.defined())
            parameter->packed->pack(parameter->exec, parameter->value, parts_->options.compute,
                                    parts_->options.training);
}

std::unique_ptr<StagePass> Model::begin(int chunk, const TokenBatch& batch,
                                        const PassOptions& options) {
    FUCINA_CHECK(parts_->options.training, "the model was made without gradients");
    MemoryPurpose purpose("activations");
    auto pass = std::make_unique<StagePass>(*parts_->here[static_cast<size_t>(chunk)], batch);
    parts_->prepare(*pass, chunk, options);
    return pass;
}

Tensor Model::forward(StagePass& pass, Tensor x) {
    MemoryPurpose purpose("activations");
    return pass.stage.forward(pass, std::move(x));
}

Tensor Model::backward(StagePass& pass, Tensor dx) {
    MemoryPurpose purpose("activations");
    const bool with_mtp = parts_->options.with_mtp && pass.stage.is_last();
    if (with_mtp && pass.options.mtp_scale == 0) parts_->zero_mtp_grads(pass);
    return pass.stage.backward(pass, std::move(dx));
}

void Model::weight_grads(StagePass& pass) {
    MemoryPurpose purpose("activations");
    pass.weight_grads.run();
}

PassResult Model::forward_backward(const TokenBatch& batch, const PassOptions& options) {
    FUCINA_CHECK(parts_->stages.size() == 1, "other stages are elsewhere");
    const std::unique_ptr<StagePass> pass = begin(0, batch, options);
    forward(*pass, {});
    backward(*pass, {});
    return pass->result();
}

PassResult Model::evaluate(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    PassContext context = parts_->context(batch);
    BlockWeights::Use end;
    const Tensor hidden = parts_->through(context, [&](const Stage& stage, Tensor x) {
        return stage.hidden(context, batch, std::move(x), end);
    });
    PassResult result;
    if (!parts_->has_last()) return result;
    Head::Loss loss{.labels = tensor_of(parts_->options.exec, batch.labels)};
    parts_->here.back()->head().loss(context, hidden, loss);
    result.loss = ops::exact_sum(parts_->options.exec, loss.loss);
    return result;
}

Tensor Model::logits(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    PassContext context = parts_->context(batch, true);
    BlockWeights::Use end;
    const Tensor hidden = parts_->through(context, [&](const Stage& stage, Tensor x) {
        return stage.hidden(context, batch, std::move(x), end);
    });
    return parts_->has_last() ? parts_->here.back()->head().logits(context, hidden) : Tensor();
}

int64_t Model::count_mtp_labels(const TokenBatch& batch) {
    return fucina::count_mtp_labels(batch);
}

void Model::update_router_bias(const std::vector<std::vector<int64_t>>& counts, float rate) {
    FUCINA_CHECK(counts.size() == parts_->moe_layers(), counts.size(), " layers of counts, ",
                 parts_->moe_layers(), " MoE layers");
    for (const Stage* stage : parts_->here)
        for (const Moe* layer : stage->moe_layers())
            ops::update_router_bias(parts_->options.exec,
                                    counts[static_cast<size_t>(layer->report_index())], rate,
                                    layer->bias()->value);
}

LatentCache Model::make_cache(int64_t capacity) const {
    MemoryPurpose purpose("latent cache");
    const MlaSpec& mla = parts_->spec.attention;
    LatentCache cache;
    cache.capacity = capacity;
    for (const Stage* stage : parts_->here)
        for (int64_t layer = 0; layer < stage->layers(); ++layer)
            cache.layers.push_back(
                {parts_->options.exec.empty({capacity, mla.kv_lora_rank}, parts_->options.compute),
                 parts_->options.exec.empty({capacity, mla.rope_dim}, parts_->options.compute)});
    return cache;
}

Tensor Model::extend(std::span<const Continuation> texts) {
    MemoryPurpose purpose("activations");
    TokenBatch batch;
    for (const auto& [ids, cache] : texts) {
        const int64_t count = std::ssize(ids);
        FUCINA_CHECK(count > 0 && cache->length + count <= cache->capacity, count, " tokens after ",
                     cache->length, " of ", cache->capacity);
        FUCINA_CHECK((cache->length == 0) == (texts.front().cache->length == 0),
                     "some texts begin, others go on");
        batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
        for (int64_t t = 0; t < count; ++t)
            batch.positions.push_back(static_cast<int32_t>(cache->length + t));
        batch.cu_seqlens.push_back(batch.tokens());
    }
    batch.sequence_offsets = batch.grain_offsets = batch.cu_seqlens;
    PassContext context = parts_->context(batch, true);
    size_t first = 0;  // of the caches' layers
    BlockWeights::Use end;
    const Tensor hidden = parts_->through(context, [&](const Stage& stage, Tensor x) {
        const size_t layer = first;
        first += static_cast<size_t>(stage.layers());
        return stage.extend(context, batch, std::move(x), texts, layer, end);
    });
    for (const auto& [ids, cache] : texts) cache->length += std::ssize(ids);
    Tensor logits;
    if (parts_->has_last())
        logits = parts_->here.back()->head().logits(context, hidden);
    else
        logits =
            parts_->options.exec.empty({std::ssize(texts), parts_->spec.vocab_size}, DType::f32);
    if (parts_->link) parts_->link->from_last(logits);
    return logits;
}

}  // namespace fucina
