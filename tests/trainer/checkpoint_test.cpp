// Guards against checkpoints that lose or change a byte, that name tensors by rank, that appear
// before they are whole, and against damage that goes unnoticed.
#include "trainer/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>
#include <thread>

#include "data/file.h"
#include "kernels/error.h"
#include "parallel/thread_communicator.h"
#include "tests/support/checkpoint_case.h"
#include "tests/support/expect_text.h"
#include "tests/support/tiny_model.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

using test::CheckpointTest;

TEST_F(CheckpointTest, LoadsWhatWasSavedByAnyNumberOfRanks) {
    const auto state = make_state(1);
    for (int ranks : {1, 2, 4}) {
        const SaveOutcome outcome = save(ranks, ranks, state);
        ASSERT_EQ(outcome.problem, "");
        EXPECT_EQ(outcome.directory, checkpoint_directory(dir_, ranks));
        const Manifest manifest = read_manifest(outcome.directory);
        EXPECT_EQ(manifest.files_size(), ranks);
        auto loaded = make_state(100);
        EXPECT_FALSE(equal(state, loaded));
        load_tensors(outcome.directory, manifest, loaded);
        EXPECT_TRUE(equal(state, loaded)) << ranks;
        EXPECT_NO_THROW(verify_checkpoint(outcome.directory));
        int64_t least = INT64_MAX, most = 0;  // writers share the work
        for (const SavedFile& file : manifest.files()) {
            least = std::min(least, file.size());
            most = std::max(most, file.size());
        }
        EXPECT_LT(most - least, int64_t{1} << 20) << ranks;
    }
}

// Every rank saves what it holds of a tensor, and loads what it holds under another layout.
TEST_F(CheckpointTest, PartsGoFromAnyLayoutToAnyOther) {
    const std::vector<int64_t> shape{7, 2, 300, 64};
    const Tensor whole = Tensor::empty(shape, DType::f32), other = Tensor::empty({9}, DType::f32);
    fill(whole, 1);
    fill(other, 2);
    const auto part_of = [&](const MeshShape& mesh, int rank, bool filled) {
        NamedTensor part{"weight", "experts", {}, shape, {.expert = 0}, {}};
        part.part = box_of(shape, part.layout, mesh, rank);
        part.tensor = Tensor::empty(part.part.extent, DType::f32);
        part.tensor.zero();
        if (filled) copy_shared(whole_box(shape), whole.raw(), part.part, part.tensor.raw(), 4);
        return part;
    };
    int64_t step = 0;
    for (const MeshShape from : {MeshShape{.data = 1}, MeshShape{.data = 4, .expert = 2},
                                 MeshShape{.data = 4, .expert = 4}}) {
        ++step;
        run_on_threads(from.ranks(), [&](Communicator& communicator) {
            const std::vector<NamedTensor> state{part_of(from, communicator.rank(), true),
                                                 {"weight", "other", other}};
            SaveRequest request{
                .run_dir = dir_, .manifest = {}, .tensors = state, .mesh = from, .keep = 9};
            request.manifest.set_step(step);
            ASSERT_EQ(save_checkpoint(communicator, request).problem, "");
        });
        const fs::path dir = checkpoint_directory(dir_, step);
        EXPECT_NO_THROW(verify_checkpoint(dir));
        for (const MeshShape to : {MeshShape{.data = 1}, MeshShape{.data = 3, .expert = 3},
                                   MeshShape{.data = 4, .expert = 2}}) {
            for (int rank = 0; rank < to.ranks(); ++rank) {
                std::vector<NamedTensor> loaded{part_of(to, rank, false)};
                load_tensors(dir, read_manifest(dir), loaded);
                EXPECT_TRUE(equal(loaded, {part_of(to, rank, true)})) << step << " " << rank;
            }
        }
    }
}

TEST_F(CheckpointTest, KeepsTheNewestAndReplacesAStep) {
    const auto state = make_state(1);
    for (int64_t step : {5, 10, 200, 10}) ASSERT_EQ(save(step, 1, state).problem, "");
    const auto found = list_checkpoints(dir_);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0], checkpoint_directory(dir_, 200));
    EXPECT_EQ(found[1], checkpoint_directory(dir_, 10));
    int64_t entries = 0;
    for (const auto& entry : fs::directory_iterator(dir_ / "checkpoints"))
        entries += entry.exists();
    EXPECT_EQ(entries, 2) << "something was left beside the checkpoints";
}

