#include "kernels/cpu/head_loss.h"

#include "kernels/embedding.h"

namespace fucina::ops {

void head_loss(const HeadLoss& io) {
    cpu::head_loss(io);
}

}  // namespace fucina::ops
