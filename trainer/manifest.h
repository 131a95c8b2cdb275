// The manifest of a checkpoint: framing, and the rules that make it trustworthy. What
// parse_manifest returns has passed them all: file names are plain, boxes lie inside their files
// and tile every tensor exactly once.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "configs/manifest.pb.h"
#include "kernels/dtype.h"
#include "parallel/layout.h"

namespace fucina {

constexpr const char* kManifestName = "MANIFEST.pb";

// magic "FUCINACK" | version u32 | length u64 | protobuf | xxh3_128 of all before (low, high u64);
// little-endian.
std::string frame_manifest(const Manifest& manifest);

// Writes dir/MANIFEST.pb and gives it its name when it is on disk, and with it the names of all
// files in dir. before_name: called when only that is left.
void write_manifest(const Manifest& manifest, const std::filesystem::path& dir,
                    const std::function<void()>& before_name = {});

// Survives any bytes; fails with exit 3, naming `path` and both values: DamagedFile where the bytes
// are not those that were written, another Error where they are and break the rules.
Manifest parse_manifest(std::string_view bytes, const std::string& path);

// dir/MANIFEST.pb, parsed; and every shard is a regular file of the size it says: DamagedFile if
// one is missing or has another size.
Manifest read_manifest(const std::filesystem::path& dir);

// The rules alone, as at save and at load.
void check_manifest(const Manifest& manifest, const std::string& path);

// shard-00002-of-00004.h5
std::string shard_name(int shard, int shards);

// Hexadecimal XXH3 128 of the bytes.
std::string content_hash(std::string_view bytes);

DType saved_dtype(const SavedTensor& tensor);
Box box_in(const SavedBox& saved);

// DamagedFile, naming tensor and byte, unless xxh3, of the box's bytes in `file`, is what it was.
void check_box_hash(const std::filesystem::path& file, const SavedTensor& tensor,
                    const SavedBox& box, uint64_t xxh3);

}  // namespace fucina