TEST_F(CheckpointTest, NamesWhatDoesNotFit) {
    ASSERT_EQ(save(1, 1, make_state(1)).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 1);
    const auto expect = [&](NamedTensor wanted, const char* message) {
        try {
            load_tensors(saved, read_manifest(saved), std::span(&wanted, 1));
            FAIL() << message;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::data);
            EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
        }
    };
    expect({"weight", "layers.1.norm", Tensor::empty({33}, DType::f32)}, "has no weight layers.1");
    expect({"weight", "layers.0.norm", Tensor::empty({34}, DType::f32)},
           "is F32 [33], the model's is F32 [34]");
    expect({"m", "layers.0.experts", Tensor::empty({3, 5, 7}, DType::f32)}, "is BF16 [3, 5, 7]");
}

TEST_F(CheckpointTest, FindsEveryBitFlipOfPayloadAndManifest) {
    const std::vector<NamedTensor> state{{"weight", "a", Tensor::empty({40, 3}, DType::f32)},
                                         {"weight", "b", Tensor::empty({17}, DType::f32)}};
    fill(state[0].tensor, 1);
    fill(state[1].tensor, 2);
    ASSERT_EQ(save(1, 1, state).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 1);
    const auto load = [&] { load_tensors(saved, read_manifest(saved), state); };
    const std::string framed = read(saved / kManifestName);
    for (size_t bit = 0; bit < framed.size() * 8; ++bit) {
        std::string bad = framed;
        bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
        ASSERT_EQ(code_of([&] { parse_manifest(bad, "m"); }), ExitCode::data) << "bit " << bit;
    }
    std::fstream shard(saved / shard_name(0, 1), std::ios::in | std::ios::out | std::ios::binary);
    const auto flip = [&](int64_t bit) {
        char byte = 0;
        shard.seekg(bit / 8).read(&byte, 1);
        byte = static_cast<char>(byte ^ (1 << (bit % 8)));
        shard.seekp(bit / 8).write(&byte, 1).flush();
    };
    const Manifest manifest = read_manifest(saved);
    for (const SavedTensor& tensor : manifest.tensors()) {
        const SavedBox& box = tensor.boxes(0);
        for (int64_t bit = box.byte_offset() * 8; bit < (box.byte_offset() + box.nbytes()) * 8;
             bit += 5) {
            flip(bit);
            ASSERT_EQ(code_of(load), ExitCode::data) << tensor.name() << " bit " << bit;
            flip(bit);
        }
    }
    EXPECT_EQ(code_of(load), ExitCode::ok);
}

TEST_F(CheckpointTest, FindsTruncatedMissingAndSwappedShards) {
    ASSERT_EQ(save(1, 2, make_state(1)).problem, "");
    ASSERT_EQ(save(2, 2, make_state(7)).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 2), other = checkpoint_directory(dir_, 1);
    const fs::path shard = saved / shard_name(1, 2);
    const auto loaded = make_state(3);
    const auto load = [&] { load_tensors(saved, read_manifest(saved), loaded); };
    const std::string good = read(shard);
    for (size_t cut : {size_t{1}, size_t{4096}, good.size()}) {
        overwrite(shard, good.substr(0, good.size() - cut));
        EXPECT_EQ(code_of(load), ExitCode::data) << cut;
        std::string warned;
        const auto tell = [&](const fs::path&, const std::string& why) { warned += why; };
        EXPECT_EQ(find_checkpoint(dir_, tell), other);
        EXPECT_NE(warned.find(concat("bytes, the manifest says ", good.size())), std::string::npos)
            << warned;
    }
    overwrite(shard, read(other / shard_name(1, 2)));  // the right size, another step's bytes
    EXPECT_EQ(code_of(load), ExitCode::data);
    fs::remove(shard);
    EXPECT_EQ(code_of(load), ExitCode::data);
    fs::create_symlink(other / shard_name(1, 2), shard);
    EXPECT_EQ(code_of(load), ExitCode::data);
    fs::remove(other / kManifestName);
    const auto silent = [](const fs::path&, const std::string&) {};
    EXPECT_EQ(code_of([&] { find_checkpoint(dir_, silent); }), ExitCode::data)
        << "a link is no damage";
    fs::remove(saved / shard_name(1, 2));
    EXPECT_EQ(code_of([&] { find_checkpoint(dir_, silent); }), ExitCode::no_checkpoint);
}

