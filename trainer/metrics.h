// metrics.jsonl: one JSON object a training step, steps counted from 1, each standing there once.
// Floats are printed so that they read back to the same bits; docs/formats.md lists the keys.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/file.h"

namespace fucina {

struct StepMetrics {
    int64_t step = 0;
    double loss = 0;                     // token-mean cross-entropy of the step, nats; nothing else
    std::optional<double> balance_loss;  // unweighted, as is mtp_loss
    std::optional<double> mtp_loss;
    std::optional<double> valid_loss;           // token-mean, on data.valid, after this step
    std::optional<double> valid_bits_per_byte;  // the same over the text's bytes
    double grad_norm = 0;                       // global, before clipping
    double lr = 0;
    int64_t tokens = 0;       // of this step, over all ranks
    double tokens_per_s = 0;  // of this step, without save and evaluation
    // Where there are several ranks, their mean: seconds of the step in which a rank worked, and in
    // which it waited for others or for bytes.
    std::optional<double> compute_s, exposed_s;
    std::vector<double> expert_load;                  // [MoE layers] max / mean tokens per expert
    std::vector<std::vector<int64_t>> expert_counts;  // [MoE layers][E], at eval.every, else empty
    std::optional<int64_t> dropped;  // pairs of a token and an expert, with train.expert_capacity
    bool skipped = false;            // not finite: the optimizer did not step
};

// The line without its newline. Values that are not finite become null, which JSON can say.
std::string metrics_line(const StepMetrics& metrics);

// The reverse; nothing if the line is not one of ours.
std::optional<StepMetrics> parse_metrics_line(const std::string& line);

// All step lines of a file in order, up to the first that is torn; empty if there is no file.
std::vector<StepMetrics> read_metrics(const std::string& path);

// The file of a run, open for appending. Training outlives a full disk, so writing never throws.
class MetricsFile {
  public:
    // Opens or makes the file and drops every line after `last_step`, a torn last one included.
    // Error(storage) if it cannot be opened.
    MetricsFile(const std::string& path, int64_t last_step);

    // One write. False if the disk refused; nothing of the line is left in the file then.
    bool append(const StepMetrics& metrics);
    // Onto the disk, before a checkpoint refers to the step.
    bool sync();

  private:
    AppendFile file_;
};

}  // namespace fucina
