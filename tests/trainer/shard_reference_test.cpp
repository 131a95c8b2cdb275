// Plain H5Dcreate and H5Dwrite as the reference of a shard: whatever writes shards here, HDF5 finds
// in them what it finds in a file that it wrote itself.
#include <hdf5.h>

#include <algorithm>
#include <numeric>

#include "data/hdf5_handle.h"
#include "tests/support/checkpoint_case.h"
#include "trainer/manifest.h"
#include "trainer/shard_writer.h"

namespace fucina::test {
namespace {

namespace fs = std::filesystem;

// What a dataset is to HDF5, made here from its name alone.
hid_t reference_type(DType dtype) {
    if (dtype == DType::f32) return H5Tcopy(H5T_IEEE_F32LE);
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);  // bfloat16: its upper half
    H5Tset_fields(type, 15, 7, 8, 0, 7);
    H5Tset_precision(type, 16);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 127);
    return type;
}

void write_plainly(const fs::path& path, const std::vector<ShardDataset>& datasets) {
    const Hdf5Handle file(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT),
                          H5Fclose);
    const Hdf5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links, 1);
    for (const ShardDataset& dataset : datasets) {
        const std::vector<hsize_t> dims(dataset.shape.begin(), dataset.shape.end());
        const Hdf5Handle space(
            dims.empty() ? H5Screate(H5S_SCALAR)
                         : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
            H5Sclose);
        const Hdf5Handle type(reference_type(dataset.dtype), H5Tclose);
        const Hdf5Handle made(
            H5Dcreate2(file, dataset.path.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT),
            H5Dclose);
        ASSERT_TRUE(made) << dataset.path;
        ASSERT_GE(H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, dataset.data), 0);
    }
}

std::vector<std::string> links_of(hid_t file) {
    std::vector<std::string> names;
    const auto add = [](hid_t, const char* name, const H5L_info_t* link, void* to) -> herr_t {
        static_cast<std::vector<std::string>*>(to)->push_back(
            concat(name, link->type == H5L_TYPE_HARD ? "" : " is no hard link"));
        return 0;
    };
    EXPECT_GE(H5Lvisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, add, &names), 0);
    std::ranges::sort(names);
    return names;
}

// All that a program like h5py is told of a dataset, its bytes too.
struct Seen {
    std::vector<hsize_t> dims, most;
    H5S_class_t space = H5S_NO_CLASS;
    H5D_layout_t layout = H5D_LAYOUT_ERROR;
    int filters = -1, external = -1;
    std::string bytes;
    bool operator==(const Seen&) const = default;
};

Seen look(hid_t dataset) {
    Seen seen;
    const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
    const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
    const Hdf5Handle created(H5Dget_create_plist(dataset), H5Pclose);
    seen.space = H5Sget_simple_extent_type(space);
    seen.dims.resize(static_cast<size_t>(H5Sget_simple_extent_ndims(space)));
    seen.most = seen.dims;
    H5Sget_simple_extent_dims(space, seen.dims.data(), seen.most.data());
    seen.layout = H5Pget_layout(created);
    seen.filters = H5Pget_nfilters(created);
    seen.external = H5Pget_external_count(created);
    const auto count = static_cast<size_t>(H5Sget_simple_extent_npoints(space));
    seen.bytes.resize(count * H5Tget_size(type));
    EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, seen.bytes.data()), 0);
    return seen;
}

void expect_same(hid_t found, hid_t wanted, const std::string& name) {
    const Hdf5Handle a(H5Oopen(found, name.c_str(), H5P_DEFAULT), H5Oclose);
    const Hdf5Handle b(H5Oopen(wanted, name.c_str(), H5P_DEFAULT), H5Oclose);
    ASSERT_EQ(H5Iget_type(a), H5Iget_type(b)) << name;
    H5O_info_t of_a{}, of_b{};
    H5Oget_info(a, &of_a);
    H5Oget_info(b, &of_b);
    EXPECT_EQ(of_a.num_attrs, 0U) << name;
    EXPECT_EQ(of_b.num_attrs, 0U) << name;
    EXPECT_EQ(of_a.rc, of_b.rc) << name;
    if (H5Iget_type(b) != H5I_DATASET) return;
    const Hdf5Handle type_a(H5Dget_type(a), H5Tclose), type_b(H5Dget_type(b), H5Tclose);
    EXPECT_GT(H5Tequal(type_a, type_b), 0) << name;
    const Seen seen_a = look(a), seen_b = look(b);
    EXPECT_EQ(seen_a.bytes.size(), seen_b.bytes.size()) << name;
    EXPECT_TRUE(seen_a.bytes == seen_b.bytes) << name << ": other bytes";
    EXPECT_TRUE(seen_a == seen_b) << name << ": another shape or layout";
    EXPECT_EQ(seen_a.layout, H5D_CONTIGUOUS) << name;
}

