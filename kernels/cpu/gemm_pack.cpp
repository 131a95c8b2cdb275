// pack() and repack(): fp32 master weights into panels of the compute type.
#include <algorithm>
#include <vector>

#include "kernels/arena.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/parallel_for.h"
#include "kernels/quantize.h"

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

// Panel `panel` of y = x W: 32 columns of W.
void pack_columns_panel(const GemmSet& set, const WeightMatrix& w, const PackedWeight& copy,
                        int64_t panel, std::byte* out) {
    const KPieces pieces = pieces_of(copy);
    const int64_t column = panel * kBlock;
    for (int64_t piece = 0; piece < pieces.count(); ++piece)
        set.tools.pack_b_columns({w.data + pieces.begin(piece) * w.k + column, w.k}, pieces.length,
                                 static_cast<int>(std::min(kBlock, w.k - column)),
                                 out + piece * set.b_bytes(pieces.length));
}

// A weight's matrix in FP8: E4M3 values held as fp32, and the scales of its blocks.
struct Fp8Weight {
    Tensor values;  // [n, k]
    std::vector<float> scales;
    int64_t n = 0, k = 0, across = 0;

    Fp8Weight(int64_t rows, int64_t columns)
        : values(Tensor::empty({rows, columns}, DType::f32)),
          n(rows),
          k(columns),
          across((k + kFp8Block - 1) / kFp8Block) {
        scales.resize(static_cast<size_t>((n + kFp8Block - 1) / kFp8Block * across));
    }
    float scale(int64_t row, int64_t column) const {
        return scales[static_cast<size_t>(row / kFp8Block * across + column / kFp8Block)];
    }
    void set(const float* w) {
        const Fp8Kernels& fp8 = FUCINA_PICK(kFp8Kernels);
        parallel_for(std::ssize(scales), kFp8Block * kFp8Block, [&](int64_t block) {
            const int64_t row = block / across * kFp8Block, column = block % across * kFp8Block;
            const int64_t end = std::min(row + kFp8Block, n);
            const int64_t width = std::min(kFp8Block, k - column);
            float largest = kQuantizeFloor;
            for (int64_t i = row; i < end; ++i)
                largest = std::max(largest, fp8.largest(w + i * k + column, width));
            const float scale = largest / 448.0f;
            scales[static_cast<size_t>(block)] = scale;
            for (int64_t i = row; i < end; ++i)
                fp8.round(w + i * k + column, width, 1.0f / scale, values.row<float>(i) + column);
        });
    }
};

// Of a panel, block by block of its k.
void store_scales(const Fp8Weight& w, const PackedWeight& copy, bool transposed, int64_t panel,
                  float* out) {
    const KPieces pieces = pieces_of(copy);
    for (int64_t piece = 0; piece < pieces.count(); ++piece)
        for (int64_t k = 0; k < pieces.length; k += kFp8Block)
            for (int64_t j = 0; j < kBlock; ++j) {
                int64_t column = panel * kBlock + j;
                bool inside = column < copy.n;
                if (copy.gate_up) {
                    inside = panel * 16 + j % 16 < copy.n / 2;
                    column = panel * 16 + j % 16 + j / 16 * (copy.n / 2);
                }
                const int64_t at = pieces.begin(piece) + k;
                *out++ = !inside ? 0 : transposed ? w.scale(at, column) : w.scale(column, at);
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
        return !forward_.fp8() && (halves_ == 1 || half_rows() % kBlock == 0) &&
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
    const int64_t panels = packed_panels(packed), data_bytes = set.b_bytes(pieces);
    const int64_t bytes = data_bytes + (packed.fp8() ? GemmSet::scale_bytes(packed.k) : 0);
    if (!packed.defined() || packed.storage.bytes() != groups * panels * bytes)
        packed.storage = Tensor::empty({groups * panels * bytes}, DType::u8);
    const auto pack_panel = [&](const WeightMatrix& matrix, int64_t panel, std::byte* out) {
        (transposed ? pack_columns_panel : pack_rows_panel)(set, matrix, packed, panel, out);
    };
    const auto* data = w.data<float>();
    if (!packed.fp8()) {
        parallel_for(groups * panels, kBlock * packed.k, [&](int64_t unit) {
            pack_panel({data + unit / panels * n * k, n, k}, unit % panels,
                       packed.storage.raw() + unit * bytes);
        });
        return packed;
    }
    const MemoryPurpose purpose("kernel scratch");
    Fp8Weight quantized(n, k);
    for (int64_t group = 0; group < groups; ++group) {
        quantized.set(data + group * n * k);
        parallel_for(panels, kBlock * packed.k, [&](int64_t panel) {
            std::byte* const out = packed.storage.raw() + (group * panels + panel) * bytes;
            pack_panel({quantized.values.data<float>(), n, k}, panel, out);
            store_scales(quantized, packed, transposed, panel,
                         reinterpret_cast<float*>(out + data_bytes));
        });
    }
    return packed;
}

}  // namespace fucina::cpu
