#include "model/weight_map.h"

#include <algorithm>
#include <charconv>

#include "kernels/error.h"
#include "model/families.h"

namespace fucina {

namespace {

// "model.norm" and "weight" of "model.norm.weight".
std::string_view module_of(std::string_view tensor) {
    return tensor.substr(0, std::min(tensor.rfind('.'), tensor.size()));
}
std::string_view last_part(std::string_view tensor) {
    return tensor.substr(tensor.rfind('.') + 1);
}

}  // namespace

WeightMap::WeightMap(const ModelSpec& spec, bool with_mtp)
    : layers_(spec.layers), with_mtp_(with_mtp), tied_head_(spec.tied_head) {
    const Family* family = find_family(spec.family);
    FUCINA_CHECK(family, "family ", spec.family);
    entries_ = family->weights(spec, with_mtp);
    for (const WeightEntry& entry : entries_)
        for (const std::vector<WeightPiece>& spelling : entry.spellings)
            for (const WeightPiece& piece : spelling) modules_.emplace(module_of(piece.tensor));
}

const WeightEntry* WeightMap::find(std::string_view parameter) const {
    for (const WeightEntry& entry : entries_)
        if (entry.parameter == parameter) return &entry;
    return nullptr;
}

bool WeightMap::ignorable(std::string_view tensor) const {
    const std::string_view last = last_part(tensor);
    if (tensor.find(".rotary_emb.") != tensor.npos) return true;
    // A scale of the weight itself is another matter: without it the weight would be wrong.
    const bool scale = last.find("scal") != last.npos || last.find("zero_point") != last.npos;
    if (scale && !last.starts_with("weight")) return true;
    if (tied_head_ && tensor == "lm_head.weight") return true;
    constexpr std::string_view kLayers = "model.layers.";
    if (!tensor.starts_with(kLayers)) return !modules_.contains(module_of(tensor));
    tensor.remove_prefix(kLayers.size());
    int64_t layer = -1;
    const auto [end, error] = std::from_chars(tensor.data(), tensor.data() + tensor.size(), layer);
    if (error != std::errc() || layer < layers_) return false;
    if (!with_mtp_ || layer > layers_) return true;
    return tensor.ends_with(".embed_tokens.weight") || tensor.ends_with(".shared_head.head.weight");
}

std::string WeightMap::mtp_marker(const ModelSpec& spec) {
    return concat("model.layers.", spec.layers, ".eh_proj.weight");
}

}  // namespace fucina
