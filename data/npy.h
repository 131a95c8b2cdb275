// NumPy's .npy files, version 1.0, fp32, row-major; numpy.load opens them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/file.h"

namespace fucina {

// Streams an array of the given shape; the file appears under its name at commit() only.
class NpyWriter {
  public:
    NpyWriter(const std::filesystem::path& path, std::span<const int64_t> shape);
    void append(std::span<const float> values);  // row-major, in any portions
    void commit();

  private:
    OutputFile file_;
    int64_t end_ = 0;  // bytes of the complete file
};

void write_npy(const std::filesystem::path& path, std::span<const int64_t> shape,
               std::span<const float> values);

}  // namespace fucina
