// StageLink: rows of tokens from a stage of the pipeline to the next, and their gradients back. A
// rank has one stage or several, its chunks; the stages go round over the ranks
// (parallel/pipeline_schedule.h).
//
// A send never waits for its receiver. So ranks that send to each other, in whatever order and of
// whatever size, wait for what they receive alone, and the order of a schedule has no cycles.
// Transports that move messages only inside their calls get some while the stages compute: see
// poll().
#pragma once
#include <deque>
#include <map>
#include <memory>

#include "kernels/tensor.h"
#include "parallel/communicator.h"

namespace fucina {

class StageLink {
  public:
    enum Way { rows, gradients };  // to the next stage; to the one before

    // pipeline: the ranks by their stages; must outlive this.
    explicit StageLink(Communicator& pipeline) : pipeline_(pipeline) {}
    // Waits for what was sent.
    ~StageLink();
    StageLink(const StageLink&) = delete;
    StageLink& operator=(const StageLink&) = delete;

    // From our chunk `chunk`. x, contiguous, is held until it has gone, and must not be written.
    void send(const Tensor& x, int chunk, Way way);
    // Begins to receive what our chunk `chunk` takes, in the order of sending. x: contiguous, of
    // the size that was sent; overwritten, and held until received() has given it.
    void expect(Tensor x, int chunk, Way way);
    // Waits for what was expected first of that chunk and way.
    Tensor received(int chunk, Way way);
    // Lets what is under way go on; never waits.
    void poll();
    // Collective over the pipeline: the last rank's x to all.
    void from_last(const Tensor& x);
    // Until all that was sent has gone.
    void finish();

  private:
    struct Message {
        Tensor x;
        std::unique_ptr<Request> request;
    };
    Communicator& pipeline_;
    std::deque<Message> sent_;
    std::map<int, std::deque<Message>> expected_;  // by tag
};

}  // namespace fucina
