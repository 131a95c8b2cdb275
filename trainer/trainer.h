// Trainer: runs a run. A step, what is said and written about it, evaluation, saves, requests from
// outside.
#pragma once
#include <memory>

#include "kernels/error.h"
#include "parallel/communicator.h"
#include "trainer/balance_watch.h"
#include "trainer/checkpoint_saver.h"
#include "trainer/metrics.h"
#include "trainer/peak_share.h"
#include "trainer/report/tensorboard.h"
#include "trainer/run.h"
#include "trainer/samples.h"
#include "trainer/step_line.h"
#include "trainer/step_runner.h"
#include "trainer/stop_request.h"
#include "trainer/straggler_watch.h"

namespace fucina {

class Trainer {
  public:
    Trainer(TrainingRun run, Console& console);

    // To the last step, or to a request to stop (exit code 15). Throws what ends a run early:
    // non-finite steps (13), saves that fail (11).
    ExitCode train();

  private:
    void step();
    void watch_non_finite(const StepResult& result, int64_t first_sample);
    // Seconds of a step on this rank; exposed: waiting for other ranks or for bytes.
    struct StepTime {
        double all = 0, exposed = 0;
    };
    void write_metrics(const StepResult& result, const StepTime& time);
    void evaluate(StepMetrics& metrics);
    void show_memory(bool measured);
    void start_save();
    void before_update();
    void advance_save();  // one phase
    void finish_save();
    void report(const SaveOutcome& outcome);
    void check_replicas();
    StepTime watch_stragglers(const StepTime& time);
    void make_faults();
    bool due(int64_t every) const;
    struct Requests {
        StopRequest asked;
        bool save_waits = false;  // for a rank that still writes
    };
    Requests requests();

    TrainingRun run_;
    Communicator& communicator_;           // of all ranks
    std::unique_ptr<Communicator> saves_;  // of all ranks, for what saves say to each other
    CheckpointSaver saver_;
    Console& console_;
    StepRunner runner_;
    StepLine line_;
    PeakShare peak_;
    BalanceWatch balance_;
    StragglerWatch stragglers_;
    int64_t own_grains_ = 0;            // of a step
    std::vector<int32_t> token_bytes_;  // of each id; empty without a tokenizer
    std::unique_ptr<SampleWriter> samples_;
    std::unique_ptr<MetricsFile> metrics_;            // rank 0
    std::unique_ptr<TensorBoardWriter> tensorboard_;  // rank 0
    int64_t failed_saves_ = 0;                        // in a row
    int64_t non_finite_ = 0;                          // steps in a row
    int64_t saving_step_ = -1;                        // or saved
};

}  // namespace fucina
