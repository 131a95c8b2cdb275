// grouped_linear, gate_up_swiglu and down_swiglu_backward: run_forward with their epilogues.
#include "kernels/cpu/gemm_forward.h"

namespace fucina::cpu {
namespace {

void check_product(const Tensor& x, const RowGroups& rows, const PackedWeight& w) {
    FUCINA_CHECK(x.row_size() == w.k && x.dtype() == w.dtype && w.defined(), "product of ",
                 x.describe(), " with ", name_of(w.dtype), " [", w.n, ", ", w.k, "]");
    const int64_t groups = rows.offsets.defined() ? rows.offsets.rows() - 1 : 1;
    FUCINA_CHECK(groups == w.groups, "rows of ", groups, " groups for ", w.groups);
    FUCINA_CHECK(rows.index.defined() ? rows.index.size() == rows.rows : rows.rows <= x.rows(),
                 x.describe(), " or its index has fewer rows than ", rows.rows);
}

void check_rows(const Tensor& y, int64_t rows, int64_t width, DType type) {
    FUCINA_CHECK(y.rows() >= rows && y.row_size() == width && y.dtype() == type, "output is ",
                 y.describe(), ", expected ", name_of(type), " [", rows, ", ", width, "]");
}

std::byte* element(const Tensor& x, int64_t row, int64_t column) {
    return x.raw() + (row * x.row_stride() + column) * size_of(x.dtype());
}

struct NoHooks {
    void begin(const GemmTask&) const {}
    void end(const GemmTask&) const {}
};

struct StoreEpilogue : NoHooks {
    const GemmEpilogues& table;
    Tensor y;
    int64_t n;
    StoreEpilogue(const GemmEpilogues& t, const Tensor& out, int64_t width)
        : table(t), y(out), n(width) {}

    void block(const float* c, const GemmTask&, int64_t row, int rows, int64_t panel) const {
        const int64_t column = panel * kBlock;
        const StoreBlock to{element(y, row, column), y.row_stride(), rows,
                            static_cast<int>(std::min(kBlock, n - column))};
        (y.dtype() == DType::f32 ? table.store_f32 : table.store)(c, to);
    }
};

struct SwigluEpilogue : NoHooks {
    const GemmEpilogues& table;
    Tensor gate_up, h;
    int64_t ffn;
    SwigluEpilogue(const GemmEpilogues& t, const Tensor& kept, const Tensor& out, int64_t width)
        : table(t), gate_up(kept), h(out), ffn(width) {}

    void block(const float* c, const GemmTask&, int64_t row, int rows, int64_t panel) const {
        const int64_t column = panel * 16;
        SwigluBlock to{.h = element(h, row, column),
                       .h_stride = h.row_stride(),
                       .rows = rows,
                       .columns = static_cast<int>(std::min<int64_t>(16, ffn - column))};
        if (gate_up.defined()) {
            to.gate = element(gate_up, row, column);
            to.up = element(gate_up, row, ffn + column);
            to.gate_up_stride = gate_up.row_stride();
        }
        table.swiglu(c, to);
    }
};

struct SwigluBackwardEpilogue {
    const GemmEpilogues& table;
    const ops::DownBackward& io;

    // The lanes of dh·h of the task's rows; the same memory all through one task.
    float* row_dot(const GemmTask& task) const {
        if (!io.d_row_weight.defined()) return nullptr;
        const int64_t rows = task.row_end - task.row_begin;
        return reinterpret_cast<float*>(
            scratch(ScratchSlot::rows, rows * 16 * static_cast<int64_t>(sizeof(float))));
    }
    void begin(const GemmTask& task) const {
        if (float* dot = row_dot(task)) std::fill_n(dot, (task.row_end - task.row_begin) * 16, 0.f);
    }
    void end(const GemmTask& task) const {
        const float* dot = row_dot(task);
        float* const sums = io.d_row_weight.data_or_null<float>();
        for (int64_t row = task.row_begin; dot != nullptr && row < task.row_end; ++row, dot += 16)
            sums[row] = table.sum_lanes(dot);
    }
    void block(const float* c, const GemmTask& task, int64_t row, int rows, int64_t panel) const {
        const int64_t column = panel * kBlock, ffn = io.down.n;
        float* dot = row_dot(task);
        const float* const weights = io.row_weight.data_or_null<float>();
        table.swiglu_backward(
            c, {.gate = element(io.gate_up, row, column),
                .up = element(io.gate_up, row, ffn + column),
                .gate_up_stride = io.gate_up.row_stride(),
                .d_gate = element(io.d_gate_up, row, column),
                .d_up = element(io.d_gate_up, row, ffn + column),
                .d_gate_up_stride = io.d_gate_up.row_stride(),
                .weighted_h = element(io.weighted_h, row, column),
                .h_stride = io.weighted_h.row_stride(),
                .row_weight = weights == nullptr ? nullptr : weights + row,
                .row_dot = dot == nullptr ? nullptr : dot + (row - task.row_begin) * 16,
                .rows = rows,
                .columns = static_cast<int>(std::min(kBlock, ffn - column))});
    }
};

}  // namespace

void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    check_product(x, rows, w);
    FUCINA_CHECK(!w.gate_up, "a gate_up weight is for gate_up_swiglu");
    check_rows(y, rows.rows, w.n, y.dtype() == DType::f32 ? DType::f32 : w.dtype);
    run_forward({x, rows, w}, StoreEpilogue(gemm_set(w.dtype).epilogues, y, w.n));
}

void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    check_product(x, rows, w);
    FUCINA_CHECK(w.gate_up && w.n % 2 == 0, "gate_up_swiglu takes a gate_up weight");
    if (gate_up.defined()) check_rows(gate_up, rows.rows, w.n, w.dtype);
    check_rows(h, rows.rows, w.n / 2, w.dtype);
    run_forward({x, rows, w}, SwigluEpilogue(gemm_set(w.dtype).epilogues, gate_up, h, w.n / 2));
}

void down_swiglu_backward(const ops::DownBackward& io) {
    check_product(io.dy, io.rows, io.down);
    const int64_t rows = io.rows.rows, ffn = io.down.n;
    check_rows(io.gate_up, rows, 2 * ffn, io.down.dtype);
    check_rows(io.d_gate_up, rows, 2 * ffn, io.down.dtype);
    check_rows(io.weighted_h, rows, ffn, io.down.dtype);
    run_forward({io.dy, io.rows, io.down, io.d_row_weight.defined()},
                SwigluBackwardEpilogue{gemm_set(io.down.dtype).epilogues, io});
}

}  // namespace fucina::cpu
