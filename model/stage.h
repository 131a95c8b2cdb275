// Stage: a run of the model's decoder blocks, with the embedding before the first of them and the
// head and MTP behind the last: what one rank of a pipeline computes. Forward and backward of a
// micro-batch are calls of their own; what lives between them is a StagePass, so that several can
// be under way at a time.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/layers/decoder_block.h"
#include "model/layers/embedding.h"
#include "model/layers/head.h"
#include "model/layers/mtp.h"
#include "model/pass_options.h"
#include "model/recompute.h"
#include "model/token_batch.h"

namespace fucina {

class Stage;

// A micro-batch on its way through a stage. Neither moved nor copied: its parts point at each
// other.
struct StagePass {
    StagePass(const Stage& of, const TokenBatch& tokens) : stage(of), batch(tokens) {}
    StagePass(const StagePass&) = delete;
    StagePass& operator=(const StagePass&) = delete;

    const Stage& stage;
    const TokenBatch& batch;  // must outlive this
    PassOptions options;
    PassContext context;
    WeightGradQueue weight_grads;
    MoeReport report;

    BlockWeights::Use end_weights;  // from forward to the losses' backward
    std::vector<Recompute<DecoderBlock>::Saved> blocks;
    Head::Saved head;
    Mtp::Saved mtp;
    ExactSum loss, mtp_loss;

    // After backward.
    PassResult result() const {
        return {loss, mtp_loss, report.balance, report.expert_counts, report.dropped};
    }
};

class Stage {
  public:
    // Blocks [begin, end) of the model.
    struct Place {
        int64_t begin = 0, end = 0;
        bool first = true, last = true;
    };
    // table: the embedding's, which a tied head and MTP use too. set: declares for the ranks that
    // have the stage.
    Stage(ParameterSet& set, const ModelSpec& spec, const Place& place, Parameter* table,
          bool with_mtp);

    // Begin to gather the weights that forward, or backward, uses first, so that they come while it
    // waits for its input. Forward and backward do without.
    void expect_forward(const PassContext& context) const;
    void expect_backward(const PassContext& context) const;
    // x [T, D]: the residual stream before the stage; undefined for the first, which begins with
    // the ids. Gives the one behind it; undefined for the last, which keeps it.
    Tensor forward(StagePass& pass, Tensor x) const;
    // dx: the gradient of what forward gave; undefined for the last stage, which begins with its
    // losses. Gives that of x; undefined for the first.
    Tensor backward(StagePass& pass, Tensor dx) const;

    // The same as forward where no backward follows; nothing is kept, and the last stage gives the
    // final hidden states. end: the weights of the head, which are here from then on.
    Tensor hidden(const PassContext& context, const TokenBatch& batch, Tensor x,
                  BlockWeights::Use& end) const;
    // Of tokens that follow those in the texts' caches, whose layers from first_layer on are for
    // the blocks; the last stage gives those of each text's last token.
    Tensor extend(const PassContext& context, const TokenBatch& batch, Tensor x,
                  std::span<const Continuation> texts, size_t first_layer,
                  BlockWeights::Use& end) const;

    bool is_first() const { return embedding_.has_value(); }
    bool is_last() const { return head_.has_value(); }
    int64_t layers() const { return std::ssize(blocks_); }
    const Head& head() const { return *head_; }  // of the last
    // What is used at a time: the embedding's weights, those of each block, and those of the head
    // and MTP.
    const std::vector<std::vector<Parameter*>>& weights() const { return weights_; }
    // MTP's last.
    std::vector<const Moe*> moe_layers() const;

  private:
    Tensor losses_backward(StagePass& pass) const;
    Tensor embed(const PassContext& context, const TokenBatch& batch, Tensor x) const;
    BlockWeights::Use use_end(const PassContext& context) const {
        return {context.weights, weights_.size() - 1};
    }
    BlockWeights::Use use_block(const PassContext& context, size_t block, size_t next) const;

    std::vector<std::vector<Parameter*>> weights_;
    std::optional<Embedding> embedding_;
    std::vector<DecoderBlock> blocks_;
    std::optional<Head> head_;
    std::optional<Mtp> mtp_;
};

}  // namespace fucina
