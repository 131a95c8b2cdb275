#include "trainer/samples.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "model/generation.h"

namespace fucina {
namespace {

constexpr size_t kPromptTokens = 12;
constexpr int64_t kNewTokens = 48;

// The file without the lines of later steps and without a torn one. It is replaced, not cut: a
// crash leaves the old lines or the new ones.
void drop_later(const std::filesystem::path& path, int64_t last_step) {
    if (!std::filesystem::exists(path)) return;
    std::ifstream in(path);
    if (!in) fail(ExitCode::storage, path.string(), ": cannot open: ", std::strerror(errno));
    std::string kept;
    bool drops = false;
    for (std::string line; std::getline(in, line);) {
        const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
        const bool keeps = !in.eof() && json.is_object() && json.contains("step") &&
                           json["step"].is_number_integer() && json["step"] <= last_step;
        if (keeps) kept += line + "\n";
        drops = drops || !keeps;
    }
    if (in.bad()) fail(ExitCode::storage, path.string(), ": cannot read: ", std::strerror(errno));
    in.close();
    if (drops) write_text_file(path, kept);
}

}  // namespace

SampleWriter::SampleWriter(Communicator& communicator, const std::filesystem::path& path,
                           int64_t last_step, const RunData& data)
    : writes_(communicator.rank() == 0), path_(path), data_(data) {
    if (!data.tokenizer) return;
    if (writes_) drop_later(path, last_step);
    const BatchLoader& loader = data.valid ? *data.valid : *data.train;
    PackedSequences first;
    loader.source(0).append(0, first);
    const size_t count = std::min(kPromptTokens, first.ids.size());
    prompt_.assign(first.ids.begin(), first.ids.begin() + static_cast<std::ptrdiff_t>(count));
}

bool SampleWriter::write(int64_t step, Model& model) const {
    if (prompt_.empty()) return true;
    const GenerationOptions options{
        .max_tokens = kNewTokens,
        .sampling = {.temperature = 0.8, .top_p = 0.95, .seed = static_cast<uint64_t>(step)},
        .stop_ids = model.spec().eos_ids};
    std::string text;
    try {
        text = data_.tokenizer->decode(generate(model, prompt_, options));
    } catch (const Error& error) {  // the run decides how long it bears what is not finite
        if (error.code() != ExitCode::non_finite) throw;
        text = error.what();
    }
    if (!writes_) return true;
    const nlohmann::json line = {
        {"step", step}, {"prompt", data_.tokenizer->decode(prompt_)}, {"text", text}};
    try {
        AppendFile file(path_);
        return file.append(line.dump() + "\n") && file.sync();
    } catch (const StorageError&) {
        return false;
    }
}

}  // namespace fucina
