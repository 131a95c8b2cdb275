// The head and its cross-entropy, some rows at a time: their logits in fp32, the logits' gradient
// in the compute type, then its share of dx and dW. dW of a leaf goes on where the rows before
// stopped (at a multiple of 32 within a leaf, so the order of summation is the leaf's); finished
// leaves wait in a stack of dW partials for the tree.
#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/head_loss.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/head_loss.h"
#include "kernels/embedding.h"
#include "kernels/optimizer.h"

namespace fucina::ops {
namespace {

void leaf_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, bool more, const Tensor& dw) {
    FUCINA_RUN(exec, leaf_wgrad, dy, x, more, dw);
}

void row_losses(const Exec& exec, const HeadLoss& io, int64_t first, const Tensor& logits,
                const Tensor& d_logits) {
    FUCINA_RUN(exec, row_losses, io, first, logits, d_logits);
}

class HeadLossPass {
  public:
    HeadLossPass(const Exec& exec, const HeadLoss& io)
        : exec_(exec),
          io_(io),
          most_rows_(io.rows > 0 ? io.rows : head_loss_rows(io.x.rows(), io.head.n, io.head.dtype)),
          logits_(exec.empty({most_rows_, io.head.n}, DType::f32)) {
        // Rows a line longer, lest a column of them fall into a few sets of the caches.
        if (io.dx.defined() || io.dw.defined())
            d_logits_ =
                exec.empty({most_rows_, io.head.n + 32}, io.head.dtype).columns(0, io.head.n);
    }

    // Rows [begin, end) of x, which are one leaf; dw receives their gradient.
    void leaf(int64_t begin, int64_t end, const Tensor& dw) const {
        if (begin == end && dw.defined()) exec_.zero(dw);
        for (int64_t first = begin; first < end; first += most_rows_) {
            const int64_t last = std::min(first + most_rows_, end), rows = last - first;
            const Tensor x = io_.x.slice(first, last), logits = logits_.slice(0, rows);
            const Tensor d_logits = d_logits_.defined() ? d_logits_.slice(0, rows) : Tensor();
            linear(exec_, x, io_.head, logits);
            row_losses(exec_, io_, first, logits, d_logits);
            if (io_.dx.defined())
                linear(exec_, d_logits, io_.head_dgrad, io_.dx.slice(first, last));
            if (dw.defined()) leaf_wgrad(exec_, d_logits, x, first != begin, dw);
        }
    }

  private:
    const Exec& exec_;
    const HeadLoss& io_;
    const int64_t most_rows_;
    const Tensor logits_;
    Tensor d_logits_;
};

void check(const HeadLoss& io) {
    FUCINA_CHECK(io.loss.dtype() == DType::f32 && io.loss.size() == io.x.rows() &&
                     io.labels.size() == io.x.rows(),
                 "losses into ", io.loss.describe(), " of ", io.labels.describe(), " for ",
                 io.x.describe());
    check_chunks(io.chunks, io.head.n, "tokens of the vocabulary");
    FUCINA_CHECK(!io.dx.defined() || io.head_dgrad.cut.chunks == io.chunks, "head_dgrad in ",
                 io.head_dgrad.cut.chunks, " chunks, the vocabulary in ", io.chunks);
    FUCINA_CHECK(!io.dw.defined() || io.tree.rows() == io.x.rows(), "a tree of ", io.tree.rows(),
                 " rows for ", io.x.describe());
}

}  // namespace

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute) {
    return cpu::head_loss_rows(rows, vocab, compute);
}

void head_loss(const Exec& exec, const HeadLoss& io) {
    check(io);
    const HeadLossPass pass(exec, io);
    if (!io.dw.defined()) return pass.leaf(0, io.x.rows(), {});
    const LeafTree tree = cpu::summation_tree(io.tree);
    std::vector<Tensor> partial{io.dw};
    size_t depth = 0;
    if (tree.leaves() == 0) exec.zero(io.dw);
    for (size_t leaf = 0; leaf < tree.merges.size(); ++leaf) {
        if (depth == partial.size())
            partial.push_back(exec.empty({io.dw.dim(0), io.dw.dim(1)}, DType::f32));
        pass.leaf(tree.offsets[leaf], tree.offsets[leaf + 1], partial[depth]);
        ++depth;
        for (int merge = tree.merges[leaf]; merge > 0; --merge) {
            --depth;
            add_in_place(exec, partial[depth - 1], partial[depth]);
        }
    }
}

}  // namespace fucina::ops
