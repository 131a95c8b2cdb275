#include "kernels/cpu/head_loss.h"
#include "kernels/cuda/head_loss.h"

#include "kernels/embedding.h"

namespace fucina::ops {

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute) {
    return cpu::head_loss_rows(rows, vocab, compute);
}

void head_loss(const Exec& exec, const HeadLoss& io) {
    FUCINA_RUN(exec, head_loss, io);
}

}  // namespace fucina::ops
