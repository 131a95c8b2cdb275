#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/model.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"
#include "trainer/weights.h"

namespace fucina {

ModelSpec saved_spec(const Manifest& manifest, const std::filesystem::path& dir) {
    const std::string name = (dir / kManifestName).string() + ": model_config";
    return ModelSpec::from_config(parse_json(manifest.model_config(), name, ExitCode::data), name);
}

void load_weights(const std::filesystem::path& dir, Model& model) {
    const Manifest manifest = read_manifest(dir);
    const bool with_mtp =
        std::any_of(manifest.tensors().begin(), manifest.tensors().end(),
                    [](const SavedTensor& tensor) { return tensor.name() == "mtp.join"; });
    std::vector<NamedTensor> tensors;
    for (Parameter* parameter : model.parameters()) {
        if (!with_mtp && parameter->name.starts_with("mtp.")) continue;
        tensors.push_back(named("weight", *parameter, parameter->master(), parameter->master_box(),
                                parameter->shard.defined()));
    }
    load_tensors(dir, manifest, tensors);
    for (const NamedTensor& weight : tensors) {
        const HostValues<float> values(weight.exec, weight.tensor);
        check_finite(concat(dir.string(), ": ", weight.kind, " ", weight.name),
                     weight.tensor.shape(), 0, values.span());
    }
}

}  // namespace fucina
