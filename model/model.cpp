#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/runtime.h"
#include "model/layers/decoder_block.h"
#include "model/layers/embedding.h"
#include "model/layers/head.h"
#include "model/layers/mtp.h"
#include "model/loss_sum.h"
#include "model/random.h"

namespace fucina {

struct Model::Parts {
    Parts(const ModelSpec& model_spec, const ModelOptions& model_options);

    PassContext context(const TokenBatch& batch);
    const RopeTable& rope_for(int64_t positions);
    Tensor hidden(const TokenBatch& batch);  // [T, D] final hidden states, nothing kept
    void zero_mtp_grads();
    std::vector<const Moe*> moe_layers() const;

    ModelSpec spec;
    ModelOptions options;
    ParameterSet set;
    Embedding embedding;
    std::vector<DecoderBlock> blocks;
    Head head;
    std::optional<Mtp> mtp;
    RopeTable rope;
    int64_t rope_positions = 0;
    WeightGradQueue weight_grads;
    std::optional<TokenDispatcher> dispatcher;
};

Model::Parts::Parts(const ModelSpec& model_spec, const ModelOptions& model_options)
    : spec(model_spec),
      options(model_options),
      set(options.mesh != nullptr ? options.mesh->shape() : MeshShape(),
          options.mesh != nullptr ? options.mesh->rank() : 0,
          options.chunks > 0 ? options.chunks : spec.most_chunks()),
      embedding{set.plain("embedding", {spec.vocab_size, spec.hidden_size})},
      blocks([this] {
          std::vector<DecoderBlock> made;
          for (int64_t layer = 0; layer < spec.layers; ++layer)
              made.emplace_back(set, concat("layers.", layer, "."), spec,
                                spec.is_moe(layer) ? layer - spec.dense_layers : -1);
          return made;
      }()),
      head(set, "norm", spec) {
    options.chunks = set.chunks();
    if (options.mesh != nullptr && options.mesh->shape().expert > 1)
        dispatcher.emplace(options.mesh->expert(), spec.moe.router.experts);
    Parameter* table = embedding.table;
    Parameter* projection = table;
    if (spec.tied_head)
        table->gemm = true;
    else
        projection = set.matrix("head", {spec.vocab_size, spec.hidden_size});
    projection->dgrad.cut = set.cut();
    // Uses in a fixed order: embedding, head, MTP's embedding, MTP's head.
    const size_t head_use = spec.tied_head ? 1 : 0;
    head.use(projection, head_use);
    if (options.with_mtp) {
        mtp.emplace(set, spec, spec.is_moe(spec.layers) ? spec.moe_layers() : -1);
        mtp->use(table, head_use + 1, projection, spec.tied_head ? 3 : 1);
    }
    if (spec.tied_head) {
        table->grads.resize(options.with_mtp ? 4 : 2);
    } else {
        table->grads.resize(options.with_mtp ? 2 : 1);
        projection->grads.resize(options.with_mtp ? 2 : 1);
    }
}

const RopeTable& Model::Parts::rope_for(int64_t positions) {
    if (positions > rope_positions) {
        rope_positions = std::max({positions, 2 * rope_positions, int64_t{256}});
        rope = make_rope_table(rope_positions, spec.attention.rope_dim, spec.rope.theta,
                               spec.rope.yarn, spec.rope.layout);
    }
    return rope;
}

PassContext Model::Parts::context(const TokenBatch& batch) {
    PassContext context;
    context.tokens = batch.tokens();
    context.positions = batch.positions.data();
    context.cu_seqlens = batch.cu_seqlens;
    context.sequence_offsets = batch.sequence_offsets;
    context.grain_offsets = batch.grain_offsets;
    context.chunks = set.chunks();
    context.cut_grains(batch.grain_offsets, false);
    const auto last = std::max_element(batch.positions.begin(), batch.positions.end());
    context.rope = &rope_for(last == batch.positions.end() ? 1 : int64_t{*last} + 1);
    context.dtype = options.compute;
    context.recompute = options.recompute;
    context.weight_grads = &weight_grads;
    if (dispatcher) context.dispatcher = &*dispatcher;
    return context;
}

Tensor Model::Parts::hidden(const TokenBatch& batch) {
    const PassContext pass = context(batch);
    Tensor x = embedding.forward(pass, batch.ids.data());
    for (const DecoderBlock& block : blocks) {
        DecoderBlock::Saved dropped;
        x = block.forward(pass, {std::move(x)}, dropped).x;
    }
    Head::Saved dropped;
    return head.forward(pass, {x}, dropped);
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

std::vector<const Moe*> Model::Parts::moe_layers() const {
    std::vector<const Moe*> layers;
    for (const DecoderBlock& block : blocks)
        if (block.moe()) layers.push_back(block.moe());
    if (mtp && mtp->moe()) layers.push_back(mtp->moe());
    return layers;
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
        const Tensor& value = parameter->value;
        const std::span<float> data(value.data<float>(), static_cast<size_t>(value.size()));
        if (value.rank() < 2) {
            std::fill(data.begin(), data.end(), parameter->trained ? 1.0f : 0.0f);
            continue;
        }
        for_each_run(
            parameter->shape, parameter->box, [&](int64_t first, int64_t local, int64_t count) {
                fill_normal(data.subspan(static_cast<size_t>(local), static_cast<size_t>(count)),
                            first, seed, parameter->name, spec().initializer_range);
            });
    }
}

void Model::repack() {
    for (Parameter* parameter : parameters())
        parameter->repack(parts_->options.compute, parts_->options.training);
}

PassResult Model::forward_backward(const TokenBatch& batch, const PassOptions& pass) {
    FUCINA_CHECK(parts_->options.training, "the model was made without gradients");
    Parts& parts = *parts_;
    MemoryPurpose purpose("activations");
    MoeReport report;
    report.expert_counts.assign(
        parts.moe_layers().size(),
        std::vector<int64_t>(static_cast<size_t>(parts.spec.moe.router.experts), 0));
    PassContext context = parts.context(batch);
    context.keeps = true;
    context.balance_scale = pass.balance_scale;
    context.ranks_apart = pass.ranks_apart;
    if (pass.grains_apart) context.cut_grains(batch.grain_offsets, true);
    parts.weight_grads.done = pass.grad_done;
    context.report = &report;
    const bool again = context.recompute == RecomputeKind::block;

    const size_t layers = parts.blocks.size();
    std::vector<DecoderBlock::Saved> saved(again ? 0 : layers);
    std::vector<Recompute<DecoderBlock>::Saved> inputs(again ? layers : 0);
    Tensor x = parts.embedding.forward(context, batch.ids.data());
    for (size_t i = 0; i < layers; ++i) {
        const DecoderBlock& block = parts.blocks[i];
        x = again ? Recompute(block).forward(context, {x}, inputs[i]).x
                  : block.forward(context, {x}, saved[i]).x;
    }

    PassResult result;
    Head::Saved head_saved;
    Tensor d_hidden;
    Tensor hidden = parts.head.forward(context, {std::move(x)}, head_saved);
    if (parts.mtp && pass.mtp_scale != 0) {
        Mtp::Result mtp =
            parts.mtp->forward_backward(context, MtpRows(batch), hidden, pass.mtp_scale);
        d_hidden = mtp.d_hidden;
        result.mtp_loss = mtp.loss;
    } else if (parts.mtp) {
        parts.zero_mtp_grads();
    }
    hidden = Tensor();
    Head::Loss loss{.labels = batch.labels.data(), .scale = pass.loss_scale};
    Tensor dx = parts.head.loss_backward(context, loss, d_hidden, head_saved).x;
    d_hidden = Tensor();
    for (size_t i = layers; i-- > 0;) {
        const DecoderBlock& block = parts.blocks[i];
        dx = again ? Recompute(block).backward(context, {dx}, inputs[i]).x
                   : block.backward(context, {dx}, saved[i]).x;
    }
    parts.embedding.backward(context, batch.ids.data(), dx);

    result.loss = sum_losses(loss.loss);
    result.balance = report.balance;
    result.expert_counts = std::move(report.expert_counts);
    return result;
}

PassResult Model::evaluate(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    const Tensor hidden = parts_->hidden(batch);
    Head::Loss loss{.labels = batch.labels.data()};
    parts_->head.loss(parts_->context(batch), hidden, loss);
    PassResult result;
    result.loss = sum_losses(loss.loss);
    return result;
}

Tensor Model::logits(const TokenBatch& batch) {
    MemoryPurpose purpose("activations");
    return parts_->head.logits(parts_->hidden(batch));
}

int64_t Model::count_mtp_labels(const TokenBatch& batch) {
    return fucina::count_mtp_labels(batch);
}

void Model::update_router_bias(const std::vector<std::vector<int64_t>>& counts, float rate) {
    const std::vector<const Moe*> layers = parts_->moe_layers();
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
    const PassContext context = parts_->context(batch);
    Tensor x = parts_->embedding.forward(context, batch.ids.data());
    for (size_t i = 0; i < parts_->blocks.size(); ++i)
        x = parts_->blocks[i].extend(context, {x}, cache.layers[i], cache.length).x;
    cache.length += count;
    Head::Saved dropped;
    return parts_->head.logits(parts_->head.forward(context, {x.slice(count - 1, count)}, dropped));
}

}  // namespace fucina
