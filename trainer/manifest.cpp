#include "trainer/manifest.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <set>

#include "data/file.h"
#include "kernels/error.h"
#include "kernels/tensor.h"

namespace fucina {
namespace {

constexpr std::string_view kMagic = "FUCINACK";
constexpr uint32_t kVersion = 2;
constexpr size_t kHeader = 8 + 4 + 8, kHash = 16;
constexpr int64_t kLargest = int64_t{256} << 20;  // bytes of a manifest
constexpr int kMostBoxes = 1 << 20;               // of a tensor
constexpr size_t kMostBeside = 1024;              // that reach over the same index of dimension 0
constexpr int64_t kMostSteps = int64_t{1} << 40;  // the recipe's train.steps is less
constexpr int64_t kMostSamples = int64_t{1} << 62;

struct Hash {
    uint64_t low, high;
};

Hash hash_of(std::string_view bytes) {
    const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    return {hash.low64, hash.high64};
}

template <class T>
void append(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T read_at(std::string_view bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

// Elements of a shape, or -1 where a dimension is negative or the product exceeds 2^60.
int64_t elements_of(const google::protobuf::RepeatedField<int64_t>& shape) {
    __int128 product = 1;
    for (int64_t dim : shape) {
        if (dim < 0) return -1;
        product *= dim;
        if (product > (int64_t{1} << 60)) return -1;
    }
    return static_cast<int64_t>(product);
}

bool overlap(const SavedBox& a, const SavedBox& b) {
    for (int d = 0; d < a.offset_size(); ++d) {
        if (a.offset(d) + a.extent(d) <= b.offset(d) || b.offset(d) + b.extent(d) <= a.offset(d)) {
            return false;
        }
    }
    return true;
}

void check_box(const Manifest& manifest, const SavedTensor& tensor, const SavedBox& box,
               const std::string& where) {
    const int rank = tensor.shape_size();
    if (box.offset_size() != rank || box.extent_size() != rank) {
        fail(ExitCode::data, where, ": a box of ", box.offset_size(), " dimensions in a tensor of ",
             rank);
    }
    for (int d = 0; d < rank; ++d) {
        if (box.offset(d) < 0 || box.extent(d) < 1 || box.extent(d) > tensor.shape(d) ||
            box.offset(d) > tensor.shape(d) - box.extent(d)) {
            fail(ExitCode::data, where, ": a box begins at ", box.offset(d), " with ",
                 box.extent(d), " of the ", tensor.shape(d), " elements of dimension ", d);
        }
    }
    if (box.file() >= static_cast<uint32_t>(manifest.files_size())) {
        fail(ExitCode::data, where, ": a box in file ", box.file(), ", of ", manifest.files_size());
    }
    const int64_t expected = elements_of(box.extent()) * size_of(saved_dtype(tensor));
    const int64_t size = manifest.files(static_cast<int>(box.file())).size();
    if (box.nbytes() != expected) {
        fail(ExitCode::data, where, ": a box of ", box.nbytes(), " bytes where its shape has ",
             expected);
    }
    if (box.byte_offset() < 0 || box.nbytes() > size || box.byte_offset() > size - box.nbytes()) {
        fail(ExitCode::data, where, ": a box ends at byte ", box.byte_offset(), "+", box.nbytes(),
             " of a file of ", size);
    }
}

// Boxes in the order in which they begin along dimension 0, each against those that reach so far.
void check_disjoint(const SavedTensor& tensor, const std::string& where) {
    const auto first = [&](int i) {
        return tensor.boxes(i).offset_size() == 0 ? 0 : tensor.boxes(i).offset(0);
    };
    const auto end = [&](int i) {
        return first(i) + (tensor.boxes(i).extent_size() == 0 ? 1 : tensor.boxes(i).extent(0));
    };
    std::vector<int> order(static_cast<size_t>(tensor.boxes_size())), open;
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, {}, first);
    for (const int next : order) {
        std::erase_if(open, [&](int i) { return end(i) <= first(next); });
        if (open.size() == kMostBeside)  // each is compared with each
            fail(ExitCode::data, where, ": more than ", kMostBeside, " boxes side by side");
        for (const int i : open) {
            if (overlap(tensor.boxes(i), tensor.boxes(next)))
                fail(ExitCode::data, where, ": boxes ", std::min(i, next), " and ",
                     std::max(i, next), " overlap");
        }
        open.push_back(next);
    }
}

void check_tensor(const Manifest& manifest, const SavedTensor& tensor, const std::string& path) {
    const std::string where = concat(path, ": ", tensor.kind(), " ", printable(tensor.name()));
    if (tensor.kind() != "weight" && tensor.kind() != "m" && tensor.kind() != "v") {
        fail(ExitCode::data, path, ": tensor of unknown kind ", printable(tensor.kind()),
             "; expected weight, m or v");
    }
    if (tensor.dtype() != "F32" && tensor.dtype() != "BF16") {
        fail(ExitCode::data, where, ": dtype ", printable(tensor.dtype()),
             "; expected F32 or BF16");
    }
    const int64_t elements = elements_of(tensor.shape());
    if (elements < 0 || tensor.shape_size() > Tensor::kMaxRank) {
        fail(ExitCode::data, where, ": impossible shape of ", tensor.shape_size(), " dimensions");
    }
    if (tensor.boxes_size() > kMostBoxes) {
        fail(ExitCode::data, where, ": ", tensor.boxes_size(), " boxes; at most ", kMostBoxes);
    }
    for (const SavedBox& box : tensor.boxes()) check_box(manifest, tensor, box, where);
    check_disjoint(tensor, where);
    int64_t covered = 0;  // no more than the tensor has, as they are disjoint
    for (const SavedBox& box : tensor.boxes()) covered += elements_of(box.extent());
    if (covered != elements) {
        fail(ExitCode::data, where, ": boxes cover ", covered, " of ", elements, " elements");
    }
}

void check_files(const Manifest& manifest, const std::string& path) {
    for (int f = 0; f < manifest.files_size(); ++f) {
        const std::string expected = shard_name(f, manifest.files_size());
        if (manifest.files(f).name() != expected) {
            fail(ExitCode::data, path, ": file ", f, " is named ",
                 printable(manifest.files(f).name()), ", expected ", expected);
        }
        if (manifest.files(f).size() < 0) {
            fail(ExitCode::data, path, ": ", expected, " of ", manifest.files(f).size(), " bytes");
        }
    }
    struct Extent {
        uint32_t file;
        int64_t begin, end;
        auto operator<=>(const Extent&) const = default;
    };
    std::vector<Extent> extents;
    for (const SavedTensor& tensor : manifest.tensors()) {
        for (const SavedBox& box : tensor.boxes()) {
            extents.push_back({box.file(), box.byte_offset(), box.byte_offset() + box.nbytes()});
        }
    }
    std::sort(extents.begin(), extents.end());
    for (size_t i = 1; i < extents.size(); ++i) {
        if (extents[i].file == extents[i - 1].file && extents[i].begin < extents[i - 1].end) {
            fail(ExitCode::data, path, ": two boxes share byte ", extents[i].begin, " of ",
                 manifest.files(static_cast<int>(extents[i].file)).name());
        }
    }
}

// A file that is gone is damage; one that cannot be looked at is not.
int64_t size_of_file(const std::filesystem::path& path) {
    struct stat status;
    if (lstat(path.c_str(), &status) != 0) {
        if (errno == ENOENT) fail_damaged(path.string(), ": is missing");
        fail(read_failure(errno), path.string(), ": ", std::strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) fail(ExitCode::data, path.string(), ": not a regular file");
    return status.st_size;
}

}  // namespace

std::string shard_name(int shard, int shards) {
    return fmt::format("shard-{:05d}-of-{:05d}.h5", shard, shards);
}

std::string content_hash(std::string_view bytes) {
    const Hash hash = hash_of(bytes);
    return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

DType saved_dtype(const SavedTensor& tensor) {
    return tensor.dtype() == "BF16" ? DType::bf16 : DType::f32;
}

std::string frame_manifest(const Manifest& manifest) {
    const std::string body = manifest.SerializeAsString();
    std::string out(kMagic);
    append(out, kVersion);
    append(out, static_cast<uint64_t>(body.size()));
    out += body;
    const Hash hash = hash_of(out);
    append(out, hash.low);
    append(out, hash.high);
    return out;
}

void write_manifest(const Manifest& manifest, const std::filesystem::path& dir,
                    const std::function<void()>& before_name) {
    OutputFile file(dir / kManifestName);
    const std::string bytes = frame_manifest(manifest);
    file.append(std::as_bytes(std::span(bytes)));
    if (before_name) before_name();
    file.commit();
}

Manifest parse_manifest(std::string_view bytes, const std::string& path) {
    if (bytes.size() < kHeader + kHash || bytes.substr(0, kMagic.size()) != kMagic) {
        fail_damaged(path, ": not a manifest of a checkpoint (", bytes.size(), " bytes)");
    }
    const auto length = read_at<uint64_t>(bytes, 12);
    if (length != bytes.size() - kHeader - kHash) {
        fail_damaged(path, ": says ", length, " bytes, holds ", bytes.size() - kHeader - kHash);
    }
    const Hash hash = hash_of(bytes.substr(0, kHeader + length));
    if (read_at<uint64_t>(bytes, kHeader + length) != hash.low ||
        read_at<uint64_t>(bytes, kHeader + length + 8) != hash.high) {
        fail_damaged(path, ": checksum differs: the manifest is damaged");
    }
    const auto version = read_at<uint32_t>(bytes, 8);
    if (version != kVersion) {
        fail(ExitCode::data, path, ": format version ", version, "; this program reads ", kVersion);
    }
    Manifest manifest;
    if (!manifest.ParseFromArray(bytes.data() + kHeader, static_cast<int>(length))) {
        fail_damaged(path, ": not a manifest of this format version");
    }
    check_manifest(manifest, path);
    return manifest;
}

void check_manifest(const Manifest& manifest, const std::string& path) {
    if (manifest.step() < 0 || manifest.updates() < 0 || manifest.updates() > manifest.step() ||
        manifest.step() > kMostSteps || manifest.next_sample() < 0 ||
        manifest.next_sample() > kMostSamples) {
        fail(ExitCode::data, path, ": step ", manifest.step(), ", updates ", manifest.updates(),
             ", next sample ", manifest.next_sample(), " do not fit together");
    }
    std::set<std::pair<std::string, std::string>> names;
    for (const SavedTensor& tensor : manifest.tensors()) {
        check_tensor(manifest, tensor, path);
        if (!names.emplace(tensor.kind(), tensor.name()).second) {
            fail(ExitCode::data, path, ": ", tensor.kind(), " ", printable(tensor.name()),
                 " stands twice");
        }
    }
    check_files(manifest, path);
}

Box box_in(const SavedBox& saved) {
    return {{saved.offset().begin(), saved.offset().end()},
            {saved.extent().begin(), saved.extent().end()}};
}

void check_box_hash(const std::filesystem::path& file, const SavedTensor& tensor,
                    const SavedBox& box, uint64_t xxh3) {
    if (xxh3 == box.xxh3()) return;
    fail_damaged(file.string(), ": checksum of ", tensor.kind(), " ", tensor.name(),
                 " differs at byte ", box.byte_offset(), ": the file is damaged");
}

Manifest read_manifest(const std::filesystem::path& dir) {
    const std::filesystem::path path = dir / kManifestName;
    size_of_file(path);
    Manifest manifest = parse_manifest(read_text_file(path, kLargest), path.string());
    for (const SavedFile& file : manifest.files()) {
        const std::filesystem::path shard = dir / file.name();
        if (const int64_t size = size_of_file(shard); size != file.size()) {
            fail_damaged(shard.string(), ": ", size, " bytes, the manifest says ", file.size());
        }
    }
    return manifest;
}

}  // namespace fucina
