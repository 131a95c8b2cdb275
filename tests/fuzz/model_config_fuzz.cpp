// A config.json, to a ModelSpec and back.
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/families.h"
#include "model/model_spec.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
    using namespace fucina;
    ModelSpec spec;
    const bool accepted = fuzz::accepts([&] {
        spec =
            ModelSpec::from_config(parse_json(input, "config.json", ExitCode::data), "config.json");
    });
    if (!accepted) return;
    HOLDS(spec.hidden_size > 0 && spec.vocab_size > 0 && spec.layers > 0);
    HOLDS(spec.dense_layers >= 0 && spec.moe_layers() <= spec.layers);
    const nlohmann::json config = spec.to_config();
    HOLDS(ModelSpec::from_config(config, "again").to_config() == config);
}
