// The families that Fucina knows: for each config.json model_type, how its keys become a ModelSpec
// and how its tensors are called. docs/add-a-family.md says what a new one needs.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string_view>

#include "model/config_reader.h"
#include "model/model_spec.h"
#include "model/weight_map.h"

namespace fucina {

struct Family {
    std::string_view model_type;
    ModelSpec (*read_config)(const ConfigReader& config);
    nlohmann::json (*write_config)(const ModelSpec& spec);
    std::vector<WeightEntry> (*weights)(const ModelSpec& spec, bool with_mtp);
};

std::span<const Family> families();
const Family* find_family(std::string_view model_type);  // null when unknown

namespace deepseek_v3 {
ModelSpec read_config(const ConfigReader& config);
nlohmann::json write_config(const ModelSpec& spec);
std::vector<WeightEntry> weights(const ModelSpec& spec, bool with_mtp);
}  // namespace deepseek_v3

}  // namespace fucina
