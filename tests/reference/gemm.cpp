// Reference matrix products. Both the forward and the weight gradient are one thing: a sum of
// scaled rows, in the order that gemm.h fixes.
#include "kernels/gemm.h"

#include "tests/reference/quantize.h"
#include "tests/reference/reference.h"
#include "tests/reference/rows.h"
#include "kernels/runtime.h"
#include "kernels/tensor_core.h"

namespace fucina::reference {
namespace {

constexpr int64_t kBlock = 32;     // of the summed dimension, in bf16
constexpr int64_t kColumns = 256;  // outputs at a time

// sum[width] += scale[i] * rows[i][width] over i < count.
struct ScaledRows {
    DType type = DType::f32;
    const float* scale = nullptr;
    int64_t count = 0;
    const float* rows = nullptr;
    int64_t stride = 0;
    // Of E4M3 values, beside each of scale and rows its own scale.
    const float *scale_scales = nullptr, *row_scales = nullptr;
};

// TDPBF16PS
void accumulate_tiles(const ScaledRows& in, int64_t width, float* sum) {
    float chain[2][kColumns];
    for (int64_t block = 0; block < in.count; block += kBlock) {
        const int64_t end = std::min(block + kBlock, in.count);
        std::fill(&chain[0][0], &chain[0][0] + 2 * kColumns, 0.0f);
        for (int64_t i = block; i < end; ++i)
            fma_row(in.scale[i], in.rows + i * in.stride, chain[(i - block) % 2], width);
        const float padding = 0.0f;  // what the missing products of a partial block add
        for (int64_t j = 0; j < width; ++j)
            sum[j] += (chain[0][j] + padding) + (chain[1][j] + padding);
    }
}

// VDPBF16PS
void accumulate_dots(const ScaledRows& in, int64_t width, float* sum) {
    const std::vector<float> zeros(static_cast<size_t>(width));
    for (int64_t i = 0; i < in.count; i += 2) {
        if (i + 1 < in.count)
            fma_row(in.scale[i + 1], in.rows + (i + 1) * in.stride, sum, width);
        else
            fma_row(0.0f, zeros.data(), sum, width);
        fma_row(in.scale[i], in.rows + i * in.stride, sum, width);
    }
}

void accumulate_chain(const ScaledRows& in, int64_t width, float* sum) {
    for (int64_t i = 0; i < in.count; ++i)
        fma_row(in.scale[i], in.rows + i * in.stride, sum, width);
}

// n values, `stride` apart, and their scales: E4M3 in blocks of 128.
void quantize_line(float* values, float* scales, int64_t n, int64_t stride) {
    for (int64_t begin = 0; begin < n; begin += kQuantizeBlock) {
        const int64_t end = std::min(begin + kQuantizeBlock, n);
        float largest = kQuantizeFloor;
        for (int64_t i = begin; i < end; ++i)
            largest = std::max(largest, std::fabs(values[i * stride]));
        const float scale = quantize_scale(largest, ScaleFormat::fp32), inverse = 1.0f / scale;
        for (int64_t i = begin; i < end; ++i) {
            values[i * stride] = from_e4m3(to_e4m3(values[i * stride] * inverse));
            scales[i * stride] = scale;
        }
    }
}

// The same of a matrix in blocks of 128 x 128.
void quantize_matrix(float* values, float* scales, int64_t rows, int64_t columns) {
    for (int64_t row = 0; row < rows; row += kQuantizeBlock)
        for (int64_t column = 0; column < columns; column += kQuantizeBlock) {
            const int64_t row_end = std::min(row + kQuantizeBlock, rows);
            const int64_t column_end = std::min(column + kQuantizeBlock, columns);
            const auto each = [&](const auto& body) {
                for (int64_t i = row; i < row_end; ++i)
                    for (int64_t j = column; j < column_end; ++j) body(i * columns + j);
            };
            float largest = kQuantizeFloor;
            each([&](int64_t i) { largest = std::max(largest, std::fabs(values[i])); });
            const float scale = quantize_scale(largest, ScaleFormat::fp32), inverse = 1.0f / scale;
            each([&](int64_t i) {
                values[i] = from_e4m3(to_e4m3(values[i] * inverse));
                scales[i] = scale;
            });
        }
}

// The tensor cores' sums of 128 products, promoted.
void accumulate_fp8(const ScaledRows& in, int64_t width, float* sum) {
    struct Terms {
        std::vector<double> value;
        std::vector<int> exponent;
        explicit Terms(int64_t n)
            : value(static_cast<size_t>(n)), exponent(static_cast<size_t>(n), kZeroExponent) {}
        void set(int64_t i, float x) {
            value[static_cast<size_t>(i)] = double{x};
            exponent[static_cast<size_t>(i)] = exponent_of(x, kSmallestE4m3);
        }
    };
    for (int64_t first = 0; first < in.count; first += kQuantizeBlock) {
        std::vector<float> part(static_cast<size_t>(width));
        const int64_t end = std::min(first + kQuantizeBlock, in.count);
        for (int64_t begin = first; begin < end; begin += kBlock) {
            Terms a(kBlock), b(kBlock * width);
            for (int64_t i = begin; i < std::min(begin + kBlock, end); ++i) {
                a.set(i - begin, in.scale[i]);
                for (int64_t j = 0; j < width; ++j)
                    b.set((i - begin) * width + j, in.rows[i * in.stride + j]);
            }
            tensor_core_row<double, double, kColumns>(
                kTensorCoreE4m3, static_cast<int>(width), {a.value.data(), a.exponent.data(), 1},
                {b.value.data(), b.exponent.data(), static_cast<int>(width)}, part.data());
        }
        for (int64_t j = 0; j < width; ++j)
            sum[j] = std::fma(in.scale_scales[first] * in.row_scales[first * in.stride + j],
                              part[static_cast<size_t>(j)], sum[j]);
    }
}

void accumulate(const ScaledRows& in, int64_t width, float* sum) {
    const ProductOrder order = in.type == DType::bf16 ? runtime().products : ProductOrder::fma;
    const auto part_sum = in.type == DType::f8_e4m3        ? accumulate_fp8
                          : order == ProductOrder::amx     ? accumulate_tiles
                          : order == ProductOrder::vdpbf16 ? accumulate_dots
                                                           : accumulate_chain;
    for (int64_t begin = 0; begin < width; begin += kColumns) {
        const int64_t columns = std::min(kColumns, width - begin);
        ScaledRows part = in;
        part.rows += begin;
        if (part.row_scales != nullptr) part.row_scales += begin;
        part_sum(part, columns, sum + begin);
    }
}

const float* packed_group(const PackedWeight& w, int64_t group) {
    return w.storage.data<float>() + group * w.n * w.k;
}

// out[w.n] = row `row` of x times weight `group`.
std::vector<float> product(const Tensor& x, int64_t row, const PackedWeight& w, int64_t group) {
    FUCINA_CHECK(x.row_size() == w.k && x.dtype() == w.operands(), "product of ", x.describe(),
                 " with ", name_of(w.dtype), " [", w.n, ", ", w.k, "]");
    std::vector<float> in = load_row(x, row), scales(in.size());
    std::vector<float> out(static_cast<size_t>(w.n));
    const KPieces pieces = w.fp8() ? fp8_pieces(w.cut, w.k) : KPieces(w.cut, w.k);
    const float* const w_scales = w.fp8() ? w.scales.data<float>() + group * w.n * w.k : nullptr;
    for (int64_t piece = 0; w.fp8() && piece < pieces.count(); ++piece)
        quantize_line(in.data() + pieces.begin(piece), scales.data() + pieces.begin(piece),
                      pieces.length, 1);
    sum_along_tree(tree_of_chunks(pieces.chunks), w.n, out.data(),
                   [&](int64_t chunk, int64_t, float* sum) {
                       for (int64_t part = 0; part < pieces.parts; ++part) {
                           const int64_t k = pieces.begin(chunk * pieces.parts + part);
                           accumulate({.type = w.dtype,
                                       .scale = in.data() + k,
                                       .count = pieces.length,
                                       .rows = packed_group(w, group) + k * w.n,
                                       .stride = w.n,
                                       .scale_scales = scales.data() + k,
                                       .row_scales = w.fp8() ? w_scales + k * w.n : nullptr},
                                      w.n, sum);
                       }
                   });
    return out;
}

// Calls body(group, row) for all rows of all groups.
template <class Body>
void for_each_row(const RowGroups& rows, const PackedWeight& w, const Body& body) {
    const int64_t* const offsets = rows.offsets.data_or_null<int64_t>();
    FUCINA_CHECK(offsets == nullptr ? w.groups == 1 : rows.offsets.rows() == w.groups + 1,
                 "offsets ", rows.offsets.describe(), " for ", w.groups, " groups");
    parallel_for(rows.rows, w.n * w.k, [&](int64_t row) {
        int64_t group = 0;
        while (offsets != nullptr && offsets[group + 1] <= row) ++group;
        body(group, row);
    });
}

int64_t source_row(const Tensor& index, int64_t row) {
    return index.defined() ? index.data<int32_t>()[row] : row;
}

float sigmoid(float x) {
    return 1.0f / (1.0f + std::exp(-x));
}

// dw [N, K] of one group: rows [begin, begin + tree.rows()) of dy and x.
void group_wgrad(const ops::GroupedWgrad& in, int64_t begin, const LeafTree& tree, float* dw) {
    const int64_t n = in.dy.row_size(), k = in.x.row_size(), rows = tree.rows();
    std::vector<float> dy_columns(static_cast<size_t>(n * rows)), x(static_cast<size_t>(rows * k));
    for (int64_t i = 0; i < rows; ++i) {
        const std::vector<float> dy_row = load_row(in.dy, source_row(in.dy_index, begin + i));
        for (int64_t j = 0; j < n; ++j)
            dy_columns[static_cast<size_t>(j * rows + i)] = dy_row[static_cast<size_t>(j)];
        load_row(in.x, source_row(in.x_index, begin + i), 0, k, x.data() + i * k);
    }
    std::vector<float> dy_scales(dy_columns.size()), x_scales(x.size());
    for (size_t leaf = 0; in.fp8 && leaf < tree.merges.size(); ++leaf) {
        const int64_t first = tree.offsets[leaf], count = tree.offsets[leaf + 1] - first;
        for (int64_t j = 0; j < n; ++j)
            quantize_line(dy_columns.data() + j * rows + first, dy_scales.data() + j * rows + first,
                          count, 1);
        for (int64_t j = 0; j < k; ++j)
            quantize_line(x.data() + first * k + j, x_scales.data() + first * k + j, count, k);
    }
    parallel_for(n, rows * k, [&](int64_t j) {
        const float* scale = dy_columns.data() + j * rows;
        sum_along_tree(tree, k, dw + j * k, [&](int64_t first, int64_t last, float* sum) {
            accumulate({.type = in.fp8 ? DType::f8_e4m3 : in.x.dtype(),
                        .scale = scale + first,
                        .count = last - first,
                        .rows = x.data() + first * k,
                        .stride = k,
                        .scale_scales = dy_scales.data() + j * rows + first,
                        .row_scales = in.fp8 ? x_scales.data() + first * k : nullptr},
                       k, sum);
        });
    });
}

}  // namespace

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous) {
    FUCINA_CHECK(w.dtype() == DType::f32 && (w.rank() == 2 || w.rank() == 3) && w.contiguous(),
                 "pack of ", w.describe());
    const int64_t groups = w.rank() == 3 ? w.dim(0) : 1;
    const int64_t out = w.dim(w.rank() - 2), in = w.dim(w.rank() - 1);
    const bool transposed = kind == PackKind::dgrad;  // W itself is what y = x W reads
    PackedWeight packed{.dtype = compute,
                        .groups = groups,
                        .n = transposed ? in : out,
                        .k = transposed ? out : in,
                        .gate_up = kind == PackKind::gate_up,
                        .cut = previous.cut,
                        .storage = Tensor::empty({groups, in, out}, DType::f32)};
    KPieces(packed.cut, packed.k);  // checks
    float* to = packed.storage.data<float>();
    const float* from = w.data<float>();
    Tensor values = w, scales;
    if (packed.fp8()) {
        values = w.clone();
        scales = w.clone();
        packed.scales = Tensor::empty({groups, in, out}, DType::f32);
        for (int64_t g = 0; g < groups; ++g)
            quantize_matrix(values.data<float>() + g * out * in,
                            scales.data<float>() + g * out * in, out, in);
        from = values.data<float>();
    }
    parallel_for(groups * out, in, [&](int64_t row) {
        const int64_t group = row / out, i = row % out;
        for (int64_t j = 0; j < in; ++j) {
            const int64_t place = group * in * out + (transposed ? i * in + j : j * out + i);
            to[place] = round_to(compute, from[row * in + j]);
            if (packed.fp8())
                packed.scales.data<float>()[place] = scales.data<float>()[row * in + j];
        }
    });
    return packed;
}

