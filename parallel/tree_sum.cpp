#include "parallel/tree_sum.h"

#include "kernels/arena.h"
#include "kernels/error.h"
#include "kernels/optimizer.h"

namespace fucina {
Tensor tree_sum(const Exec& exec, std::span<const Tensor> parts) {
    if (parts.size() == 1) return parts[0];
    const size_t first = (parts.size() + 1) / 2;
    const Tensor a = tree_sum(exec, parts.first(first)), b = tree_sum(exec, parts.subspan(first));
    if (!a.defined()) return b;
    if (b.defined()) ops::add_in_place(exec, a, b);
    return a;
}

// Each rank adds a slice of x, and all gather the slices.
void tree_sum(Communicator& ranks, const Tensor& x) {
    const Exec& exec = ranks.exec();
    if (ranks.size() == 1) return;
    FUCINA_CHECK(x.contiguous(), "a sum over ranks of ", x.describe());
    const int64_t slice = (x.size() + ranks.size() - 1) / ranks.size();
    MemoryPurpose purpose("communication");
    const Tensor sent = exec.empty({slice * ranks.size()}, DType::f32);
    const Tensor received = exec.empty({slice * ranks.size()}, DType::f32);
    exec.zero(sent);  // what is beyond x travels too
    exec.copy(x.flat(), sent.slice(0, x.size()));
    const std::vector<int64_t> counts(static_cast<size_t>(ranks.size()), slice * 4);
    ranks.all_to_all_v(sent.memory(), counts, received.memory(), counts);
    std::vector<Tensor> parts;
    for (int rank = 0; rank < ranks.size(); ++rank)
        parts.push_back(received.slice(rank * slice, (rank + 1) * slice));
    ranks.all_gather(tree_sum(exec, parts).memory(), sent.memory());
    exec.copy(sent.slice(0, x.size()), x.flat());
}

}  // namespace fucina
