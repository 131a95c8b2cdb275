#include "model/model_spec.h"

#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "kernels/k_cut.h"
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

bool ModelSpec::chunks_divide(int64_t chunks, bool fp8) const {
    const int64_t dense = dense_layers > 0 ? dense_width : 0;
    const int64_t heads = attention.heads, kv = attention.nope_dim + attention.v_dim;
    for (const int64_t width :
         {heads * attention.qk_dim(), heads * kv, heads * attention.v_dim, dense, moe.shared_width})
        if (fp8 && chunks > 1 && width % (chunks * kFp8Products) != 0) return false;
    return chunks == 1 ||
           (attention.q_lora_rank > 0 && attention.heads % chunks == 0 &&
            vocab_size % chunks == 0 && dense % chunks == 0 && moe.shared_width % chunks == 0);
}

int64_t ModelSpec::most_chunks(bool fp8) const {
    for (int64_t chunks = kMostChunks; chunks > 1; chunks /= 2)
        if (chunks_divide(chunks, fp8)) return chunks;
    return 1;
}

nlohmann::json ModelSpec::to_config() const {
    const Family* known = find_family(family);
    FUCINA_CHECK(known, "family ", family);
    return known->write_config(*this);
}

}  // namespace fucina
