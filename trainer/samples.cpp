#include "trainer/samples.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/generation.h"

namespace fucina {
namespace {

constexpr size_t kPromptTokens = 12;
constexpr int64_t kNewTokens = 48;

// Rewrites the file without the lines of later steps and without a torn one.
void drop_later(const std::filesystem::path& path, int64_t last_step) {
    std::ifstream in(path);
    if (!in) return;
    std::string kept;
    for (std::string line; std::getline(in, line) && !in.eof();) {
        const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
        if (json.is_object() && json.value("step", last_step + 1) <= last_step) kept += line + "\n";
    }
    in.close();
    std::ofstream(path, std::ios::trunc) << kept;
}

}  // namespace

SampleWriter::SampleWriter(const std::filesystem::path& path, int64_t last_step,
                           const RunData& data)
    : path_(path), data_(data) {
    if (!data.tokenizer) return;
    drop_later(path, last_step);
    const BatchLoader& loader = data.valid ? *data.valid : *data.train;
    PackedSequences first;
    loader.source(0).append(0, first);
    const size_t count = std::min(kPromptTokens, first.ids.size());
    prompt_.assign(first.ids.begin(), first.ids.begin() + static_cast<std::ptrdiff_t>(count));
}

void SampleWriter::write(int64_t step, Model& model) const {
    if (prompt_.empty()) return;
    const GenerationOptions options{
        .max_tokens = kNewTokens,
        .sampling = {.temperature = 0.8, .top_p = 0.95, .seed = static_cast<uint64_t>(step)},
        .stop_ids = model.spec().eos_ids};
    const std::vector<int32_t> ids = generate(model, prompt_, options, [](int32_t) {});
    const nlohmann::json line = {{"step", step},
                                 {"prompt", data_.tokenizer->decode(prompt_)},
                                 {"text", data_.tokenizer->decode(ids)}};
    std::ofstream(path_, std::ios::app) << line.dump() + "\n";
}

}  // namespace fucina
