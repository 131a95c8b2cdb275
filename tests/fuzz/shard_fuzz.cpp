// A shard of a checkpoint as `checkpoint verify` opens it, against the manifest of the seed
// `valid`.
#include "tests/fuzz/fuzz.h"
#include "trainer/shard_file.h"

namespace fucina {
namespace {

// What make_seeds.py writes.
Manifest seed_manifest(int64_t size) {
    Manifest manifest;
    SavedFile* file = manifest.add_files();
    file->set_name("shard-00000-of-00001.h5");
    file->set_size(size);
    for (const auto& [name, offset] : {std::pair("a", 2048), {"b@2", 2072}}) {
        SavedTensor* tensor = manifest.add_tensors();
        tensor->set_kind("weight");
        tensor->set_name(name);
        tensor->set_dtype("F32");
        SavedBox* box = tensor->add_boxes();
        for (const int64_t extent : {2, 3}) {
            box->add_offset(0);
            box->add_extent(extent);
        }
        box->set_byte_offset(offset);
        box->set_nbytes(24);
        box->set_dataset(std::string("/weight/") + name);
    }
    return manifest;
}

}  // namespace
}  // namespace fucina

FUZZ(input) {
    using namespace fucina;
    const auto path = fuzz::file_of(input, "shard-00000-of-00001.h5");
    const Manifest manifest = seed_manifest(std::ssize(input));
    fuzz::accepts_in_child([&] {
        const InputFile file(path);
        if (file.size() >= 2096) frame_hash(file, manifest, 0);
        cross_check_shard(path.parent_path(), manifest, 0);
        HOLDS(file.size() >= 2096);
    });
}
