// A directory for checkpoints, states of a few tensors, and saves by ranks that are threads.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "data/file.h"
#include "kernels/error.h"
#include "parallel/thread_communicator.h"
#include "trainer/checkpoint.h"

namespace fucina::test {

class CheckpointTest : public testing::Test {
  protected:
    void SetUp() override {
        dir_ = std::filesystem::temp_directory_path() / concat("fucina-checkpoint-", getpid());
        std::filesystem::remove_all(dir_);
        std::filesystem::create_directories(dir_);
    }
    void TearDown() override { std::filesystem::remove_all(dir_); }

    static void fill(const Tensor& tensor, uint32_t seed) {
        std::mt19937 random(seed);
        for (int64_t i = 0; i < tensor.bytes(); ++i) {
            tensor.raw()[i] = static_cast<std::byte>(random());
        }
    }
    // The last is large enough to be cut between writers; one is empty, one a scalar's worth.
    static std::vector<NamedTensor> make_state(uint32_t seed) {
        std::vector<NamedTensor> state{
            {"weight", "layers.0.norm", Tensor::empty({33}, DType::f32)},
            {"weight", "layers.0.experts", Tensor::empty({3, 5, 7}, DType::f32)},
            {"weight", "nothing", Tensor::empty({0, 4}, DType::f32)},
            {"m", "layers.0.experts", Tensor::empty({3, 5, 7}, DType::bf16)},
            {"v", "layers.0.experts", Tensor::empty({3, 5, 7}, DType::f32)},
            {"weight", "embedding", Tensor::empty({1111, 700}, DType::f32)},
        };
        for (NamedTensor& named : state) fill(named.tensor, seed++);
        return state;
    }
    static bool equal(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
        for (size_t i = 0; i < a.size(); ++i) {
            const auto bytes = static_cast<size_t>(a[i].tensor.bytes());
            if (bytes > 0 && std::memcmp(a[i].tensor.raw(), b[i].tensor.raw(), bytes) != 0) {
                return false;
            }
        }
        return true;
    }
    SaveOutcome save(int64_t step, int ranks, const std::vector<NamedTensor>& state) {
        SaveOutcome outcome;
        run_on_threads(ranks, [&](Communicator& communicator) {
            SaveRequest request{.run_dir = dir_, .manifest = {}, .tensors = state, .keep = 2};
            request.manifest.set_step(step);
            const SaveOutcome own = save_checkpoint(communicator, request);
            if (communicator.rank() == ranks - 1) outcome = own;
        });
        return outcome;
    }
    static std::string read(const std::filesystem::path& path) {
        return read_text_file(path, 1 << 30);
    }
    static void overwrite(const std::filesystem::path& path, const std::string& bytes) {
        std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    }
    static ExitCode code_of(const std::function<void()>& body) {
        try {
            body();
        } catch (const Error& error) {
            return error.code();
        }
        return ExitCode::ok;
    }

    std::filesystem::path dir_;
};

}  // namespace fucina::test
