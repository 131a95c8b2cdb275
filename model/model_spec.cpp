#include "model/model_spec.h"

#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "model/families.h"

namespace fucina {

ModelSpec ModelSpec::from_config(const nlohmann::json& config, const std::string& source_name) {
    const ConfigReader reader(config, source_name);
    const std::string model_type =
        reader.is_null("model_type") ? "" : reader.text("model_type", "");
    const Family* family = find_family(model_type);
    if (!family) {
        std::string known;
        for (const Family& one : families())
            known += (known.empty() ? "" : ", ") + std::string(one.model_type);
        if (model_type.empty())
            fail(ExitCode::usage, reader.where("model_type"),
                 " is missing; known families: ", known);
        fail(ExitCode::usage, reader.where("model_type"), " is \"", model_type,
             "\", which Fucina does not know; known families: ", known);
    }
    ModelSpec spec = family->read_config(reader);
    spec.family = model_type;
    return spec;
}

nlohmann::json ModelSpec::to_config() const {
    const Family* known = find_family(family);
    FUCINA_CHECK(known, "family ", family);
    return known->write_config(*this);
}

}  // namespace fucina
