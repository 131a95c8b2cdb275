// Guards against tools for checkpoints that miss a damaged byte, read another part than asked for,
// or remove what should stay.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "parallel/mesh.h"
#include "tests/support/checkpoint_case.h"
#include "trainer/checkpoint_diff.h"
#include "trainer/checkpoint_reader.h"
#include "trainer/checkpoint_reshard.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

class CheckpointTools : public test::CheckpointTest {};

// Also what lies between tensors, which no load reads.
TEST_F(CheckpointTools, VerifySeesAFlipOfAnyByte) {
    const auto state = make_state(1);
    const fs::path dir = save(1, 2, state).directory;
    const Manifest manifest = read_manifest(dir);
    int64_t flips = 0;
    for (const SavedFile& file : manifest.files()) {
        const std::string whole = read(dir / file.name());
        for (size_t at = 0; at < whole.size(); at += at < 5000 ? 7 : whole.size() / 200) {
            std::string broken = whole;
            broken[at] = static_cast<char>(broken[at] ^ 16);
            overwrite(dir / file.name(), broken);
            EXPECT_EQ(code_of([&] { verify_checkpoint(dir); }), ExitCode::data) << at;
            ++flips;
        }
        overwrite(dir / file.name(), whole);
    }
    EXPECT_GT(flips, 500);
    EXPECT_NO_THROW(verify_checkpoint(dir));
}

// One bit anywhere: no load gives other values than were saved, and verify finds every one.
TEST_F(CheckpointTools, ARandomFlipNeverReachesTheModel) {
    const char* level = std::getenv("FUCINA_TEST_LEVEL");
    const int flips = level != nullptr && level == std::string("full") ? 2000 : 200;
    const auto seed = std::random_device()();
    SCOPED_TRACE(concat("seed ", seed));
    std::mt19937 random(seed);
    auto state = make_state(1), loaded = make_state(1);
    state.pop_back();  // the large one
    loaded.pop_back();
    const fs::path dir = save(1, 2, state).directory;
    int64_t noticed = 0;
    for (int i = 0; i < flips; ++i) {
        const std::string names[] = {kManifestName, shard_name(0, 2), shard_name(1, 2)};
        const fs::path path = dir / names[random() % 3];
        const std::string whole = read(path);
        const size_t bit = random() % (8 * whole.size());
        std::string broken = whole;
        broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << bit % 8));
        overwrite(path, broken);
        for (const NamedTensor& named : loaded) fill(named.tensor, 99);
        const ExitCode code = code_of([&] { load_tensors(dir, read_manifest(dir), loaded); });
        noticed += code == ExitCode::data;
        EXPECT_TRUE(code == ExitCode::data || (code == ExitCode::ok && equal(state, loaded)))
            << path << " bit " << bit;
        EXPECT_EQ(code_of([&] { verify_checkpoint(dir); }), ExitCode::data)
            << path << " bit " << bit;
        overwrite(path, whole);
    }
    EXPECT_GT(noticed, flips / 5) << "those of the manifest at least";
    EXPECT_NO_THROW(verify_checkpoint(dir));
}

TEST_F(CheckpointTools, ReaderGivesAnyPartOfWhatRanksWrote) {
    const std::vector<int64_t> shape{6, 2, 10, 8};
    const Tensor whole = Tensor::empty(shape, DType::f32);
    fill(whole, 1);
    const MeshShape mesh{.data = 2, .tensor = 2, .expert = 4};
    run_on_threads(mesh.ranks(), [&](Communicator& communicator) {
        std::vector<NamedTensor> state;
        for (const auto& [name, layout] :
             {std::pair{"experts", Layout{.expert = 0}}, {"columns", {.tensor = 3}}}) {
            NamedTensor part{"weight", name, {}, shape, layout, {}};
            part.part = box_of(shape, layout, mesh, communicator.rank());
            part.tensor = Tensor::empty(part.part.extent, DType::f32);
            copy_shared(whole_box(shape), whole.raw(), part.part, part.tensor.raw(), 4);
            state.push_back(std::move(part));
        }
        SaveRequest request{.run_dir = dir_, .manifest = {}, .tensors = state, .mesh = mesh};
        request.manifest.set_step(1);
        ASSERT_EQ(save_checkpoint(communicator, request).problem, "");
    });
    const CheckpointReader reader(checkpoint_directory(dir_, 1));
    for (const char* name : {"experts", "columns"}) {
        const SavedTensor& saved = reader.at("weight", name);
        for (const auto& [first, count] : {std::pair{0, 960}, {80, 240}, {152, 8}, {400, 88}})
            for (const int64_t most : {1, 24, 10000}) {
                std::vector<float> all, some;
                for_each_box(shape, first, count, most, [&](const Box& box, int64_t at) {
                    EXPECT_EQ(at, first + std::ssize(all));
                    some.resize(static_cast<size_t>(box.size()));
                    reader.read(saved, box, std::span(some));
                    all.insert(all.end(), some.begin(), some.end());
                });
                ASSERT_EQ(std::ssize(all), count);
                EXPECT_EQ(std::memcmp(all.data(), whole.data<float>() + first, 4 * all.size()), 0);
            }
    }
    EXPECT_EQ(code_of([&] { reader.at("m", "experts"); }), ExitCode::data);
}

