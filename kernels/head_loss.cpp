#include "kernels/embedding.h"

#include "kernels/reference/reference.h"

namespace fucina::ops {

void head_loss(const HeadLoss& io) {
    reference::head_loss(io);
}

}  // namespace fucina::ops
