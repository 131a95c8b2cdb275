#include "parallel/stage_link.h"

#include <exception>

#include "kernels/error.h"

namespace fucina {
namespace {

std::span<std::byte> bytes_of(const Tensor& x) {
    FUCINA_CHECK(x.contiguous(), "a message is contiguous");
    return {x.raw(), static_cast<size_t>(x.bytes())};
}

// By the chunk that receives.
int tag_of(int chunk, StageLink::Way way) {
    return 2 * chunk + way;
}

}  // namespace

StageLink::~StageLink() {
    if (std::uncaught_exceptions() == 0) finish();
}

void StageLink::send(const Tensor& x, int chunk, Way way) {
    while (!sent_.empty() && sent_.front().request->done()) {
        sent_.front().request->wait();
        sent_.pop_front();
    }
    const int rank = pipeline_.rank(), ranks = pipeline_.size();
    const int to = way == rows ? (rank + 1) % ranks : (rank + ranks - 1) % ranks;
    if (way == rows && to == 0) ++chunk;
    if (way == gradients && rank == 0) --chunk;
    sent_.push_back({x, pipeline_.start_send(bytes_of(x), to, tag_of(chunk, way))});
}

void StageLink::receive(const Tensor& x, int chunk, Way way) {
    const int rank = pipeline_.rank(), ranks = pipeline_.size();
    const int from = way == rows ? (rank + ranks - 1) % ranks : (rank + 1) % ranks;
    pipeline_.receive(bytes_of(x), from, tag_of(chunk, way));
}

void StageLink::from_last(const Tensor& x) {
    pipeline_.broadcast(bytes_of(x), pipeline_.size() - 1);
}

void StageLink::finish() {
    for (; !sent_.empty(); sent_.pop_front()) sent_.front().request->wait();
}

}  // namespace fucina
