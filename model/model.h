// Model: what a rank has of the model, embedding, decoder blocks, head and MTP (model/stage.h),
// with an explicit backward. One pass takes whole sequences, flat; a training step is one pass or
// several, each a node of the grain tree (kernels/leaf_tree.h), so that cutting a step into passes
// never changes a number.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"
#include "model/latent_cache.h"
#include "model/model_spec.h"
#include "model/pass_options.h"
#include "model/recompute.h"
#include "model/token_batch.h"
#include "parallel/block_weights.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

struct ModelOptions {
    Exec exec = kHost;            // where its tensors lie
    DType compute = DType::bf16;  // activations and GEMM operands
    bool fp8 = false;             // these of the blocks' linears, where compute is bf16
    bool training = true;         // keep dgrad copies
    RecomputeKind recompute = RecomputeKind::none;
    bool with_mtp = false;
    const Mesh* mesh = nullptr;  // null: one rank; must outlive the model
    // Master weights are shards (Parameter::shard); a pass is a call of all ranks of its stage.
    bool weight_shards = false;
    int64_t chunks = 0;         // exact.chunks; 0: ModelSpec::most_chunks()
    bool sequence = false;      // tensor-parallel ranks share the rows between their products too
    int64_t dispatch_rows = 0;  // TokenDispatcher's rows
    // Decoder blocks of each stage of the pipeline, as many stages on each of its ranks: rank r's
    // are number r, r + ranks and so on. Empty: one stage a rank, as equal as can be.
    std::vector<int64_t> stage_layers = {};
};

struct StagePass;

class Model {
  public:
    Model(const ModelSpec& spec,
          const ModelOptions& options);  // weights undefined until initialize() or loading
    ~Model();
    Model(Model&&) noexcept;

    const ModelSpec& spec() const;
    const ModelOptions& options() const;
    // Of each of our stages, with ModelOptions::weight_shards; else empty.
    std::span<const std::unique_ptr<BlockWeights>> block_weights() const;
    // What this rank holds; stable order and addresses for the lifetime of the model; buffers
    // (router biases) included.
    std::span<Parameter* const> parameters();
    // Those of the other stages too, which have no elements here; the same list on every rank.
    std::span<Parameter* const> all_parameters();
    Parameter* find(const std::string& name);  // among all

    // N(0, initializer_range) for matrices, 1 for norms, 0 for biases; counter-based by seed and
    // parameter name. Only of parameters whose names begin with `prefix`: loading fills the others.
    void initialize(uint64_t seed, std::string_view prefix = {});
    // To be called after any change of weights: remakes packed copies. Those of shards are made
    // when they are gathered.
    void repack();

    // Stages that this rank has, and what it holds for each of them.
    int chunks() const;
    std::span<Parameter* const> parameters(int chunk);
    // A micro-batch on its way through one of them (model/stage.h): forward, backward, and, where
    // PassOptions::weights_wait, weight_grads. batch must outlive it.
    std::unique_ptr<StagePass> begin(int chunk, const TokenBatch& batch,
                                     const PassOptions& options);
    Tensor forward(StagePass& pass, Tensor x);
    Tensor backward(StagePass& pass, Tensor dx);
    void weight_grads(StagePass& pass);
    // Of a model whose stages are all here. Overwrites every trained parameter's grads with this
    // pass's node sum.
    PassResult forward_backward(const TokenBatch& batch, const PassOptions& options);
    // These run through all stages of the pipeline and are calls of all its ranks, with the same
    // tokens.
    //
    // Loss only, on the last stage; 0 on the others.
    PassResult evaluate(const TokenBatch& batch);
    // fp32 [T, V]; undefined but on the last stage.
    Tensor logits(const TokenBatch& batch);
    // Labels that MTP's loss counts in a batch: the step's sum of them goes into
    // PassOptions::mtp_scale.
    static int64_t count_mtp_labels(const TokenBatch& batch);

    // Decoding with a cache of latents for each text: appends the texts' ids to them, and gives
    // the logits after the last of each, fp32 [texts, V], to every stage. All texts begin, or none.
    // A text's logits do not depend on the others.
    LatentCache make_cache(int64_t capacity) const;
    Tensor extend(std::span<const Continuation> texts);
    Tensor extend(std::span<const int32_t> ids, LatentCache& cache) {
        const Continuation text{ids, &cache};
        return extend({&text, 1});
    }

    // Aux-loss-free balancing (arXiv 2412.19437 §2.1.2): bias += rate · sign(mean load - load), per
    // MoE layer. counts: of the global batch, as PassResult::expert_counts.
    void update_router_bias(const std::vector<std::vector<int64_t>>& counts, float rate);

  private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace fucina
