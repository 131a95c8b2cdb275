#include "launch/model_source.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "kernels/error.h"
#include "launch/process.h"
#include "model/weight_map.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"
#include "trainer/product_choice.h"
#include "trainer/weights.h"

namespace fucina {

void check_directory(const std::filesystem::path& path, const char* expected) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (status.type() == std::filesystem::file_type::not_found)
        fail(ExitCode::data, path.string(), ": no such directory; expected ", expected);
    if (!is_directory(status))
        fail(ExitCode::data, path.string(), ": ", error ? error.message() : "is a file",
             "; expected ", expected);
    if (::access(path.c_str(), R_OK | X_OK) != 0)
        fail(ExitCode::data, path.string(), ": cannot open: ", std::strerror(errno));
}

void add_model_options(Command command, ModelChoice& choice, const char* precision) {
    command.option("model", choice.model, "run, checkpoint or Hugging Face directory")
        .path()
        .required();
    command.option("--tokenizer", choice.tokenizer, "tokenizer.json, if not the model's own")
        .path();
    command
        .option("--precision", choice.precision, concat("bf16, fp32 or fp8; default: ", precision))
        .one_of({"bf16", "fp32", "fp8"});
    command.option("--device", choice.device, "cpu or cuda; default: cpu").one_of({"cpu", "cuda"});
    command
        .option("--pipeline", choice.layout.pipeline,
                "under mpirun: so many ranks hold the layers one after the other")
        .range(int64_t{1}, int64_t{4096});
    command
        .option("--tensor", choice.layout.tensor, "under mpirun: so many ranks share each matrix")
        .range(int64_t{1}, int64_t{65536});
    command
        .option("--expert", choice.layout.expert,
                "under mpirun: so many ranks share the experts out among themselves")
        .range(int64_t{0}, int64_t{65536});
}

ModelSource::ModelSource(const std::filesystem::path& directory, bool speaks)
    : directory_(directory) {
    check_directory(directory, "a run, checkpoint or Hugging Face directory");
    if (std::filesystem::exists(directory / "config.json")) {
        spec_ = read_model_spec(directory);
        return;
    }
    if (!std::filesystem::exists(directory / kManifestName) &&
        !std::filesystem::exists(directory / "checkpoints"))
        fail(ExitCode::data, directory.string(),
             ": holds no model; expected config.json (a Hugging Face directory), checkpoints/ (a "
             "run) or ",
             kManifestName, " (a checkpoint)");
    directory_ =
        find_checkpoint(directory, [&](const std::filesystem::path& dir, const std::string& why) {
            if (speaks)
                std::printf("%s is damaged and passed over: %s\n", dir.c_str(), why.c_str());
        });
    manifest_ = read_manifest(directory_);
    spec_ = saved_spec(*manifest_, directory_);
}

Model ModelSource::load(const ModelOptions& options) const {
    if (manifest_) {
        ModelOptions as_trained = options;
        if (as_trained.chunks == 0) as_trained.chunks = manifest_->recipe().exact().chunks();
        Model model(spec_, as_trained);
        load_weights(directory_, model);
        model.repack();
        return model;
    }
    const TensorFile file(directory_);
    if (options.with_mtp && !has_mtp_weights(file, spec_))
        fail(ExitCode::data, directory_.string(), ": has no MTP module: tensor ",
             WeightMap::mtp_marker(spec_), " is missing");
    ModelSpec spec = spec_;
    const std::string head = settle_head(spec, file);
    Model model(spec, options);
    std::vector<std::string> notes = load_weights(model, file);
    if (!head.empty()) notes.insert(notes.begin(), head);
    for (const std::string& note : notes)  // not on stdout, where generate's text goes
        if (process().rank() == 0) std::fprintf(stderr, "%s\n", note.c_str());
    return model;
}