void linear(const Tensor& x, const PackedWeight& w, const Tensor& y) {
    parallel_for(x.rows(), w.n * w.k, [&](int64_t t) { store_row(y, t, product(x, t, w, 0)); });
}

void linear_wgrad(const Tensor& dy, const Tensor& x, const LeafTree& tree, const Tensor& dw,
                  bool fp8) {
    group_wgrad({.dy = dy, .x = x, .fp8 = fp8}, 0, tree, dw.data<float>());
}

void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    for_each_row(rows, w, [&](int64_t group, int64_t row) {
        store_row(y, row, product(x, source_row(rows.index, row), w, group));
    });
}

void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw) {
    FUCINA_CHECK(dw.contiguous() && in.dy.dtype() == in.x.dtype(), "wgrad of ", in.dy.describe(),
                 " and ", in.x.describe());
    for (int64_t group = 0; group < dw.dim(0); ++group) {
        const int64_t* const rows = in.leaves.row<int64_t>(group);
        std::vector<int64_t> offsets;
        for (int64_t leaf = 0; leaf < in.leaves.dim(1); ++leaf)
            offsets.push_back(rows[leaf] - rows[0]);
        group_wgrad(in, rows[0], make_leaf_tree(std::move(offsets)),
                    dw.data<float>() + group * dw.dim(1) * dw.dim(2));
    }
}

