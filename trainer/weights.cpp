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

namespace fucina {

namespace {

constexpr int64_t kConfigLimit = 16 << 20;  // bytes of a config.json
constexpr int64_t kStagingBytes = 8 << 20;  // of a tensor in the file's dtype at a time

void to_fp32(DType type, const std::byte* from, float* to, int64_t count) {
    const auto* halves = reinterpret_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) {
        if (type == DType::f32)
            to[i] = reinterpret_cast<const float*>(from)[i];
        else if (type == DType::bf16)
            to[i] = to_float(bfloat16{halves[i]});
        else
            to[i] = static_cast<float>(std::bit_cast<_Float16>(halves[i]));
    }
}

// Elements [begin, end) of the parameter go to `to`; the rest of the piece is not read.
void load_piece(const TensorFile& file, const WeightPiece& piece, const TensorInfo& tensor,
                int64_t begin, int64_t end, float* to) {
    const int64_t count = element_count(piece.shape);
    if (count == 0) return;
    const int64_t row = count / piece.shape[0], row_bytes = row * size_of(tensor.dtype);
    const auto clip = [&](int64_t element) {
        return std::clamp<int64_t>(element - piece.offset, 0, count);
    };
    FUCINA_CHECK(clip(begin) % row == 0 && clip(end) % row == 0, piece.tensor, " is cut at ",
                 clip(begin), " and ", clip(end), ", inside rows of ", row);
    const int64_t rows = clip(end) / row;
    to += piece.offset - begin;
    const int64_t step = std::max<int64_t>(1, kStagingBytes / row_bytes);
    std::vector<std::byte> staging(static_cast<size_t>(std::min(step, rows) * row_bytes));
    for (int64_t first = clip(begin) / row; first < rows; first += step) {
        const int64_t taken = std::min(step, rows - first);
        const std::span<std::byte> bytes(staging.data(), static_cast<size_t>(taken * row_bytes));
        file.read_rows(tensor, first, bytes);
        to_fp32(tensor.dtype, staging.data(), to + first * row, taken * row);
        check_finite(concat(file.file_of(tensor).string(), ": tensor ", tensor.name), tensor.shape,
                     first * row, {to + first * row, static_cast<size_t>(taken * row)});
    }
}

const TensorInfo& checked(const TensorFile& file, const WeightPiece& piece) {
    const TensorInfo* tensor = file.find(piece.tensor);
    if (!tensor)
        fail(ExitCode::data, file.why_missing(piece.tensor), "; expected shape ",
             shape_text(piece.shape));
    const std::string where = concat(file.file_of(*tensor).string(), ": tensor ", piece.tensor);
    if (tensor->shape != piece.shape)
        fail(ExitCode::data, where, " has shape ", shape_text(tensor->shape), ", expected ",
             shape_text(piece.shape));
    const DType type = tensor->dtype;
    if (!tensor->foreign.empty() ||
        (type != DType::f32 && type != DType::bf16 && type != DType::f16))
        fail(ExitCode::data, where, " is ",
             tensor->foreign.empty() ? name_of(type) : std::string_view(tensor->foreign),
             ", expected F32, BF16 or F16");
    return *tensor;
}

// The spelling that the file uses; the hub's if it has none.
std::vector<WeightPiece> spelling_of(const WeightEntry& entry, const TensorFile& file) {
    for (const std::vector<WeightPiece>& spelling : entry.spellings)
        if (file.find(spelling.front().tensor)) return spelling;
    if (file.find(entry.stand_in)) return {{entry.stand_in, entry.shape, 0}};
    return entry.spellings.front();
}

// A line about the tensors that no parameter is made of; fails on one that should not be there.
std::string left_aside(const TensorFile& file, const WeightMap& map,
                       const std::set<std::string_view>& used) {
    constexpr int64_t kNamed = 3;
    int64_t count = 0;
    std::string names;
    for (const TensorInfo& tensor : file.tensors()) {
        if (used.contains(tensor.name)) continue;
        if (element_count(tensor.shape) > 0 && !map.ignorable(tensor.name))
            fail(ExitCode::data, file.file_of(tensor).string(), ": tensor ", tensor.name, " ",
                 shape_text(tensor.shape),
                 " is unexpected: no parameter is made of it, yet it lies inside what runs");
        if (++count <= kNamed) names += concat(count == 1 ? "" : ", ", tensor.name);
    }
    if (count == 0) return "";
    return concat(file.path().string(), ": ", count,
                  " tensors are left aside, no parameter is made of them: ", names,
                  count > kNamed ? ", ..." : "");
}

}  // namespace

void check_finite(const std::string& where, std::span<const int64_t> shape, int64_t first,
                  std::span<const float> values) {
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
    std::vector<float> values[2];
    for (int i = 0; i < 2; ++i) {
        if (!file.find(pieces[i].tensor)) return "";
        values[i].resize(static_cast<size_t>(element_count(shape)));
        load_piece(file, pieces[i], checked(file, pieces[i]), 0, element_count(shape),
                   values[i].data());
    }
    if (values[0] == values[1]) return "";
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
        for (const WeightPiece& piece : spelling_of(entry, file)) {
            const TensorInfo& tensor = checked(file, piece);
            for_each_run(parameter->shape, parameter->master_box(),
                         [&](int64_t first, int64_t local, int64_t count) {
                             load_piece(file, piece, tensor, first, first + count,
                                        parameter->master().data<float>() + local);
                         });
            used.insert(tensor.name);
        }
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
            ops::add_in_place(parameter->grad(0), parameter->grad(use));
        for (const WeightPiece& piece : entry.spellings.back()) {
            specs.push_back({piece.tensor, DType::f32, piece.shape});
            pieces.emplace_back(parameter, &piece);
        }
    }
    TensorFileWriter writer(path, specs);
    for (const auto& [parameter, piece] : pieces)
        writer.append(std::span<const float>(parameter->grad().data<float>() + piece->offset,
                                             static_cast<size_t>(element_count(piece->shape))));
    writer.commit();
}

}  // namespace fucina
