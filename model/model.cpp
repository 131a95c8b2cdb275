#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/runtime.h"
#include "model/loss_sum.h"
#include "model/random.h"
#include "model/stage.h"
#include "parallel/tree_sum.h"

namespace fucina {

struct Model::Parts {
    Parts(const ModelSpec& model_spec, const ModelOptions& model_options);

    // decodes: by its last rows alone, which ranks do not share.
    PassContext context(const TokenBatch& batch, bool decodes = false);
    const RopeTable& rope_for(int64_t positions);
    void prepare(StagePass& pass, const PassOptions& options);
    void zero_mtp_grads();

    ModelSpec spec;
    ModelOptions options;
    ParameterSet set;
    Stage stage;
    RopeTable rope;
    int64_t rope_positions = 0;
    std::optional<TokenDispatcher> dispatcher;
    std::optional<BlockWeights> weights;
};

Model::Parts::Parts(const ModelSpec& model_spec, const ModelOptions& model_options)
    : spec(model_spec),
      options(model_options),
      set(options.mesh != nullptr ? options.mesh->shape() : MeshShape(),
          options.mesh != nullptr ? options.mesh->rank() : 0,
          options.chunks > 0 ? options.chunks : spec.most_chunks(), options.weight_shards),
      stage(set, spec, {.end = spec.layers},
            set.plain("embedding", {spec.vocab_size, spec.hidden_size}, {.tensor = 0}),
            options.with_mtp) {
    options.chunks = set.chunks();
    if (options.mesh != nullptr && options.mesh->shape().expert > 1)
        dispatcher.emplace(options.mesh->expert(), spec.moe.router.experts,
                           options.mesh->shape().tensor);
    if (options.weight_shards)
        weights.emplace(
            *options.mesh, stage.weights(),
            BlockWeights::Options{.compute = options.compute, .with_dgrad = options.training});
}

const RopeTable& Model::Parts::rope_for(int64_t positions) {
    if (positions > rope_positions) {
        rope_positions = std::max({positions, 2 * rope_positions, int64_t{256}});
        rope = make_rope_table(rope_positions, spec.attention.rope_dim, spec.rope.theta,
                               spec.rope.yarn, spec.rope.layout);
    }
    return rope;
}

PassContext Model::Parts::context(const TokenBatch& batch, bool decodes) {
    PassContext context;
    context.tokens = batch.tokens();
    context.positions = batch.positions.data();
    context.cu_seqlens = batch.cu_seqlens;
    context.sequence_offsets = batch.sequence_offsets;
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
    if (weights) context.weights = &*weights;
    return context;
}

void Model::Parts::prepare(StagePass& pass, const PassOptions& options) {
    pass.options = options;
    pass.report.expert_counts.assign(
        stage.moe_layers().size(),
        std::vector<int64_t>(static_cast<size_t>(spec.moe.router.experts), 0));
    pass.weight_grads.done = options.grad_done;
    pass.weight_grads.sum_ranks = [this](const Tensor& grad) {
        tree_sum(this->options.mesh->tensor(), grad);
    };
    pass.context = context(pass.batch);
    pass.context.keeps = true;
    pass.context.balance_scale = options.balance_scale;
    pass.context.expert_sums = options.expert_sums;
    if (options.grains_apart) pass.context.cut_grains(true);
    pass.context.weight_grads = &pass.weight_grads;
    pass.context.report = &pass.report;
}

void Model::Parts::zero_mtp_grads() {
    for (Parameter* parameter : set.all())
        if (parameter->trained && parameter->name.starts_with("mtp.")) parameter->grad().zero();
    for (const char* name : {"embedding", "head"})
        for (Parameter* parameter : set.all())
            if (parameter->name == name)
                for (size_t use = parameter->grads.size() / 2; use < parameter->grads.size(); ++use)
                    parameter->grad(use).zero();
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

const BlockWeights* Model::block_weights() const {
    return parts_->weights ? &*parts_->weights : nullptr;
}

std::span<Parameter* const> Model::parameters() {
    return parts_->set.all();
}

Parameter* Model::find(const std::string& name) {
    for (Parameter* parameter : parameters())
        if (parameter->name == name) return parameter;
    return nullptr;
}

void Model::initialize(uint64_t seed, std::string_view prefix) {
    for (Parameter* parameter : parameters()) {
        if (!parameter->name.starts_with(prefix)) continue;
        const Tensor& value = parameter->master();
        const std::span<float> data(value.data<float>(), static_cast<size_t>(value.size()));
        if (value.rank() < 2) {
            std::fill(data.begin(), data.end(), parameter->trained ? 1.0f : 0.0f);
            continue;
        }
        for_each_run(parameter->shape, parameter->master_box(),
                     [&](int64_t first, int64_t local, int64_t count) {
                         fill_normal(
                             data.subspan(static_cast<size_t>(local), static_cast<size_t>(count)),
                             first, seed, parameter->name, spec().initializer_range);
                     });
    }
}

void Model::repack() {
    for (Parameter* parameter : parameters())
        if (!parameter->shard.defined())
            parameter->repack(parts_->options.compute, parts_->options.training);
}

PassResult Model::forward_backward(const TokenBatch& batch, const PassOptions& options) {
    FUCINA_CHECK(parts_->options.training, "the model was made without gradients");
    MemoryPurpose purpose("activations");
    StagePass pass(batch);
    parts_->prepare(pass, options);
    parts_->stage.forward(pass, {});
    if (parts_->options.with_mtp && options.mtp_scale == 0) parts_->zero_mtp_grads();
    parts_->stage.backward(pass, {});
    return {pass.loss, pass.mtp_loss, pass.report.balance, std::move(pass.report.expert_counts)};
}

PassResult Model::evaluate(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    const PassContext context = parts_->context(batch);
    const Stage& stage = parts_->stage;
    BlockWeights::Use end;
    Head::Loss loss{.labels = batch.labels.data()};
    const Tensor hidden = stage.hidden(context, batch, {}, end);
    stage.head().loss(context, hidden, loss);
    PassResult result;
    result.loss = sum_losses(loss.loss);
    return result;
}

Tensor Model::logits(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    const PassContext context = parts_->context(batch, true);
    const Stage& stage = parts_->stage;
    BlockWeights::Use end;
    const Tensor hidden = stage.hidden(context, batch, {}, end);
    return stage.head().logits(context, hidden);
}

int64_t Model::count_mtp_labels(const TokenBatch& batch) {
    return fucina::count_mtp_labels(batch);
}

void Model::update_router_bias(const std::vector<std::vector<int64_t>>& counts, float rate) {
    const std::vector<const Moe*> layers = parts_->stage.moe_layers();
    FUCINA_CHECK(counts.size() == layers.size(), counts.size(), " layers of counts, ",
                 layers.size(), " MoE layers");
    for (size_t l = 0; l < layers.size(); ++l) {
        float* bias = layers[l]->bias()->value.data<float>();
        int64_t total = 0;
        for (const int64_t count : counts[l]) total += count;
        // count against total / E, in integers.
        for (size_t e = 0; e < counts[l].size(); ++e) {
            const int64_t load = counts[l][e] * static_cast<int64_t>(counts[l].size());
            if (load < total) bias[e] += rate;
            if (load > total) bias[e] -= rate;
        }
    }
}

LatentCache Model::make_cache(int64_t capacity) const {
    MemoryPurpose purpose("latent cache");
    const MlaSpec& mla = parts_->spec.attention;
    LatentCache cache;
    cache.capacity = capacity;
    for (int64_t layer = 0; layer < parts_->spec.layers; ++layer)
        cache.layers.push_back(
            {Tensor::empty({capacity, mla.kv_lora_rank}, parts_->options.compute),
             Tensor::empty({capacity, mla.rope_dim}, parts_->options.compute)});
    return cache;
}

Tensor Model::extend(std::span<const int32_t> ids, LatentCache& cache) {
    MemoryPurpose purpose("activations");
    const auto count = static_cast<int64_t>(ids.size());
    FUCINA_CHECK(count > 0 && cache.length + count <= cache.capacity, count, " tokens after ",
                 cache.length, " of ", cache.capacity);
    TokenBatch batch;
    batch.ids.assign(ids.begin(), ids.end());
    for (int64_t t = 0; t < count; ++t)
        batch.positions.push_back(static_cast<int32_t>(cache.length + t));
    batch.cu_seqlens = batch.sequence_offsets = batch.grain_offsets = {0, count};
    const PassContext context = parts_->context(batch, true);
    BlockWeights::Use end;
    const Tensor hidden = parts_->stage.extend(context, batch, {}, cache.layers, cache.length, end);
    cache.length += count;
    return parts_->stage.head().logits(context, hidden);
}

}  // namespace fucina
