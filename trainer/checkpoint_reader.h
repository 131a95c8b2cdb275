// CheckpointReader: any part of any tensor of a checkpoint, whoever wrote it under whatever layout,
// in memory that does not grow with the model. For tools; training loads by load_tensors.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "configs/manifest.pb.h"
#include "data/file.h"
#include "parallel/layout.h"

namespace fucina {

class CheckpointReader {
  public:
    // A checkpoint directory. Fails as read_manifest does.
    explicit CheckpointReader(std::filesystem::path dir);

    const std::filesystem::path& dir() const { return dir_; }
    const Manifest& manifest() const { return manifest_; }
    const SavedTensor* find(const std::string& kind, const std::string& name) const;  // or null
    const SavedTensor& at(const std::string& kind, const std::string& name) const;    // exit 3

    // Compares the checksums of all of a tensor's boxes; DamagedFile names the first that differs.
    void check(const SavedTensor& tensor) const;
    void check(const SavedTensor& tensor, const SavedBox& box) const;
    // The elements of `box`, row-major, in the dtype saved. Not checked: see check().
    void read(const SavedTensor& tensor, const Box& box, std::span<std::byte> into) const;
    // The same as fp32.
    void read(const SavedTensor& tensor, const Box& box, std::span<float> into) const;

  private:
    std::filesystem::path dir_;
    Manifest manifest_;
    std::vector<InputFile> files_;
    std::map<std::pair<std::string, std::string>, const SavedTensor*> by_name_;
};

std::vector<int64_t> shape_of(const SavedTensor& tensor);

// body(box, first) for boxes that make up elements [first, first + count) of a row-major tensor in
// their order, each of at most `most` elements, or one row. The range begins and ends with whole
// rows of the last dimension.
void for_each_box(std::span<const int64_t> shape, int64_t first, int64_t count, int64_t most,
                  const std::function<void(const Box& box, int64_t first)>& body);

}  // namespace fucina