std::string ModelSource::tokenizer_path(const std::string& given) const {
    if (!given.empty()) return given;
    const std::filesystem::path beside = directory_ / "tokenizer.json";
    if (std::filesystem::exists(beside)) return beside.string();
    return manifest_ ? manifest_->recipe().data().tokenizer() : "";
}

Tokenizer ModelSource::tokenizer(const std::string& given) const {
    const std::string path = tokenizer_path(given);
    if (path.empty())
        fail(ExitCode::usage, directory_.string(),
             ": has no tokenizer.json; name one with --tokenizer FILE");
    Tokenizer tokenizer = Tokenizer::load(path);
    if (manifest_ && !manifest_->tokenizer_hash().empty() &&
        manifest_->tokenizer_hash() != tokenizer.hash())
        fail(ExitCode::data, path, ": the tokenizer's hash is ", tokenizer.hash(),
             ", the model was trained with ", manifest_->tokenizer_hash());
    if (tokenizer.vocab_size() > spec_.vocab_size)
        fail(ExitCode::data, path, ": the tokenizer has ", tokenizer.vocab_size(),
             " ids, the model's vocab_size is ", spec_.vocab_size);
    return tokenizer;
}

std::optional<ChatFormat> ModelSource::chat_format(const std::string& given,
                                                   const std::string& tokenizer) const {
    const Recipe trained = manifest_ ? manifest_->recipe() : Recipe();
    const std::string& chosen = given.empty() ? trained.data().chat_template() : given;
    auto chat = ChatFormat::find(tokenizer_path(tokenizer), chosen);
    if (!chat && !trained.model().from().empty())
        chat =
            ChatFormat::find(std::filesystem::path(trained.model().from()) / "tokenizer.json", "");
    return chat;
}

TextEndChoice ModelSource::end_choice(const std::string& begin) const {
    TextEndChoice choice;
    if (manifest_ && manifest_->recipe().data().has_begin_token())
        choice = {manifest_->recipe().data().begin_token(), manifest_->recipe().data().end_token()};
    if (begin != "auto") choice.begin = begin;
    return choice;
}

std::vector<int32_t> ModelSource::stops(const TextEnds& ends) const {
    const bool named = !spec_.eos_by_default || ends.stops.empty();
    return with_stops(named ? spec_.eos_ids : std::vector<int32_t>(), ends.stops);
}

std::vector<int32_t> begin_text(const Tokenizer& tokenizer, const TextEnds& ends,
                                const std::string& text, std::optional<int32_t> bos) {
    std::vector<int32_t> ids = tokenizer.encode(text);
    const auto front = ids.begin() + std::min(std::ssize(ids), std::ssize(ends.begin));
    if (!std::equal(ids.begin(), front, ends.begin.begin(), ends.begin.end()))
        ids.insert(ids.begin(), ends.begin.begin(), ends.begin.end());
    if (ids.empty() && ends.start) ids.push_back(*ends.start);
    if (ids.empty() && bos && *bos < tokenizer.vocab_size()) ids.push_back(*bos);
    if (ids.empty())
        fail(ExitCode::usage,
             "the prompt is empty, and neither the tokenizer nor config.json names a token that "
             "begins a text; give a prompt, or name the token with --begin-token");
    return ids;
}

std::string compute_as_trained(Communicator& communicator, const ModelSource& source,
                               DType compute) {
    const Manifest* manifest = source.manifest();
    const bool trained_here = manifest != nullptr && manifest->recipe().has_train();
    const Recipe* run = trained_here ? &manifest->recipe() : nullptr;  // null for an import too
    const ProductOrder order = evaluation_products(communicator, run);
    set_runtime(process().use_threads(0), Numerics::exact, order);
    if (run == nullptr || run->train().numerics() == "fast" || compute == DType::f32) return "";
    const std::string trained = stored_products(*run);
    if (run->train().precision() == "fp32" || trained == name_of(order)) return "";
    return concat("products ", name_of(order), ": the run's ", trained,
                  " needs AVX512_BF16, which is not everywhere here; the last digits may differ");
}

}  // namespace fucina
