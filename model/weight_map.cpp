#include "model/weight_map.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "model/families.h"

namespace fucina {

WeightMap::WeightMap(const ModelSpec& spec, bool with_mtp)
    : layers_(spec.layers), with_mtp_(with_mtp), tied_head_(spec.tied_head) {
    const Family* family = find_family(spec.family);
    FUCINA_CHECK(family, "family ", spec.family);
    entries_ = family->weights(spec, with_mtp);
}

const WeightEntry* WeightMap::find(std::string_view parameter) const {
    for (const WeightEntry& entry : entries_)
        if (entry.parameter == parameter) return &entry;
    return nullptr;
}

bool WeightMap::ignorable(std::string_view tensor) const {
    if (tensor.ends_with("rotary_emb.inv_freq")) return true;
    if (tied_head_ && tensor == "lm_head.weight") return true;
    constexpr std::string_view kLayers = "model.layers.";
    if (!tensor.starts_with(kLayers)) return false;
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
