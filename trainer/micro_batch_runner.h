// MicroBatchRunner: takes a step's micro-batches through the stages of the model that this rank
// holds, forward and backward, in the order of a schedule (parallel/pipeline_schedule.h).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/stage.h"
#include "parallel/pipeline_schedule.h"
#include "parallel/stage_link.h"
#include "trainer/grad_accumulator.h"
#include "trainer/micro_batches.h"

namespace fucina {

class MicroBatchRunner {
  public:
    struct Step {
        std::span<const MicroBatch> micro_batches;
        std::function<TokenBatch(const Pass&)> batch;
        PassOptions scales;
        std::span<GradAccumulator> accumulators;  // of each chunk
        std::function<void(const PassResult&)> report;
    };

    // pipeline: the ranks by their stages; must outlive this.
    MicroBatchRunner(Model& model, Communicator& pipeline, Schedule schedule)
        : model_(model), pipeline_(pipeline), schedule_(schedule), link_(pipeline) {}

    // Every gradient goes to its accumulator as soon as it is made. The stages of a pipeline, and
    // the ranks that share out experts, call this together with as many micro-batches.
    void run(const Step& step);

  private:
    // A micro-batch between its forward and the last of its gradients.
    struct UnderWay {
        TokenBatch batch;
        std::unique_ptr<StagePass> pass;
    };
    void begin(const Step& step, const Action& action);
    // Makes the action's pass, if it is a forward, and begins to receive what it takes. Before the
    // action before it is run, so that the message comes meanwhile.
    void prepare(const Step& step, const Action& action);
    void run(const Step& step, const Action& action);
    void forward(const Action& action, StagePass& pass);
    void backward(const Step& step, const Action& action, StagePass& pass);
    void end_wave(const Step& step, const Action& action);

    Model& model_;
    Communicator& pipeline_;
    const Schedule schedule_;
    StageLink link_;
    std::map<std::pair<int, int>, UnderWay> under_way_;  // by micro-batch and chunk
};

}  // namespace fucina
