#include "parallel/stage_link.h"

#include <exception>
#include <utility>

#include "kernels/error.h"

namespace fucina {
namespace {

// By the chunk that receives.
int tag_of(int chunk, StageLink::Way way) {
    return 2 * chunk + way;
}

}  // namespace

StageLink::~StageLink() {
    if (std::uncaught_exceptions() == 0) finish();
}

void StageLink::send(const Tensor& x, int chunk, Way way) {
    poll();
    const int rank = pipeline_.rank(), ranks = pipeline_.size();
    const int to = way == rows ? (rank + 1) % ranks : (rank + ranks - 1) % ranks;
    if (way == rows && to == 0) ++chunk;
    if (way == gradients && rank == 0) --chunk;
    sent_.push_back({x, pipeline_.start_send(x.memory(), to, tag_of(chunk, way))});
}

void StageLink::expect(Tensor x, int chunk, Way way) {
    const int rank = pipeline_.rank(), ranks = pipeline_.size();
    const int from = way == rows ? (rank + ranks - 1) % ranks : (rank + 1) % ranks;
    const int tag = tag_of(chunk, way);
    const std::span<std::byte> bytes = x.memory();
    expected_[tag].push_back({std::move(x), pipeline_.start_receive(bytes, from, tag)});
}

Tensor StageLink::received(int chunk, Way way) {
    std::deque<Message>& expected = expected_[tag_of(chunk, way)];
    FUCINA_CHECK(!expected.empty(), "nothing is expected by chunk ", chunk);
    Message message = std::move(expected.front());
    expected.pop_front();
    message.request->wait();
    return std::move(message.x);
}

void StageLink::poll() {
    while (!sent_.empty() && sent_.front().request->done()) {
        sent_.front().request->wait();
        sent_.pop_front();
    }
    // What asks one of them moves all of them.
    for (auto& [tag, messages] : expected_)
        if (!messages.empty()) messages.front().request->done();
}

void StageLink::from_last(const Tensor& x) {
    pipeline_.broadcast(x.memory(), pipeline_.size() - 1);
}

void StageLink::finish() {
    for (; !sent_.empty(); sent_.pop_front()) sent_.front().request->wait();
}

}  // namespace fucina
