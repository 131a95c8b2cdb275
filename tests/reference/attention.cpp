// Reference attention: every score of a query at once, no running rescale.
#include "kernels/attention.h"

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

// One head's keys and values of one document, and what backward adds to them.
struct HeadKv {
    int64_t keys = 0, d_qk = 0, d_v = 0;
    std::vector<float> k, k_columns;  // [keys, d_qk], [d_qk, keys]
    std::vector<float> v, v_columns;  // [keys, d_v], [d_v, keys]
    std::vector<float> dk, dv;
};

std::vector<float> transposed(const std::vector<float>& x, int64_t rows, int64_t columns) {
    std::vector<float> y(x.size());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            y[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * columns + j)];
    return y;
}

HeadKv load_head(const AttentionShape& shape, const AttentionKv& kv, int64_t head, int64_t begin,
                 int64_t end) {
    const int64_t own = shape.d_qk - shape.d_shared, keys = end - begin;
    HeadKv out{.keys = keys, .d_qk = shape.d_qk, .d_v = shape.d_v};
    out.k.resize(static_cast<size_t>(keys * shape.d_qk));
    out.v.resize(static_cast<size_t>(keys * shape.d_v));
    for (int64_t i = 0; i < keys; ++i) {
        float* row = out.k.data() + i * shape.d_qk;
        load_row(kv.k_own, begin + i, head * kv.k_head_stride, own, row);
        if (shape.d_shared > 0) load_row(kv.k_shared, begin + i, 0, shape.d_shared, row + own);
        load_row(kv.v, begin + i, head * kv.v_head_stride, shape.d_v, out.v.data() + i * shape.d_v);
    }
    out.k_columns = transposed(out.k, keys, shape.d_qk);
    out.v_columns = transposed(out.v, keys, shape.d_v);
    out.dk.assign(out.k.size(), 0.0f);
    out.dv.assign(out.v.size(), 0.0f);
    return out;
}

// out[visible] = row · the first `visible` keys (or values), given by columns.
std::vector<float> products(const std::vector<float>& row, const std::vector<float>& columns,
                            int64_t keys, int64_t visible) {
    std::vector<float> out(static_cast<size_t>(visible), 0.0f);
    for (size_t j = 0; j < row.size(); ++j)
        fma_row(row[j], columns.data() + static_cast<int64_t>(j) * keys, out.data(), visible);
    return out;
}

// Probabilities of one query over its visible keys; lse receives the log-sum-exp.
std::vector<float> probabilities(const AttentionShape& shape, const HeadKv& kv,
                                 const std::vector<float>& query, int64_t visible, float* lse) {
    std::vector<float> p = products(query, kv.k_columns, kv.keys, visible);
    for (float& score : p) score *= shape.scale;
    const float largest = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (const float score : p) sum += std::exp(double{score} - largest);
    const double log_sum = largest + std::log(sum);
    for (float& score : p) score = static_cast<float>(std::exp(score - log_sum));
    if (lse != nullptr) *lse = static_cast<float>(log_sum);
    return p;
}

std::vector<float> head_row(const Tensor& x, int64_t t, int64_t head, int64_t width) {
    std::vector<float> row(static_cast<size_t>(width));
    load_row(x, t, head * width, width, row.data());
    return row;
}

// About how many products one head of one document takes.
int64_t work(const AttentionShape& shape, int64_t tokens) {
    return tokens * tokens * (shape.d_qk + shape.d_v);
}

