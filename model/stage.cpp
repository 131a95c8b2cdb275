#include "model/stage.h"

#include <algorithm>

#include "kernels/error.h"
#include "kernels/optimizer.h"

namespace fucina {

namespace {

// weights: of each block are added.
std::vector<DecoderBlock> make_blocks(ParameterSet& set, const ModelSpec& spec, int64_t begin,
                                      int64_t end, std::vector<std::vector<Parameter*>>& weights) {
    std::vector<DecoderBlock> blocks;
    for (int64_t layer = begin; layer < end; ++layer) {
        const size_t before = set.all().size();
        blocks.emplace_back(set, concat("layers.", layer, "."), spec,
                            spec.is_moe(layer) ? layer - spec.dense_layers : -1);
        const auto own = set.all().subspan(before);
        weights.emplace_back(own.begin(), own.end());
    }
    return blocks;
}

}  // namespace

Stage::Stage(ParameterSet& set, const ModelSpec& spec, const Place& place, Parameter* table,
             bool with_mtp)
    : weights_{{table}}, blocks_(make_blocks(set, spec, place.begin, place.end, weights_)) {
    if (place.first)
        embedding_.emplace(Embedding{table});
    else
        weights_[0].clear();
    weights_.emplace_back();
    if (!place.last) return;
    const size_t before = set.all().size();
    head_.emplace(set, "norm", spec);
    Parameter* projection = table;
    if (spec.tied_head)
        table->packed.emplace();
    else
        projection = set.matrix("head", {spec.vocab_size, spec.hidden_size}, {.tensor = 0});
    projection->packed->dgrad.cut = set.cut();
    projection->packed->fp8 = false;
    // Uses in a fixed order: embedding, head, MTP's embedding, MTP's head.
    const size_t head_use = spec.tied_head ? 1 : 0;
    head_->use(projection, head_use);
    if (with_mtp) {
        mtp_.emplace(set, spec, spec.is_moe(spec.layers) ? spec.moe_layers() : -1);
        mtp_->use(table, head_use + 1, projection, spec.tied_head ? 3 : 1);
    }
    if (spec.tied_head) {
        table->grads.resize(with_mtp ? 4 : 2);
    } else {
        table->grads.resize(with_mtp ? 2 : 1);
        projection->grads.resize(with_mtp ? 2 : 1);
    }
    const auto own = set.all().subspan(before);
    weights_.back().assign(own.begin(), own.end());
    if (spec.tied_head || with_mtp) weights_.back().push_back(table);
}

// The weights of a block, which is followed by another, whose weights begin to come.
BlockWeights::Use Stage::use_block(const PassContext& context, size_t block, size_t next) const {
    BlockWeights::Use use(context.weights, block);
    if (context.weights != nullptr) context.weights->start(next);
    return use;
}

void Stage::expect_forward(const PassContext& context) const {
    if (context.weights != nullptr) context.weights->start(embedding_ ? 0 : 1);
}

// The last stage has what its losses use, and its last block's come meanwhile.
void Stage::expect_backward(const PassContext& context) const {
    if (context.weights != nullptr) context.weights->start(blocks_.size());
}

Tensor Stage::embed(const PassContext& context, const TokenBatch& batch, Tensor x) const {
    if (!embedding_) return x;
    const auto use = use_block(context, 0, 1);
    return embedding_->forward(context, batch.ids);
}

Tensor Stage::forward(StagePass& pass, Tensor x) const {
    const PassContext& context = pass.context;
    x = embed(context, pass.batch, std::move(x));
    pass.blocks.resize(blocks_.size());
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const auto use = use_block(context, i + 1, i + 2);
        x = Recompute(blocks_[i]).forward(context, {x}, pass.blocks[i]).x;
        if (pass.options.between_blocks) pass.options.between_blocks();
    }
    if (!head_) return x;
    pass.end_weights = use_end(context);
    const Tensor hidden = head_->forward(context, {std::move(x)}, pass.head);
    if (mtp_ && pass.options.mtp_scale != 0) mtp_->forward(context, pass.batch, hidden, pass.mtp);
    return {};
}

// The gradient of the residual stream behind the last block.
Tensor Stage::losses_backward(StagePass& pass) const {
    Tensor d_hidden;
    if (mtp_ && pass.options.mtp_scale != 0) {
        Mtp::Result mtp = mtp_->backward(pass.context, pass.options.mtp_scale, pass.mtp);
        d_hidden = std::move(mtp.d_hidden);
        pass.mtp_loss = mtp.loss;
    }
    Head::Loss loss{.labels = tensor_of(pass.context.exec, pass.batch.labels),
                    .scale = pass.options.loss_scale};
    Tensor dx = head_->loss_backward(pass.context, loss, d_hidden, pass.head).x;
    pass.loss = ops::exact_sum(pass.context.exec, loss.loss);
    return dx;
}

Tensor Stage::backward(StagePass& pass, Tensor dx) const {
    expect_backward(pass.context);
    if (head_) dx = losses_backward(pass);
    pass.end_weights = {};
    for (size_t i = blocks_.size(); i-- > 0;) {
        const auto use = use_block(pass.context, i + 1, std::max<size_t>(i, 1));
        dx = Recompute(blocks_[i]).backward(pass.context, {dx}, pass.blocks[i]).x;
        if (pass.options.between_blocks) pass.options.between_blocks();
    }
    if (!embedding_) return dx;
    embedding_->backward(pass.context, pass.batch.ids, dx);
    return {};
}

Tensor Stage::hidden(const PassContext& context, const TokenBatch& batch, Tensor x,
                     BlockWeights::Use& end) const {
    x = embed(context, batch, std::move(x));
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const auto use = use_block(context, i + 1, i + 2);
        DecoderBlock::Saved dropped;
        x = blocks_[i].forward(context, {std::move(x)}, dropped).x;
    }
    end = use_end(context);
    Head::Saved dropped;
    return head_ ? head_->forward(context, {x}, dropped) : x;
}

Tensor Stage::extend(const PassContext& context, const TokenBatch& batch, Tensor x,
                     std::span<const Continuation> texts, size_t first_layer,
                     BlockWeights::Use& end) const {
    x = embed(context, batch, std::move(x));
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const auto use = use_block(context, i + 1, i + 2);
        x = blocks_[i].extend(context, {x}, texts, first_layer + i).x;
    }
    if (!head_) return x;
    end = use_end(context);
    const Tensor last = context.activations(std::ssize(texts), x.dim(1));
    std::vector<int32_t> rows;
    for (size_t i = 1; i < batch.cu_seqlens.size(); ++i)
        rows.push_back(static_cast<int32_t>(batch.cu_seqlens[i] - 1));
    ops::gather_rows(context.exec, x, tensor_of(context.exec, rows), last);
    Head::Saved dropped;
    return head_->forward(context, {last}, dropped);
}

std::vector<const Moe*> Stage::moe_layers() const {
    std::vector<const Moe*> layers;
    for (const DecoderBlock& block : blocks_)
        if (block.moe()) layers.push_back(block.moe());
    if (mtp_ && mtp_->moe()) layers.push_back(mtp_->moe());
    return layers;
}

}  // namespace fucina
