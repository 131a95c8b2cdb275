#include "model/model.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"

namespace fucina {

void load_weights(const std::filesystem::path& dir, Model& model) {
    std::vector<NamedTensor> tensors;
    for (Parameter* parameter : model.parameters()) {
        tensors.push_back({"weight", parameter->name, parameter->value});
    }
    load_tensors(dir, read_manifest(dir), tensors);
}

}  // namespace fucina