void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    const int64_t ffn = w.n / 2;
    for_each_row(rows, w, [&](int64_t group, int64_t row) {
        std::vector<float> both = product(x, source_row(rows.index, row), w, group);
        std::vector<float> hidden(static_cast<size_t>(ffn));
        for (float& value : both) value = round_to(w.operands(), value);
        for (size_t j = 0; j < hidden.size(); ++j)
            hidden[j] = both[j] * sigmoid(both[j]) * both[j + hidden.size()];
        if (gate_up.defined()) store_row(gate_up, row, both);
        store_row(h, row, hidden);
    });
}

void down_swiglu_backward(const ops::DownBackward& io) {
    const auto ffn = static_cast<size_t>(io.down.n);
    const DType type = io.down.operands();
    for_each_row(io.rows, io.down, [&](int64_t group, int64_t row) {
        const std::vector<float> dh =
            product(io.dy, source_row(io.rows.index, row), io.down, group);
        const std::vector<float> gate_up = load_row(io.gate_up, row);
        std::vector<float> d_gate_up(2 * ffn), weighted_h(ffn);
        const float weight = io.row_weight.defined() ? io.row_weight.data<float>()[row] : 1.0f;
        float d_weight = 0;
        for (size_t j = 0; j < ffn; ++j) {
            const float gate = gate_up[j], up = gate_up[j + ffn];
            const float s = sigmoid(gate), silu = gate * s;
            const float h = round_to(type, silu * up), d = dh[j] * weight;
            d_weight = std::fma(dh[j], h, d_weight);
            weighted_h[j] = weight * h;
            d_gate_up[j] = d * up * (s * (1.0f + gate * (1.0f - s)));
            d_gate_up[j + ffn] = d * silu;
        }
        store_row(io.d_gate_up, row, d_gate_up);
        store_row(io.weighted_h, row, weighted_h);
        if (io.d_row_weight.defined()) io.d_row_weight.data<float>()[row] = d_weight;
    });
}

}  // namespace fucina::reference