TEST_F(CheckpointTools, DiffNamesWhatDiffersAndByHowMuch) {
    const auto state = make_state(1);
    auto other = make_state(1);
    for (int i = 0; i < 33; ++i) {
        state[0].tensor.data<float>()[i] = 2;
        other[0].tensor.data<float>()[i] = i == 3 ? 2.5f : 2;
    }
    const fs::path a = save(1, 1, state).directory, same = save(2, 3, state).directory;
    const CheckpointDiff equal = diff_checkpoints(CheckpointReader(a), CheckpointReader(same));
    EXPECT_TRUE(equal.tensors.empty());
    EXPECT_EQ(equal.equal, std::ssize(state));
    EXPECT_EQ(equal.other, std::vector<std::string>{"step: 1 against 2"});
    other.pop_back();
    const fs::path b = save(2, 2, other).directory;
    const CheckpointDiff diff = diff_checkpoints(CheckpointReader(a), CheckpointReader(b));
    EXPECT_EQ(diff.equal, std::ssize(state) - 2);
    ASSERT_EQ(diff.tensors.size(), 2u);
    EXPECT_EQ(diff.tensors[0].name, state[0].name);
    EXPECT_EQ(diff.tensors[0].differing, 1);
    EXPECT_EQ(diff.tensors[0].largest, 0.5);
    EXPECT_NEAR(diff.tensors[0].relative, 0.25 / std::sqrt(33.0), 1e-6);
    EXPECT_EQ(diff.tensors[1].name, state.back().name);
    EXPECT_EQ(diff.tensors[1].apart, "only in the first");
}

TEST_F(CheckpointTools, ReshardHasTheSameTensorsInOtherFiles) {
    const auto state = make_state(3);
    const fs::path dir = save(1, 4, state).directory;
    for (const int64_t files : {1, 2, 7}) {
        const fs::path out = dir_ / concat("in-", files);
        reshard_checkpoint({.from = dir, .out = out, .files = files});
        EXPECT_NO_THROW(verify_checkpoint(out));
        const Manifest manifest = read_manifest(out);
        EXPECT_EQ(manifest.files_size(), files);
        EXPECT_EQ(manifest.step(), 1);
        const CheckpointDiff diff = diff_checkpoints(CheckpointReader(dir), CheckpointReader(out));
        EXPECT_TRUE(diff.same());
        EXPECT_EQ(diff.equal, std::ssize(state));
        EXPECT_EQ(code_of([&] { reshard_checkpoint({.from = dir, .out = out}); }), ExitCode::usage);
    }
    reshard_checkpoint({.from = dir, .out = dir_ / "weights", .weights_only = true});
    const Manifest weights = read_manifest(dir_ / "weights");
    EXPECT_EQ(weights.tensors_size(), 4);
    for (const SavedTensor& tensor : weights.tensors()) EXPECT_EQ(tensor.kind(), "weight");
}

// Nothing is made of what is damaged.
TEST_F(CheckpointTools, ReshardRefusesDamage) {
    const fs::path dir = save(1, 2, make_state(3)).directory;
    const Manifest manifest = read_manifest(dir);
    const SavedBox& box = manifest.tensors(5).boxes(0);
    const fs::path shard = dir / manifest.files(static_cast<int>(box.file())).name();
    std::string bytes = read(shard);
    bytes[static_cast<size_t>(box.byte_offset()) + 9] ^= 2;
    overwrite(shard, bytes);
    EXPECT_EQ(code_of([&] { reshard_checkpoint({.from = dir, .out = dir_ / "out"}); }),
              ExitCode::data);
    EXPECT_EQ(std::distance(fs::directory_iterator(dir_), {}), 1);
}

TEST_F(CheckpointTools, PruneKeepsTheNewestValidOnes) {
    const auto state = make_state(1);
    SaveRequest request{.run_dir = dir_, .manifest = {}, .tensors = state, .keep = 9};
    const auto step = [&](int64_t number) { return checkpoint_directory(dir_, number); };
    for (const int64_t number : {1, 2, 3, 4, 5}) {
        request.manifest.set_step(number);
        ASSERT_EQ(save_checkpoint(*make_self_communicator(), request).problem, "");
    }
    fs::remove(step(4) / shard_name(0, 1));  // does not count
    EXPECT_EQ(prune_checkpoints(dir_, 2), (std::vector<fs::path>{step(2), step(1)}));
    EXPECT_EQ(list_checkpoints(dir_), (std::vector<fs::path>{step(5), step(4), step(3)}));
    EXPECT_TRUE(prune_checkpoints(dir_, 2).empty());
    EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "checkpoints"), {}), 3);
}

}  // namespace
}  // namespace fucina
