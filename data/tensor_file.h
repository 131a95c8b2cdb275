// Named tensors in safetensors files (github.com/huggingface/safetensors): a file, or a Hugging
// Face directory. Any bytes are survived: what breaks the format's rules fails with exit 3, naming
// the file and the tensor.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/file.h"
#include "kernels/dtype.h"

namespace fucina {

struct TensorInfo {
    std::string name;
    DType dtype = DType::f32;
    std::string foreign;         // the dtype's name where it is none of ours: not for reading
    std::vector<int64_t> shape;  // outermost first; empty for a scalar
    int file = 0;                // index into TensorFile::files()
    int64_t offset = 0;          // bytes, from the start of the file
    int64_t nbytes = 0;
};

// The tensors of one file, or of a directory with model.safetensors, or else with
// model.safetensors.index.json and its shards. What an index promises and no shard holds, or
// one that is missing or broken, is missed only by who asks for it. Reads are pread at known
// offsets, so threads may share one TensorFile.
class TensorFile {
  public:
    explicit TensorFile(const std::filesystem::path& path);

    const std::vector<TensorInfo>& tensors() const { return tensors_; }  // sorted by name
    const TensorInfo* find(std::string_view name) const;                 // null when absent
    const TensorInfo& at(std::string_view name) const;  // fails (exit 3) when absent
    // What a message says of a tensor that find() has not: "FILE: missing; INDEX names it for ...".
    std::string why_missing(std::string_view name) const;
    const std::string& note() const { return note_; }  // where two sources disagree, what was read
    const std::filesystem::path& path() const { return path_; }
    const std::filesystem::path& file_of(const TensorInfo& tensor) const;

    // All of a tensor; `into` is exactly nbytes long. Row-major, little-endian, in the file's
    // dtype.
    void read(const TensorInfo& tensor, std::span<std::byte> into) const;
    // Elements from number `first` of the row-major tensor on, as many as fill `into`.
    void read_elements(const TensorInfo& tensor, int64_t first, std::span<std::byte> into) const;

  private:
    void add_file(const std::filesystem::path& path);
    void add_shards(const std::filesystem::path& index);
    void note_other_shards(const std::filesystem::path& index);

    std::filesystem::path path_;
    std::vector<InputFile> files_;
    std::vector<TensorInfo> tensors_;
    std::map<std::string, std::string, std::less<>> promised_;  // by the index: tensor -> shard
    std::map<std::string, std::string> unreadable_;             // shard -> why
    std::string note_;
};

// What will be written: the data follows in the same order.
struct TensorSpec {
    std::string name;
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
};

// Writes one safetensors file, streaming; it appears under its name at commit() only.
class TensorFileWriter {
  public:
    TensorFileWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                     const std::map<std::string, std::string>& metadata = {});

    // The next bytes of the data, tensor after tensor in the order of the specs, in any portions.
    void append(std::span<const std::byte> bytes);
    // The next values, stored as the current tensor's dtype (f32, or bf16 by rounding); must not
    // cross its end.
    void append(std::span<const float> values);
    void commit();

  private:
    OutputFile file_;
    std::vector<TensorSpec> tensors_;
    std::vector<int64_t> ends_;  // file offset where each tensor ends
};

// Elements of a shape. The shape is one that a TensorFile has accepted, or our own.
int64_t element_count(std::span<const int64_t> shape);

}  // namespace fucina