// Backward of one query of document [begin, ...): adds to kv.dk and kv.dv, stores dq.
void query_backward(const AttentionShape& shape, const ops::AttentionBackward& io, HeadKv& kv,
                    int64_t head, int64_t begin, int64_t i) {
    const DType type = io.q.dtype();
    const std::vector<float> q = head_row(io.q, begin + i, head, shape.d_qk);
    const std::vector<float> out = head_row(io.out, begin + i, head, shape.d_v);
    const std::vector<float> d_out = head_row(io.d_out, begin + i, head, shape.d_v);
    const std::vector<float> p = probabilities(shape, kv, q, i + 1, nullptr);
    const std::vector<float> dp = products(d_out, kv.v_columns, kv.keys, i + 1);
    float delta = 0;
    for (size_t j = 0; j < out.size(); ++j) delta = std::fma(d_out[j], out[j], delta);
    std::vector<float> dq(q.size(), 0.0f);
    for (int64_t key = 0; key <= i; ++key) {
        const auto s = static_cast<size_t>(key);
        fma_row(round_to(type, p[s]), d_out.data(), kv.dv.data() + key * shape.d_v, shape.d_v);
        const float ds = round_to(type, p[s] * (dp[s] - delta) * shape.scale);
        fma_row(ds, kv.k.data() + key * shape.d_qk, dq.data(), shape.d_qk);
        fma_row(ds, q.data(), kv.dk.data() + key * shape.d_qk, shape.d_qk);
    }
    store_row(io.dq, begin + i, head * shape.d_qk, shape.d_qk, dq.data());
}

}  // namespace

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse) {
    const int64_t group = shape.heads / shape.kv_heads;
    parallel_for(
        shape.heads * shape.documents(),
        work(shape, q.rows() / std::max<int64_t>(shape.documents(), 1)), [&](int64_t unit) {
            const int64_t head = unit % shape.heads, document = unit / shape.heads;
            const int64_t begin = shape.cu_seqlens.data<int64_t>()[document];
            const int64_t end = shape.cu_seqlens.data<int64_t>()[document + 1];
            const HeadKv keys = load_head(shape, kv, head / group, begin, end);
            for (int64_t i = 0; i < end - begin; ++i) {
                const std::vector<float> query = head_row(q, begin + i, head, shape.d_qk);
                const std::vector<float> p =
                    probabilities(shape, keys, query, i + 1,
                                  lse.defined() ? lse.row<float>(head) + begin + i : nullptr);
                std::vector<float> sum(static_cast<size_t>(shape.d_v), 0.0f);
                for (int64_t key = 0; key <= i; ++key)
                    fma_row(round_to(q.dtype(), p[static_cast<size_t>(key)]),
                            keys.v.data() + key * shape.d_v, sum.data(), shape.d_v);
                store_row(out, begin + i, head * shape.d_v, shape.d_v, sum.data());
            }
        });
}

void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io) {
    const int64_t group = shape.heads / shape.kv_heads, own = shape.d_qk - shape.d_shared;
    if (shape.d_shared > 0) check_chunks(shape.chunks, shape.kv_heads, "key-value heads");
    for (int64_t document = 0; document < shape.documents(); ++document) {
        const int64_t begin = shape.cu_seqlens.data<int64_t>()[document];
        const int64_t end = shape.cu_seqlens.data<int64_t>()[document + 1];
        std::vector<HeadKv> heads(static_cast<size_t>(shape.kv_heads));
        parallel_for(shape.kv_heads, 3 * work(shape, end - begin), [&](int64_t h) {
            HeadKv& kv = heads[static_cast<size_t>(h)];
            kv = load_head(shape, io.kv, h, begin, end);
            for (int64_t head = h * group; head < (h + 1) * group; ++head)
                for (int64_t i = 0; i < end - begin; ++i)
                    query_backward(shape, io, kv, head, begin, i);
        });
        parallel_for(end - begin, shape.kv_heads * shape.d_qk, [&](int64_t i) {
            for (int64_t h = 0; h < shape.kv_heads; ++h) {
                const HeadKv& kv = heads[static_cast<size_t>(h)];
                store_row(io.dkv.k_own, begin + i, h * io.dkv.k_head_stride, own,
                          kv.dk.data() + i * shape.d_qk);
                store_row(io.dkv.v, begin + i, h * io.dkv.v_head_stride, shape.d_v,
                          kv.dv.data() + i * shape.d_v);
            }
            if (shape.d_shared == 0) return;
            std::vector<float> shared(static_cast<size_t>(shape.d_shared));
            const int64_t in_chunk = shape.kv_heads / shape.chunks;
            sum_along_tree(tree_of_chunks(shape.chunks), shape.d_shared, shared.data(),
                           [&](int64_t chunk, int64_t, float* sum) {
                               for (int64_t h = chunk * in_chunk; h < (chunk + 1) * in_chunk; ++h)
                                   for (int64_t j = 0; j < shape.d_shared; ++j)
                                       sum[j] +=
                                           heads[static_cast<size_t>(h)]
                                               .dk[static_cast<size_t>(i * shape.d_qk + own + j)];
                           });
            store_row(io.dkv.k_shared, begin + i, 0, shape.d_shared, shared.data());
        });
    }
}

}  // namespace fucina::reference
