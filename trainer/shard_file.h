// One HDF5 file of a checkpoint: plain contiguous datasets that any HDF5 program opens. HDF5 lays
// out the file; the bytes themselves are written, and read back, at their offsets.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "configs/manifest.pb.h"
#include "data/file.h"
#include "kernels/dtype.h"

namespace fucina {

struct ShardDataset {
    std::string path;  // in the file: "/weight/layers.0.norm"
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    const std::byte* data = nullptr;
    int64_t nbytes = 0;
    int64_t byte_offset = 0;  // filled in by lay_out_shard
    uint64_t xxh3 = 0;        // of the bytes, filled in by who writes them
};

// Creates a file of HDF5's structures alone and fills in byte_offset; returns its size. The same
// datasets make the same bytes.
int64_t lay_out_shard(const std::filesystem::path& path, std::span<ShardDataset> datasets);
// Opens it for write_at, and asks for room for all of it where the file system can say.
FileDescriptor open_shard(const std::filesystem::path& path);
// SavedFile's frame_xxh3: of the bytes that no dataset has.
uint64_t frame_hash(const std::filesystem::path& path, std::span<const ShardDataset> datasets);

// The same of a manifest's shard.
uint64_t frame_hash(const InputFile& file, const Manifest& manifest, int number);

// Opens every dataset of a shard with libhdf5, in a child process that a hostile file may crash,
// and compares shape, type and offset with the manifest; fails with exit 3 at the first difference.
void cross_check_shard(const std::filesystem::path& dir, const Manifest& manifest, int file);

}  // namespace fucina
