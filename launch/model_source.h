// ModelSource: MODEL on a command line, whatever kind of directory it is.
#pragma once
#include <filesystem>

#include "model/model.h"

namespace fucina {

class ModelSource {
  public:
    // Fails (exit 3) when the directory holds no model.
    explicit ModelSource(const std::filesystem::path& directory);

    const ModelSpec& spec() const { return spec_; }
    Model load(const ModelOptions& options) const;

  private:
    std::filesystem::path directory_;
    ModelSpec spec_;
};

}  // namespace fucina
