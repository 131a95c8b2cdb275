#include "model/stage.h"

#include "kernels/error.h"
#include "model/loss_sum.h"

namespace fucina {

namespace {

std::vector<DecoderBlock> make_blocks(ParameterSet& set, const ModelSpec& spec, int64_t begin,
                                      int64_t end) {
    std::vector<DecoderBlock> blocks;
    for (int64_t layer = begin; layer < end; ++layer)
        blocks.emplace_back(set, concat("layers.", layer, "."), spec,
                            spec.is_moe(layer) ? layer - spec.dense_layers : -1);
    return blocks;
}

}  // namespace

Stage::Stage(ParameterSet& set, const ModelSpec& spec, const Place& place, Parameter* table,
             bool with_mtp)
    : blocks_(make_blocks(set, spec, place.begin, place.end)) {
    if (place.first) embedding_.emplace(Embedding{table});
    if (!place.last) return;
    head_.emplace(set, "norm", spec);
    Parameter* projection = table;
    if (spec.tied_head)
        table->gemm = true;
    else
        projection = set.matrix("head", {spec.vocab_size, spec.hidden_size}, {.tensor = 0});
    projection->dgrad.cut = set.cut();
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
}

Tensor Stage::forward(StagePass& pass, Tensor x) const {
    const PassContext& context = pass.context;
    if (embedding_) x = embedding_->forward(context, pass.batch.ids.data());
    pass.blocks.resize(blocks_.size());
    for (size_t i = 0; i < blocks_.size(); ++i)
        x = Recompute(blocks_[i]).forward(context, {x}, pass.blocks[i]).x;
    if (!head_) return x;
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
    Head::Loss loss{.labels = pass.batch.labels.data(), .scale = pass.options.loss_scale};
    Tensor dx = head_->loss_backward(pass.context, loss, d_hidden, pass.head).x;
    pass.loss = sum_losses(loss.loss);
    return dx;
}

Tensor Stage::backward(StagePass& pass, Tensor dx) const {
    if (head_) dx = losses_backward(pass);
    for (size_t i = blocks_.size(); i-- > 0;)
        dx = Recompute(blocks_[i]).backward(pass.context, {dx}, pass.blocks[i]).x;
    if (!embedding_) return dx;
    embedding_->backward(pass.context, pass.batch.ids.data(), dx);
    return {};
}

Tensor Stage::hidden(const PassContext& context, const TokenBatch& batch, Tensor x) const {
    if (embedding_) x = embedding_->forward(context, batch.ids.data());
    for (const DecoderBlock& block : blocks_) {
        DecoderBlock::Saved dropped;
        x = block.forward(context, {std::move(x)}, dropped).x;
    }
    Head::Saved dropped;
    return head_ ? head_->forward(context, {x}, dropped) : x;
}

Tensor Stage::extend(const PassContext& context, const TokenBatch& batch, Tensor x,
                     std::span<LatentCache::Layer> cache, int64_t length) const {
    if (embedding_) x = embedding_->forward(context, batch.ids.data());
    for (size_t i = 0; i < blocks_.size(); ++i)
        x = blocks_[i].extend(context, {x}, cache[i], length).x;
    if (!head_) return x;
    Head::Saved dropped;
    return head_->forward(context, {x.slice(x.rows() - 1, x.rows())}, dropped);
}

std::vector<const Moe*> Stage::moe_layers() const {
    std::vector<const Moe*> layers;
    for (const DecoderBlock& block : blocks_)
        if (block.moe()) layers.push_back(block.moe());
    if (mtp_ && mtp_->moe()) layers.push_back(mtp_->moe());
    return layers;
}

}  // namespace fucina
