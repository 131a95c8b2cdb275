#include "kernels/packed_copies.h"

#include "kernels/arena.h"

namespace fucina {

int64_t PackedCopies::bytes() const {
    return forward.bytes() + dgrad.bytes();
}

Tensor PackedCopies::as_matrix(const Tensor& x) const {
    if (kind != PackKind::gate_up || !x.defined()) return x;
    if (x.rank() == 4) return x.view({x.dim(0), 2 * x.dim(2), x.dim(3)});
    return x.view({2 * x.dim(1), x.dim(2)});
}

void PackedCopies::pack(const Exec& exec, const Tensor& w, DType compute, bool with_dgrad) {
    compute = products(compute);
    MemoryPurpose purpose("packed weights");
    forward = ops::pack(exec, as_matrix(w), kind, compute, std::move(forward));
    if (with_dgrad)
        dgrad = ops::pack(exec, as_matrix(w), PackKind::dgrad, compute, std::move(dgrad));
}

void PackedCopies::repack(const Exec& exec, const Tensor& w) {
    if (defined()) pack(exec, w, forward.dtype, dgrad.defined());
}

}  // namespace fucina