TEST_F(CheckpointTest, TheSameStateMakesTheSameBytesASecondLater) {
    const auto state = make_state(1);
    ASSERT_EQ(save(1, 1, state).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 1);
    const std::string shard = read(saved / shard_name(0, 1)), framed = read(saved / kManifestName);
    const std::time_t then = std::time(nullptr);
    while (std::time(nullptr) == then) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(save(1, 1, state).problem, "");
    EXPECT_TRUE(read(saved / shard_name(0, 1)) == shard);
    EXPECT_TRUE(read(saved / kManifestName) == framed);
}

SavedBox huge_box() {
    SavedBox box;
    box.add_offset(0);
    box.add_extent(int64_t{1} << 60);
    box.set_nbytes(int64_t{1} << 62);
    return box;
}

// The only tensor, of one row, with a box for each element.
void cut_into_columns(Manifest& manifest, int columns) {
    manifest.clear_tensors();
    SavedTensor& tensor = *manifest.add_tensors();
    tensor.set_kind("weight");
    tensor.set_name("row");
    tensor.set_dtype("F32");
    for (const int64_t dim : {1, columns}) tensor.add_shape(dim);
    for (int i = 0; i < columns; ++i) {
        SavedBox& box = *tensor.add_boxes();
        for (const int64_t offset : {0, i}) box.add_offset(offset);
        for (const int64_t extent : {1, 1}) box.add_extent(extent);
        box.set_byte_offset(2048 + 4 * i);
        box.set_nbytes(4);
    }
    manifest.mutable_files(0)->set_size(2048 + 4 * columns);
}

// Manifests that pass the checksum but lie.
TEST_F(CheckpointTest, RefusesManifestsThatBreakTheRules) {
    ASSERT_EQ(save(1, 2, make_state(1)).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 1);
    const Manifest good = read_manifest(saved);
    const auto refused = [&](const std::function<void(Manifest&)>& change) {
        Manifest bad = good;
        change(bad);
        return code_of([&] { parse_manifest(frame_manifest(bad), "MANIFEST.pb"); }) ==
               ExitCode::data;
    };
    EXPECT_FALSE(refused([](Manifest&) {}));
    const auto box = [](Manifest& m) { return m.mutable_tensors(1)->mutable_boxes(0); };
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_files(0)->set_name("../shard.h5"); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_files(0)->set_size(-1); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->set_dtype("F64"); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->set_kind("x"); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->set_shape(0, -1); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->set_shape(0, INT64_MAX); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->set_shape(0, 34); }));
    EXPECT_TRUE(refused([](Manifest& m) { *m.add_tensors() = m.tensors(0); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.mutable_tensors(0)->clear_boxes(); }));
    EXPECT_TRUE(refused([&](Manifest& m) { *m.mutable_tensors(1)->add_boxes() = *box(m); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_file(2); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_extent(0, 0); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_offset(0, 1); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_offset(0, INT64_MAX); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_nbytes(4); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_byte_offset(INT64_MAX); }));
    EXPECT_TRUE(refused([&](Manifest& m) { box(m)->set_byte_offset(-1); }));
    EXPECT_TRUE(refused([&](Manifest& m) {
        SavedBox* other = m.mutable_tensors(3)->mutable_boxes(0);
        other->set_file(box(m)->file());
        other->set_byte_offset(box(m)->byte_offset());
    }));
    // So many elements that their sum wraps to what the tensor has.
    EXPECT_TRUE(refused([&](Manifest& m) {
        SavedTensor& tensor = *m.mutable_tensors(1);
        m.mutable_files(0)->set_size(int64_t{1} << 62);
        const SavedBox huge = huge_box();
        tensor.clear_boxes();
        tensor.clear_shape();
        tensor.add_shape(int64_t{1} << 60);
        for (int i = 0; i < 17; ++i) *tensor.add_boxes() = huge;
    }));
    for (const int columns : {1024, 1025, 200'000}) {
        EXPECT_EQ(refused([&](Manifest& m) { cut_into_columns(m, columns); }), columns > 1024);
    }
    EXPECT_TRUE(refused([](Manifest& m) { m.set_updates(2); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.set_step(int64_t{1} << 62); }));
    EXPECT_TRUE(refused([](Manifest& m) { m.set_next_sample(INT64_MAX); }));
    std::mt19937 random(1);
    const std::string framed = frame_manifest(good);
    for (int i = 0; i < 300; ++i) {  // any bytes
        const std::string cut = framed.substr(0, random() % framed.size());
        EXPECT_EQ(code_of([&] { parse_manifest(cut, "m"); }), ExitCode::data);
    }
}

