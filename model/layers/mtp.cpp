#include "model/layers/mtp.h"

#include "kernels/gemm.h"
#include "kernels/moe.h"
#include "kernels/optimizer.h"

namespace fucina {

MtpRows::MtpRows(const TokenBatch& batch) {
    size_t sequence = 1, grain = 1;
    for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
        const int64_t begin = batch.cu_seqlens[d], end = batch.cu_seqlens[d + 1];
        for (int64_t t = begin; t + 1 < end; ++t) {
            const auto i = static_cast<size_t>(t);
            rows.push_back(static_cast<int32_t>(t));
            next_ids.push_back(batch.ids[i + 1]);
            positions.push_back(batch.positions[i]);
            labels.push_back(t + 2 < end ? batch.labels[i + 1] : kIgnoreLabel);
        }
        const auto count = static_cast<int64_t>(rows.size());
        if (count > cu_seqlens.back()) cu_seqlens.push_back(count);
        // A sequence or grain ends where its last document does.
        for (; sequence < batch.sequence_offsets.size() && batch.sequence_offsets[sequence] <= end;
             ++sequence)
            sequence_offsets.push_back(count);
        for (; grain < batch.grain_offsets.size() && batch.grain_offsets[grain] <= end; ++grain)
            grain_offsets.push_back(count);
    }
}

int64_t count_mtp_labels(const TokenBatch& batch) {
    const MtpRows rows(batch);
    int64_t labels = 0;
    for (const int32_t label : rows.labels) labels += label != kIgnoreLabel;
    return labels;
}

Mtp::Mtp(ParameterSet& set, const ModelSpec& spec, int64_t report_index)
    : embedding_norm_(set, "mtp.embedding_norm", spec.hidden_size, spec.norm_eps),
      hidden_norm_(set, "mtp.hidden_norm", spec.hidden_size, spec.norm_eps),
      join_(set.matrix("mtp.join", {spec.hidden_size, 2 * spec.hidden_size})),
      block_(set, "mtp.block.", spec, report_index),
      head_(set, "mtp.norm", spec) {}

void Mtp::use(Parameter* table, size_t table_use, Parameter* projection, size_t projection_use) {
    embedding_ = {table, table_use};
    head_.use(projection, projection_use);
}

// Of the rows, as a pass of their own.
PassContext Mtp::context(const PassContext& main, const MtpRows& rows) const {
    PassContext context = main;
    context.set_rows(rows.positions, rows.cu_seqlens, rows.sequence_offsets);
    context.grain_offsets = rows.grain_offsets;
    context.cut_rows(main.grains_apart);
    return context;
}

void Mtp::forward(const PassContext& main, const TokenBatch& batch, const Tensor& hidden,
                  Saved& saved) const {
    const MtpRows& rows = saved.rows.emplace(batch);
    const PassContext context = this->context(main, rows);
    const int64_t d = hidden.dim(1);

    // Both norms write into the two halves of the joined rows.
    saved.embedded = embedding_.forward(context, rows.next_ids);
    const Tensor gathered = context.activations(context.tokens, d);
    ops::gather_rows(context.exec, main.whole(hidden), tensor_of(context.exec, rows.rows),
                     gathered);
    saved.gathered = context.stream_of(gathered);
    saved.joined = context.activations(context.stream_rows(), 2 * d);
    embedding_norm_.into(context, saved.embedded, saved.joined.columns(0, d), saved.embedded_rstd);
    hidden_norm_.into(context, saved.gathered, saved.joined.columns(d, 2 * d), saved.gathered_rstd);

    Tensor x = context.activations(context.stream_rows(), d);
    ops::linear(context.exec, saved.joined, join_->packed->forward, x);
    x = Recompute(block_).forward(context, {x}, saved.block).x;
    head_.forward(context, {std::move(x)}, saved.head);
}

Mtp::Result Mtp::backward(const PassContext& main, double scale, Saved& saved) const {
    const MtpRows& rows = *saved.rows;
    const PassContext context = this->context(main, rows);
    const int64_t d = saved.gathered.dim(1);
    Head::Loss loss{.labels = tensor_of(context.exec, rows.labels), .scale = scale};
    Tensor dx = head_.loss_backward(context, loss, {}, saved.head).x;
    dx = Recompute(block_).backward(context, {dx}, saved.block).x;

    context.weight_grads->add(matrix_grad(join_, dx, saved.joined, context.chunk_nodes));
    Tensor d_joined = context.activations(context.stream_rows(), 2 * d);
    ops::linear(context.exec, dx, join_->packed->dgrad, d_joined);
    Tensor d_embedded = context.activations(context.stream_rows(), d);
    embedding_norm_.backward(context, d_joined.columns(0, d), saved.embedded, saved.embedded_rstd,
                             {}, d_embedded);
    embedding_.backward(context, rows.next_ids, d_embedded);
    Tensor d_gathered = context.activations(context.stream_rows(), d);
    hidden_norm_.backward(context, d_joined.columns(d, 2 * d), saved.gathered, saved.gathered_rstd,
                          {}, d_gathered);
    const Tensor spread = main.activations(main.tokens, d);
    context.exec.zero(spread);
    ops::scatter_rows(context.exec, context.whole(d_gathered), tensor_of(context.exec, rows.rows),
                      spread);
    Result result{main.stream_of(spread), ops::exact_sum(context.exec, loss.loss)};
    saved = Saved();
    return result;
}

}  // namespace fucina
