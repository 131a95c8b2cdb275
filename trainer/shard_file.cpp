#include "trainer/shard_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "data/hdf5_handle.h"
#include "kernels/error.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

constexpr int64_t kAlignment = 4096;
constexpr int64_t kPiece = int64_t{8} << 20;  // written and hashed while in cache

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

[[noreturn]] void fail_hdf5(const std::filesystem::path& path, const char* what) {
    fail(ExitCode::storage, path.string(), ": HDF5 could not ", what);
}

void make_dataset(hid_t file, ShardDataset& dataset, const std::filesystem::path& path) {
    const std::vector<hsize_t> dims(dataset.shape.begin(), dataset.shape.end());
    const Hdf5Handle space(
        dims.empty() ? H5Screate(H5S_SCALAR)
                     : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
        H5Sclose);
    const Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_layout(create, H5D_CONTIGUOUS);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(create, false);
    const Hdf5Handle link(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(link, 1);
    const Hdf5Handle type = file_type(dataset.dtype);
    const Hdf5Handle made(
        H5Dcreate2(file, dataset.path.c_str(), type, space, link, create, H5P_DEFAULT), H5Dclose);
    if (!made) fail_hdf5(path, "make a dataset");
    const haddr_t offset = H5Dget_offset(made);
    if (offset == HADDR_UNDEF) fail_hdf5(path, "place a dataset");
    dataset.byte_offset = static_cast<int64_t>(offset);
}

void make_skeleton(const std::filesystem::path& path, std::span<ShardDataset> datasets) {
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_alignment(access, kAlignment, kAlignment);
    Hdf5Handle file(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access), H5Fclose);
    if (!file) fail_hdf5(path, "create the file");
    for (ShardDataset& dataset : datasets) make_dataset(file, dataset, path);
    if (!file.reset()) fail_hdf5(path, "close the file");
}

// Empty on success, else the reason.
std::string write_dataset(int fd, ShardDataset& dataset) {
    XXH3_state_t* state = XXH3_createState();
    XXH3_64bits_reset(state);
    std::string problem;
    for (int64_t done = 0; done < dataset.nbytes && problem.empty();) {
        const auto count = static_cast<size_t>(std::min(kPiece, dataset.nbytes - done));
        const ssize_t wrote = pwrite(fd, dataset.data + done, count, dataset.byte_offset + done);
        if (wrote < 0 && errno != EINTR) problem = std::strerror(errno);
        if (wrote > 0) {
            XXH3_64bits_update(state, dataset.data + done, static_cast<size_t>(wrote));
            done += wrote;
        }
    }
    dataset.xxh3 = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return problem;
}

class Descriptor {
  public:
    explicit Descriptor(const std::filesystem::path& path)
        : fd_(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)) {}
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return fd_; }

  private:
    int fd_;
};

}  // namespace

int64_t write_shard(const std::filesystem::path& path, std::span<ShardDataset> datasets) {
    quiet_hdf5();
    make_skeleton(path, datasets);
    const Descriptor file(path);
    const auto check = [&](bool good, const std::string& what) {
        if (!good) fail(ExitCode::storage, path.string(), ": ", what);
    };
    check(file.get() >= 0, std::strerror(errno));
    const off_t size = lseek(file.get(), 0, SEEK_END);
    // Room for all of it is asked for before the first byte, where the file system can say.
    const int room = posix_fallocate(file.get(), 0, std::max<off_t>(size, 1));
    check(room == 0 || room == EOPNOTSUPP || room == EINVAL, std::strerror(room));
    std::vector<std::string> problems(datasets.size());
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < datasets.size(); ++i) {
        problems[i] = write_dataset(file.get(), datasets[i]);
    }
    for (const std::string& problem : problems) check(problem.empty(), problem);
    check(fsync(file.get()) == 0, std::strerror(errno));
    return size;
}

void cross_check_shard(const std::filesystem::path& dir, const Manifest& manifest, int file) {
    quiet_hdf5();
    const std::filesystem::path path = dir / manifest.files(file).name();
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

}  // namespace fucina
