// The manifest of a checkpoint: the protobuf inside, framed here so that its checksum is right, and
// the same bytes as a whole file.
#include "tests/fuzz/fuzz.h"
#include "trainer/manifest.h"

#include <xxhash.h>

namespace fucina {
namespace {

std::string framed(std::string_view body) {
    std::string out = frame_manifest({}).substr(0, 12);  // magic and version
    const auto append = [&](uint64_t value) {
        out.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    append(body.size());
    out += body;
    const XXH128_hash_t hash = XXH3_128bits(out.data(), out.size());
    append(hash.low64);
    append(hash.high64);
    return out;
}

void check_accepted(const Manifest& manifest) {
    for (const SavedFile& file : manifest.files()) {
        HOLDS(std::filesystem::path(file.name()).filename() == file.name());
        HOLDS(file.name().starts_with("shard-") && file.name().ends_with(".h5"));
    }
    for (const SavedTensor& tensor : manifest.tensors()) {
        int64_t elements = 0;
        for (const SavedBox& saved : tensor.boxes()) {
            const Box box = box_in(saved);
            HOLDS(box.size() * size_of(saved_dtype(tensor)) == saved.nbytes());
            const SavedFile& file = manifest.files(static_cast<int>(saved.file()));
            HOLDS(saved.byte_offset() >= 0 && saved.nbytes() >= 0 &&
                  saved.byte_offset() <= file.size() - saved.nbytes());
            for (size_t d = 0; d < box.offset.size(); ++d)
                HOLDS(box.offset[d] + box.extent[d] <= tensor.shape(static_cast<int>(d)));
            elements += box.size();
            for (const SavedBox& other : tensor.boxes())
                HOLDS(&other == &saved || !intersection(box, box_in(other)));
        }
        HOLDS(elements ==
              whole_box(std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())).size());
    }
    const std::string bytes = frame_manifest(manifest);
    HOLDS(frame_manifest(parse_manifest(bytes, "again")) == bytes);
}

}  // namespace
}  // namespace fucina

FUZZ(input) {
    using namespace fucina;
    fuzz::accepts([&] { parse_manifest(input, "MANIFEST.pb"); });
    Manifest manifest;
    if (fuzz::accepts([&] { manifest = parse_manifest(framed(input), "MANIFEST.pb"); }))
        check_accepted(manifest);
}
