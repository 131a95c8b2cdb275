// pack() and repack(): fp32 master weights into panels of the compute type.
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
void pack_rows_panel(const GemmSet& set, const WeightMatrix& w, const PackedWeight& copy,
                     int64_t panel, std::byte* out) {
    const KPieces pieces = pieces_of(copy);
    const int64_t ffn = w.n / 2;
    for (int64_t piece = 0; piece < pieces.count(); ++piece) {
        const float* rows[kBlock] = {};
        for (int64_t j = 0; j < kBlock; ++j) {
            int64_t row = panel * kBlock + j;
            bool inside = row < w.n;
            if (copy.gate_up) {
                const int64_t column = panel * 16 + j % 16;
                row = column + j / 16 * ffn;
                inside = column < ffn;
            }
            if (inside) rows[j] = w.data + row * w.k + pieces.begin(piece);
        }
        set.tools.pack_b_rows(rows, pieces.length, out + piece * set.b_bytes(pieces.length));
    }
}

// Both copies of 32 rows of a weight; of a gate_up weight, of 32 gate rows and their up rows.
class StripePacker {
  public:
    StripePacker(const Tensor& w, const PackedCopies& copies)
        : set_(gemm_set(copies.forward.dtype)),
          forward_(copies.forward),
          dgrad_(copies.dgrad),
          data_(w.data<float>()),
          n_(dgrad_.k),
          k_(dgrad_.n),
          dgrad_pieces_(pieces_of(dgrad_)),
          halves_(forward_.gate_up ? 2 : 1) {
        FUCINA_CHECK(forward_.defined() && dgrad_.defined() && forward_.dtype == dgrad_.dtype &&
                         forward_.n == n_ && forward_.k == k_ &&
                         forward_.groups * n_ * k_ == w.size(),
                     "copies of other weights than ", w.describe());
    }

    // Whether a stripe of each half begins and ends together with whole panels, and lies in one
    // piece of what dgrad sums over.
    bool possible() const {
        return (halves_ == 1 || half_rows() % kBlock == 0) &&
               (dgrad_pieces_.count() == 1 || dgrad_pieces_.length % kBlock == 0);
    }
    int64_t count() const { return forward_.groups * stripes(); }
    int64_t elements() const { return halves_ * kBlock * k_; }

    template <class Update>
    void run(int64_t index, const Update& update) const {
        const int64_t group = index / stripes(), first = index % stripes() * kBlock;
        const int64_t rows = std::min(kBlock, half_rows() - first);
        for (int64_t half = 0; half < halves_; ++half) {
            const int64_t begin = (group * n_ + half * half_rows() + first) * k_;
            update(begin, begin + rows * k_);
        }
        const WeightMatrix matrix{data_ + group * n_ * k_, n_, k_};
        for (int64_t half = 0; half < halves_; ++half) {
            const int64_t panel = first / kBlock * halves_ + half;
            pack_rows_panel(set_, matrix, forward_, panel, address(forward_, group, panel));
            pack_dgrad_rows(matrix, group, half * half_rows() + first, rows);
        }
    }

  private:
    int64_t half_rows() const { return n_ / halves_; }
    int64_t stripes() const { return (half_rows() + kBlock - 1) / kBlock; }
    std::byte* address(const PackedWeight& copy, int64_t group, int64_t panel) const {
        return copy.storage.raw() +
               (group * packed_panels(copy) + panel) * set_.b_bytes(pieces_of(copy));
    }
    // Where row `row` of the weight stands in a panel of dgrad.
    int64_t packed_row(int64_t row) const {
        if (dgrad_pieces_.count() == 1) return row;
        const KPieces& k = dgrad_pieces_;
        const int64_t part = row / (k.chunks * k.length), chunk = row / k.length % k.chunks;
        return (chunk * k.parts + part) * k.length + row % k.length;
    }
    void pack_dgrad_rows(const WeightMatrix& w, int64_t group, int64_t row, int64_t rows) const {
        for (int64_t panel = 0; panel < packed_panels(dgrad_); ++panel) {
            const int64_t column = panel * kBlock;
            set_.tools.pack_b_columns(
                {w.data + row * k_ + column, k_}, rows,
                static_cast<int>(std::min(kBlock, k_ - column)),
                address(dgrad_, group, panel) + packed_row(row) * kBlock * set_.element);
        }
    }

    const GemmSet set_;
    const PackedWeight &forward_, &dgrad_;
    const float* data_;
    const int64_t n_, k_;
    const KPieces dgrad_pieces_;
    const int64_t halves_;
};

}  // namespace

void repack(const Tensor& w, PackedCopies& copies,
            const std::function<void(int64_t begin, int64_t end)>& update) {
    const StripePacker packer(w, copies);
    if (packer.possible()) {
        parallel_for(packer.count(), packer.elements(),
                     [&](int64_t stripe) { packer.run(stripe, update); });
        return;
    }
    parallel_ranges(w.size(), kWorthAThread, kWorthAThread, update);
    const PackKind kind = copies.forward.gate_up ? PackKind::gate_up : PackKind::forward;
    copies.forward = pack(w, kind, copies.forward.dtype, std::move(copies.forward));
    copies.dgrad = pack(w, PackKind::dgrad, copies.dgrad.dtype, std::move(copies.dgrad));
}

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
    const KPieces pieces = pieces_of(packed);
    const int64_t panels = packed_panels(packed), bytes = set.b_bytes(pieces);
    if (!packed.defined() || packed.storage.bytes() != groups * panels * bytes)
        packed.storage = Tensor::empty({groups * panels * bytes}, DType::u8);
    parallel_for(groups * panels, kBlock * packed.k, [&](int64_t unit) {
        const int64_t group = unit / panels, panel = unit % panels;
        const WeightMatrix matrix{w.data<float>() + group * n * k, n, k};
        std::byte* out = packed.storage.raw() + unit * bytes;
        if (transposed) {
            const int64_t column = panel * kBlock;
            for (int64_t piece = 0; piece < pieces.count(); ++piece)
                set.tools.pack_b_columns({matrix.data + pieces.begin(piece) * k + column, k},
                                         pieces.length,
                                         static_cast<int>(std::min(kBlock, k - column)),
                                         out + piece * set.b_bytes(pieces.length));
        } else {
            pack_rows_panel(set, matrix, packed, panel, out);
        }
    });
    return packed;
}

}  // namespace fucina::cpu
