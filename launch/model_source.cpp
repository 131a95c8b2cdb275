#include "launch/model_source.h"

#include "kernels/error.h"
#include "trainer/weights.h"

namespace fucina {

ModelSource::ModelSource(const std::filesystem::path& directory) : directory_(directory) {
    if (!std::filesystem::is_directory(directory))
        fail(ExitCode::data, directory.string(),
             ": no such directory; expected a run, checkpoint or "
             "Hugging Face directory");
    spec_ = read_model_spec(directory);
}

Model ModelSource::load(const ModelOptions& options) const {
    Model model(spec_, options);
    load_weights(model, TensorFile(directory_));
    return model;
}

}  // namespace fucina
