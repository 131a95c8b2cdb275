// head_loss of kernels/embedding.h on CPU; the contract is there.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cpu {

void head_loss(const ops::HeadLoss& io);

}  // namespace fucina::cpu