class ShardReferenceTest : public CheckpointTest {
  protected:
    void SetUp() override {
        CheckpointTest::SetUp();
        quiet_hdf5();
    }
    // Fails where HDF5 sees another file than that which H5Dwrite makes of the datasets.
    void compare(const fs::path& shard, const std::vector<ShardDataset>& datasets) {
        const fs::path reference = dir_ / "reference.h5";
        fs::remove(reference);
        ASSERT_NO_FATAL_FAILURE(write_plainly(reference, datasets));
        const Hdf5Handle found(H5Fopen(shard.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
        const Hdf5Handle wanted(H5Fopen(reference.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
        ASSERT_TRUE(found) << shard;
        ASSERT_TRUE(wanted);
        const std::vector<std::string> names = links_of(wanted);
        ASSERT_GE(names.size(), datasets.size());
        ASSERT_EQ(links_of(found), names);
        expect_same(found, wanted, "/");
        for (const std::string& name : names)
            ASSERT_NO_FATAL_FAILURE(expect_same(found, wanted, name));
    }
};

ShardDataset dataset_of(const NamedTensor& named) {
    return {.path = concat("/", named.kind, "/", named.name),
            .dtype = named.tensor.dtype(),
            .shape = {named.tensor.shape().begin(), named.tensor.shape().end()},
            .data = named.tensor.raw(),
            .nbytes = named.tensor.bytes()};
}

// Around the block of a direct write (4096 bytes) and its piece (2 MiB), and names as boxes have.
std::vector<NamedTensor> odd_state() {
    std::vector<NamedTensor> state{
        {"weight", "scalar", Tensor::empty({}, DType::f32)},
        {"weight", "one", Tensor::empty({1}, DType::bf16)},
        {"weight", "below_a_block", Tensor::empty({1023}, DType::f32)},
        {"weight", "a_block", Tensor::empty({1, 1024, 1}, DType::f32)},
        {"weight", "beyond_a_block@7", Tensor::empty({3, 683}, DType::bf16)},
        {"weight", "a_piece", Tensor::empty({1024, 1024}, DType::bf16)},
        {"m", "a_piece@0,5", Tensor::empty({1049, 7, 143}, DType::bf16)},
        {"v", "of_pieces", Tensor::empty({1111, 1013}, DType::f32)},
        {"v", "five.dimensions", Tensor::empty({2, 3, 1, 5, 7}, DType::bf16)},
    };
    return state;
}

TEST_F(ShardReferenceTest, TheWritersShardIsWhatPlainH5DwriteMakes) {
    std::vector<NamedTensor> state = odd_state();
    uint32_t seed = 1;
    for (const NamedTensor& named : state) fill(named.tensor, seed++);
    std::vector<ShardDataset> datasets;
    for (const NamedTensor& named : state) datasets.push_back(dataset_of(named));
    for (const bool copies : {false, true}) {
        const fs::path shard = dir_ / concat("shard-", copies, ".h5");
        ShardWriter writer(shard, datasets);
        std::vector<std::byte> room(copies ? size_t{16} << 20 : 0);
        if (copies) writer.copy_rest(room);
        writer.wait();
        compare(shard, datasets);
    }
}

// Of a checkpoint, by its manifest: boxes of tensors between three writers, of whose tensors one
// is empty and in no file.
TEST_F(ShardReferenceTest, ShardsOfASaveAreWhatPlainH5DwriteMakes) {
    const std::vector<NamedTensor> state = make_state(7);
    ASSERT_EQ(save(1, 3, state).problem, "");
    const fs::path dir = checkpoint_directory(dir_, 1);
    const Manifest manifest = read_manifest(dir);
    ASSERT_EQ(manifest.files_size(), 3);
    std::vector<std::vector<ShardDataset>> shards(3);
    int64_t boxes = 0, bytes = 0, all = 0;
    for (const NamedTensor& named : state) {
        const auto saved = std::ranges::find_if(manifest.tensors(), [&](const SavedTensor& tensor) {
            return tensor.kind() == named.kind && tensor.name() == named.name;
        });
        ASSERT_NE(saved, manifest.tensors().end()) << named.name;
        all += named.tensor.bytes();
        for (const SavedBox& box : saved->boxes()) {
            ShardDataset dataset = dataset_of(named);
            dataset.shape.assign(box.extent().begin(), box.extent().end());
            const int64_t row = named.tensor.bytes() / named.tensor.shape()[0];
            const int64_t first = box.offset(0);
            if (box.extent(0) != named.tensor.shape()[0]) dataset.path += concat("@", first);
            dataset.data += first * row;
            dataset.nbytes = box.extent(0) * row;
            bytes += dataset.nbytes;
            ++boxes;
            shards[box.file()].push_back(dataset);
        }
    }
    EXPECT_EQ(bytes, all);
    EXPECT_GT(boxes, std::ssize(state));
    for (int i = 0; i < 3; ++i)
        compare(dir / manifest.files(i).name(), shards[static_cast<size_t>(i)]);
}

}  // namespace
}  // namespace fucina::test