// Boxes of two dimensions, as tensor-parallel ranks would write them.
TEST_F(CheckpointTest, AssemblesBoxesOfSeveralDimensions) {
    const std::vector<NamedTensor> pieces{{"weight", "left", Tensor::empty({4, 3}, DType::f32)},
                                          {"weight", "right", Tensor::empty({4, 2}, DType::f32)}};
    for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < 5; ++c) {
            (c < 3 ? pieces[0].tensor.row<float>(r)[c] : pieces[1].tensor.row<float>(r)[c - 3]) =
                static_cast<float>(10 * r + c);
        }
    }
    ASSERT_EQ(save(1, 1, pieces).problem, "");
    const fs::path saved = checkpoint_directory(dir_, 1);
    Manifest manifest = read_manifest(saved);
    SavedTensor* whole = manifest.mutable_tensors(0);
    whole->set_shape(1, 5);
    *whole->add_boxes() = manifest.tensors(1).boxes(0);
    whole->mutable_boxes(1)->set_offset(1, 3);
    manifest.mutable_tensors()->DeleteSubrange(1, 1);
    ASSERT_NO_THROW(check_manifest(manifest, "m"));
    NamedTensor loaded{"weight", "left", Tensor::zeros({4, 5}, DType::f32)};
    load_tensors(saved, manifest, std::span(&loaded, 1));
    for (int64_t i = 0; i < 20; ++i) {
        EXPECT_EQ(loaded.tensor.data<float>()[i], static_cast<float>(10 * (i / 5) + i % 5));
    }
}

TEST_F(CheckpointTest, AFailedSaveLeavesTheOldOneAndNothingElse) {
    const auto state = make_state(1);
    ASSERT_EQ(save(1, 1, state).problem, "");
    struct rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    const struct rlimit small { 1 << 20, limit.rlim_max };
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const SaveOutcome outcome = save(2, 2, state);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_NE(outcome.problem.find("may write files of 1048576"), std::string::npos)
        << outcome.problem;
    EXPECT_EQ(list_checkpoints(dir_).size(), 1u);
    fs::create_directory(dir_ / "checkpoints" / "step-00000002.tmp-1");  // of a killed process
    remove_leftovers(dir_);
    int64_t entries = 0;
    for (const auto& entry : fs::directory_iterator(dir_ / "checkpoints"))
        entries += entry.exists();
    EXPECT_EQ(entries, 1);
    ASSERT_EQ(save(2, 2, state).problem, "");
    EXPECT_EQ(list_checkpoints(dir_).size(), 2u);
}

// On a thread of its own: models flush denormals to zero in the thread that makes them, and the
// tests that follow count on denormals.
TEST_F(CheckpointTest, WeightsThatAreNotFiniteMakeNoModel) {
    run_on_threads(1, [&](Communicator&) {
        Model model = test::tiny_model(test::tiny_spec(), {.compute = DType::f32});
        std::vector<NamedTensor> state;
        for (Parameter* parameter : model.parameters())
            state.push_back({"weight", parameter->name, parameter->value});
        save(1, 1, state);
        load_weights(checkpoint_directory(dir_, 1), model);
        state[3].tensor.data<float>()[2] = HUGE_VALF;
        save(2, 1, state);
        try {
            load_weights(checkpoint_directory(dir_, 2), model);
            ADD_FAILURE() << "infinity was loaded";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::data);
            EXPECT_CONTAINS(std::string(error.what()), state[3].name + " is NaN or infinite at [");
        }
    });
}

}  // namespace
}  // namespace fucina
