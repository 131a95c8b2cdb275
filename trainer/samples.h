// samples.jsonl: what the model writes during evaluation, {"step", "prompt", "text"} a line.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/model.h"
#include "parallel/communicator.h"
#include "trainer/run_data.h"

namespace fucina {

class SampleWriter {
  public:
    // The prompt is the beginning of the held-out data, or of the training data without any. Lines
    // after `last_step` are dropped. Without a tokenizer nothing is ever written.
    SampleWriter(Communicator& communicator, const std::filesystem::path& path, int64_t last_step,
                 const RunData& data);

    // Collective: all ranks continue the prompt with the model as it is, the first one writes; the
    // same text for the same weights and step. False, on the first, if the disk refused the line.
    bool write(int64_t step, Model& model) const;

  private:
    const bool writes_;
    std::filesystem::path path_;
    const RunData& data_;
    std::vector<int32_t> prompt_;
};

}  // namespace fucina
