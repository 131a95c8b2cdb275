// grouped_linear, gate_up_swiglu and down_swiglu_backward: run_forward with their epilogues.
#include "kernels/cpu/gemm_forward.h"

namespace fucina::cpu {
namespace {

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
    run_forward({x, rows, w}, StoreEpilogue(gemm_set(w.dtype).epilogues, y, w.n));
}

void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    run_forward({x, rows, w}, SwigluEpilogue(gemm_set(w.dtype).epilogues, gate_up, h, w.n / 2));
}

void down_swiglu_backward(const ops::DownBackward& io) {
    run_forward({io.dy, io.rows, io.down, io.d_row_weight.defined()},
                SwigluBackwardEpilogue{gemm_set(io.down.dtype).epilogues, io});
}

}  // namespace fucina::cpu
