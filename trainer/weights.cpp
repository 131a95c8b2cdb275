#include "trainer/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "data/json.h"
#include "kernels/error.h"
#include "kernels/optimizer.h"
#include "model/weight_map.h"
#include "trainer/manifest.h"
#include "trainer/stored_weight.h"

namespace fucina {

namespace {

constexpr int64_t kConfigLimit = 16 << 20;  // bytes of a config.json
constexpr int64_t kCompared = 1 << 20;      // elements at a time

}  // namespace

void check_finite(const std::string& where, std::span<const int64_t> shape, int64_t first,
                  std::span<const float> values) {
    uint32_t bad = 0;  // without a branch, so that it takes whole registers
    for (const float value : values)
        bad |= (std::bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    if (bad == 0) return;
    for (size_t i = 0; i < values.size(); ++i) {
        if (std::isfinite(values[i])) continue;
        std::vector<int64_t> index(shape.size());
        int64_t left = first + static_cast<int64_t>(i);
        for (size_t d = shape.size(); d-- > 0; left /= shape[d]) index[d] = left % shape[d];
        fail(ExitCode::data, where, " is NaN or infinite at ", shape_text(index),
             "; the file is damaged, or the training that made it had diverged");
    }
}

// Texts end at every token that config.json or generation_config.json names.
void add_ends(const nlohmann::json& generation, nlohmann::json& config) {
    if (!generation.is_object() || !config.is_object()) return;
    if (!config.contains("bos_token_id") && generation.contains("bos_token_id"))
        config["bos_token_id"] = generation["bos_token_id"];
    const auto as_list = [](const nlohmann::json& value) {
        if (value.is_null()) return nlohmann::json::array();
        return value.is_array() ? value : nlohmann::json::array({value});
    };
    const auto more = generation.find("eos_token_id");
    if (more == generation.end()) return;
    nlohmann::json all = as_list(config.value("eos_token_id", nlohmann::json()));
    for (const nlohmann::json& id : as_list(*more))
        if (std::ranges::find(all, id) == all.end()) all.push_back(id);
    config["eos_token_id"] = std::move(all);
}

ModelSpec read_model_spec(const std::filesystem::path& directory) {
    const std::filesystem::path path = directory / "config.json";
    nlohmann::json config = read_json_file(path, kConfigLimit, ExitCode::usage);
    check_quantization(config, path.string());
    const std::filesystem::path generation = directory / "generation_config.json";
    if (!std::filesystem::exists(generation)) return ModelSpec::from_config(config, path.string());
    const nlohmann::json more = read_json_file(generation, kConfigLimit, ExitCode::usage);
    ModelSpec::from_config(config, path.string());  // what is wrong is said of its own file
    add_ends(more, config);
    return ModelSpec::from_config(config, concat(path.string(), " with generation_config.json"));
}

bool has_mtp_weights(const TensorFile& file, const ModelSpec& spec) {
    return file.find(WeightMap::mtp_marker(spec)) != nullptr;
}

std::string settle_head(ModelSpec& spec, const TensorFile& file) {
    if (!spec.tied_head) return "";
    const std::vector<int64_t> shape = {spec.vocab_size, spec.hidden_size};
    const WeightPiece pieces[] = {{"model.embed_tokens.weight", shape, 0},
                                  {"lm_head.weight", shape, 0}};
    for (const WeightPiece& piece : pieces)
        if (!file.find(piece.tensor)) return "";
    StoredWeight embedding(file, pieces[0]), head(file, pieces[1]);
    std::vector<float> a(kCompared), b(kCompared);
    bool same = true;
    for (int64_t first = 0, all = element_count(shape); same && first < all; first += kCompared) {
        const int64_t end = std::min(all, first + kCompared);
        embedding.read(first, end, a.data());
        head.read(first, end, b.data());
        same = std::equal(a.begin(), a.begin() + (end - first), b.begin());
    }
    if (same) return "";
    spec.tied_head = false;
    return concat("WARNING: ", file.path().string(), ": tie_word_embeddings is true, but ",
                  pieces[1].tensor, " and ", pieces[0].tensor,
                  " differ: both are kept, untied, as transformers does");
}

std::vector<std::string> load_weights(Model& model, const TensorFile& file) {
    const bool with_mtp = model.find("mtp.join") && has_mtp_weights(file, model.spec());
    const WeightMap map(model.spec(), with_mtp);
    std::set<std::string_view> used;
    for (const WeightEntry& entry : map.entries()) {
        const Parameter* parameter = model.find(entry.parameter);
        FUCINA_CHECK(parameter && parameter->shape == entry.shape, entry.parameter, " has shape ",
                     shape_text(entry.shape), " in the weight map");
        edit_on_host(parameter->exec, parameter->master(), [&](const Tensor& master) {
            const HostValues<float> values(kHost, master);
            for (const WeightPiece& piece : spelling_of(entry, file)) {
                StoredWeight stored(file, piece);
                for_each_run(parameter->shape, parameter->master_box(),
                             [&](int64_t first, int64_t local, int64_t count) {
                                 stored.read(first, first + count,
                                             &values[static_cast<size_t>(local)]);
                             });
                used.insert(stored.tensor().name);
                if (stored.scales()) used.insert(stored.scales()->name);
            }
        });
    }
    std::vector<std::string> notes;
    for (const char* other : {"checkpoints", kManifestName})
        if (std::filesystem::exists(file.path() / other))
            notes.push_back(concat("WARNING: ", file.path().string(), ": holds config.json and ",
                                   other, "; config.json and its safetensors were read"));
    if (!file.note().empty()) notes.push_back("WARNING: " + file.note());
    if (std::string aside = left_aside(file, map, used); !aside.empty())
        notes.push_back("note: " + std::move(aside));
    model.repack();
    return notes;
}

void write_gradients(Model& model, const std::filesystem::path& path) {
    const WeightMap map(model.spec(), model.find("mtp.join") != nullptr);
    std::vector<TensorSpec> specs;
    std::vector<std::pair<Parameter*, const WeightPiece*>> pieces;
    for (const WeightEntry& entry : map.entries()) {
        Parameter* parameter = model.find(entry.parameter);
        if (!parameter->trained) continue;
        for (size_t use = 1; use < parameter->grads.size(); ++use)
            ops::add_in_place(parameter->exec, parameter->grad(0), parameter->grad(use));
        for (const WeightPiece& piece : entry.spellings.back()) {
            specs.push_back({piece.tensor, DType::f32, piece.shape});
            pieces.emplace_back(parameter, &piece);
        }
    }
    TensorFileWriter writer(path, specs);
    for (const auto& [parameter, piece] : pieces) {
        const HostValues<float> values(parameter->exec, parameter->grad());
        writer.append(std::span<const float>(values.span().subspan(
            static_cast<size_t>(piece->offset), static_cast<size_t>(element_count(piece->shape)))));
    }
    writer.commit();
}

}  // namespace fucina
