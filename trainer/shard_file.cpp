#include "trainer/shard_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "data/child.h"
#include "data/file.h"
#include "data/hdf5_handle.h"
#include "data/streaming_hash.h"
#include "kernels/error.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAlignment = 4096;
constexpr int64_t kPiece = int64_t{8} << 20;

// The 16 high bits of an IEEE float: 1 sign, 8 exponent, 7 mantissa bits.
hid_t bfloat16_type() {
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(type, 15, 7, 8, 0, 7);
    H5Tset_precision(type, 16);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 127);
    return type;
}

Hdf5Handle file_type(DType dtype) {
    const bool half = dtype == DType::bf16;
    return Hdf5Handle(half ? bfloat16_type() : H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
}

[[noreturn]] void fail_hdf5(const fs::path& path, const char* what) {
    fail(ExitCode::storage, path.string(), ": HDF5 could not ", what);
}

void make_dataset(hid_t file, ShardDataset& dataset, const fs::path& path) {
    const std::vector<hsize_t> dims(dataset.shape.begin(), dataset.shape.end());
    const Hdf5Handle space(
        dims.empty() ? H5Screate(H5S_SCALAR)
                     : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
        H5Sclose);
    const Hdf5Handle create = without_times(H5P_DATASET_CREATE);
    H5Pset_layout(create, H5D_CONTIGUOUS);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    const Hdf5Handle type = file_type(dataset.dtype);
    const Hdf5Handle made(
        H5Dcreate2(file, dataset.path.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT),
        H5Dclose);
    if (!made) fail_hdf5(path, "make a dataset");
    const haddr_t offset = H5Dget_offset(made);
    if (offset == HADDR_UNDEF) fail_hdf5(path, "place a dataset");
    dataset.byte_offset = static_cast<int64_t>(offset);
}

// The group of "/weight/NAME" is "/weight".
void make_groups(hid_t file, std::span<const ShardDataset> datasets, const fs::path& path) {
    const Hdf5Handle untimed = without_times(H5P_GROUP_CREATE);
    std::set<std::string> groups;
    for (const ShardDataset& dataset : datasets) {
        groups.insert(dataset.path.substr(0, dataset.path.find('/', 1)));
    }
    for (const std::string& group : groups) {
        const Hdf5Handle made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, untimed, H5P_DEFAULT),
                              H5Gclose);
        if (!made) fail_hdf5(path, "make a group");
    }
}

void make_skeleton(const fs::path& path, std::span<ShardDataset> datasets) {
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_alignment(access, kAlignment, kAlignment);
    const Hdf5Handle untimed = without_times(H5P_FILE_CREATE);
    Hdf5Handle file(H5Fcreate(path.c_str(), H5F_ACC_EXCL, untimed, access), H5Fclose);
    if (!file) fail_hdf5(path, "create the file");
    make_groups(file, datasets, path);
    for (ShardDataset& dataset : datasets) make_dataset(file, dataset, path);
    if (!file.reset()) fail_hdf5(path, "close the file");
}

struct Extent {
    int64_t offset, nbytes;
};

// Of a file's bytes outside `boxes`.
uint64_t hash_outside(const InputFile& file, std::vector<Extent> boxes) {
    std::ranges::sort(boxes, {}, &Extent::offset);
    boxes.push_back({file.size(), 0});
    StreamingHash hash;
    std::vector<std::byte> piece;
    int64_t at = 0;
    for (const Extent& box : boxes) {
        while (at < box.offset) {
            piece.resize(static_cast<size_t>(std::min(kPiece, box.offset - at)));
            file.read(at, piece);
            hash.add(piece);
            at += std::ssize(piece);
        }
        at = box.offset + box.nbytes;
    }
    return hash.value();
}

}  // namespace

int64_t lay_out_shard(const fs::path& path, std::span<ShardDataset> datasets) {
    quiet_hdf5();
    make_skeleton(path, datasets);
    return InputFile(path).size();
}

FileDescriptor open_shard(const fs::path& path) {
    FileDescriptor file = create_file(path, O_RDWR | O_NOFOLLOW, path);
    const off_t size = lseek(file.get(), 0, SEEK_END);
    const int room = posix_fallocate(file.get(), 0, std::max<off_t>(size, 1));
    if (room != 0 && room != EOPNOTSUPP && room != EINVAL) {
        fail(ExitCode::storage, path.string(), ": ", std::strerror(room));
    }
    return file;
}

uint64_t frame_hash(const fs::path& path, std::span<const ShardDataset> datasets) {
    std::vector<Extent> boxes;
    for (const ShardDataset& dataset : datasets)
        boxes.push_back({dataset.byte_offset, dataset.nbytes});
    return hash_outside(InputFile(path), std::move(boxes));
}

uint64_t frame_hash(const InputFile& file, const Manifest& manifest, int number) {
    std::vector<Extent> boxes;
    for (const SavedTensor& tensor : manifest.tensors())
        for (const SavedBox& box : tensor.boxes())
            if (box.file() == static_cast<uint32_t>(number))
                boxes.push_back({box.byte_offset(), box.nbytes()});
    return hash_outside(file, std::move(boxes));
}

namespace {

void cross_check(const fs::path& dir, const Manifest& manifest, int file) {
    const fs::path path = dir / manifest.files(file).name();
    const Hdf5Handle opened(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
    if (!opened) fail(ExitCode::data, path.string(), ": HDF5 cannot open it");
    for (const SavedTensor& tensor : manifest.tensors()) {
        for (const SavedBox& box : tensor.boxes()) {
            if (box.file() != static_cast<uint32_t>(file)) continue;
            const std::string where = concat(path.string(), ": ", box.dataset());
            const Hdf5Handle dataset(H5Dopen2(opened, box.dataset().c_str(), H5P_DEFAULT),
                                     H5Dclose);
            if (!dataset) fail(ExitCode::data, where, ": HDF5 finds no such dataset");
            const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
            const int rank = H5Sget_simple_extent_ndims(space);
            std::vector<hsize_t> dims(static_cast<size_t>(std::max(rank, 0)));
            H5Sget_simple_extent_dims(space, dims.data(), nullptr);
            if (!std::equal(dims.begin(), dims.end(), box.extent().begin(), box.extent().end())) {
                fail(ExitCode::data, where, ": HDF5 sees another shape than the manifest");
            }
            const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
            const Hdf5Handle expected = file_type(saved_dtype(tensor));
            if (H5Tequal(type, expected) <= 0) {
                fail(ExitCode::data, where, ": HDF5 sees another type than ", tensor.dtype());
            }
            const haddr_t offset = H5Dget_offset(dataset);
            if (offset != static_cast<haddr_t>(box.byte_offset())) {
                fail(ExitCode::data, where, ": HDF5 places it at byte ", offset,
                     ", the manifest at ", box.byte_offset());
            }
        }
    }
}

}  // namespace

void cross_check_shard(const fs::path& dir, const Manifest& manifest, int file) {
    quiet_hdf5();
    in_child((dir / manifest.files(file).name()).string(), [&] {
        cross_check(dir, manifest, file);
        return std::string();
    });
}

}  // namespace fucina
