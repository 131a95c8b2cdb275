// Mtp: multi-token prediction (arXiv 2412.19437 §2.2), one module. From the main model's final
// hidden state h_t and the next token's embedding it predicts the token after next:
//   h'_t = block(W_join [norm_e(Emb(token_{t+1})) | norm_h(h_t)]),  logits = head(norm(h'_t))
// Rows without a next token in their document are left out; their label would cross a document.
#pragma once
#include <optional>
#include <vector>

#include "model/layers/decoder_block.h"
#include "model/layers/embedding.h"
#include "model/layers/head.h"
#include "model/recompute.h"
#include "model/token_batch.h"

namespace fucina {

// The rows of a batch that have a next token, as a pass of their own.
struct MtpRows {
    std::vector<int32_t> rows;                         // [T'] index into the batch
    std::vector<int32_t> next_ids, positions, labels;  // [T'] labels: of the token after next
    std::vector<int64_t> cu_seqlens{0}, sequence_offsets{0}, grain_offsets{0};
    explicit MtpRows(const TokenBatch& batch);
};

// Labels that MTP's loss counts in a batch.
int64_t count_mtp_labels(const TokenBatch& batch);

class Mtp {
  public:
    Mtp(ParameterSet& set, const ModelSpec& spec, int64_t report_index);
    void use(Parameter* table, size_t table_use, Parameter* projection, size_t projection_use);

    struct Saved {
        std::optional<MtpRows> rows;
        Tensor embedded, embedded_rstd;  // [T', D], fp32 [T']: the next tokens'
        Tensor gathered, gathered_rstd;  // the rows' hidden states
        Tensor joined;                   // [T', 2D]
        Recompute<DecoderBlock>::Saved block;
        Head::Saved head;
    };
    // hidden [T, D]: the main model's final hidden states, of the pass `main`.
    void forward(const PassContext& main, const TokenBatch& batch, const Tensor& hidden,
                 Saved& saved) const;
    struct Result {
        Tensor d_hidden;  // [T, D]
        ExactSum loss;    // over labels, nats
    };
    // Of scale · the sum of losses.
    Result backward(const PassContext& main, double scale, Saved& saved) const;
    const Moe* moe() const { return block_.moe(); }

  private:
    PassContext context(const PassContext& main, const MtpRows& rows) const;

    Embedding embedding_;
    Norm embedding_norm_, hidden_norm_;
    Parameter* join_;  // [D, 2D]
    DecoderBlock block_;
    Head head_;
};

}  // namespace fucina
