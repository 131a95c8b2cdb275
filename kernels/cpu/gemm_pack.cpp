// pack(): fp32 master weights into panels of the compute type.
#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

struct WeightMatrix {
    const float* data;
    int64_t n, k;  // as in memory
};

// Panel `panel` of y = x Wᵀ: 32 rows of W; of a gate_up weight, 16 gate rows and their up rows.
void pack_rows_panel(const GemmTools& tools, const WeightMatrix& w, bool gate_up, int64_t panel,
                     void* out) {
    const float* rows[kBlock] = {};
    const int64_t ffn = w.n / 2;
    for (int64_t j = 0; j < kBlock; ++j) {
        int64_t row = panel * kBlock + j;
        bool inside = row < w.n;
        if (gate_up) {
            const int64_t column = panel * 16 + j % 16;
            row = column + j / 16 * ffn;
            inside = column < ffn;
        }
        if (inside) rows[j] = w.data + row * w.k;
    }
    tools.pack_b_rows(rows, w.k, out);
}

}  // namespace

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous) {
    FUCINA_CHECK(w.dtype() == DType::f32 && (w.rank() == 2 || w.rank() == 3) && w.contiguous(),
                 "pack of ", w.describe());
    const GemmSet set = gemm_set(compute);
    const int64_t groups = w.rank() == 3 ? w.dim(0) : 1;
    const int64_t n = w.dim(w.rank() - 2), k = w.dim(w.rank() - 1);
    const bool transposed = kind == PackKind::dgrad;
    PackedWeight packed = std::move(previous);
    packed.dtype = compute;
    packed.groups = groups;
    packed.n = transposed ? k : n;
    packed.k = transposed ? n : k;
    packed.gate_up = kind == PackKind::gate_up;
    const int64_t panels = packed_panels(packed), bytes = set.b_bytes(packed.k);
    if (!packed.defined() || packed.storage.bytes() != groups * panels * bytes)
        packed.storage = Tensor::empty({groups * panels * bytes}, DType::u8);
    parallel_for(groups * panels, kBlock * packed.k, [&](int64_t unit) {
        const int64_t group = unit / panels, panel = unit % panels;
        const WeightMatrix matrix{w.data<float>() + group * n * k, n, k};
        std::byte* out = packed.storage.raw() + unit * bytes;
        if (transposed) {
            const int64_t columns = std::min(kBlock, k - panel * kBlock);
            set.tools.pack_b_columns({matrix.data + panel * kBlock, k}, n,
                                     static_cast<int>(columns), out);
        } else {
            pack_rows_panel(set.tools, matrix, packed.gate_up, panel, out);
        }
    });
    return packed;
}

}  // namespace fucina::cpu
