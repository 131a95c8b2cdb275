// Files for other programs. On its own this is a round trip; tests/oracle/test_data.py runs it with
// FUCINA_EXCHANGE naming a directory, opens what is written there with safetensors, NumPy and h5py,
// and puts theirs.safetensors there, whose tensors are read and written out as plain bytes.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <optional>

#include "data/npy.h"
#include "data/tensor_file.h"
#include "data/token_store.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t dim : shape) text += " " + std::to_string(dim);
    return text;
}

TEST(Exchange, WritesForAndReadsFromOtherPrograms) {
    std::optional<TemporaryDirectory> own;
    const char* given = std::getenv("FUCINA_EXCHANGE");
    if (!given) own.emplace();
    const std::filesystem::path directory = given ? std::filesystem::path(given) : own->path();

    std::vector<float> values(15);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 1.0f / static_cast<float>(i + 1);
    TensorFileWriter tensors(directory / "ours.safetensors",
                             {{"matrix", DType::f32, {3, 5}},
                              {"rounded", DType::bf16, {5, 3}},
                              {"scalar", DType::f32, {}},
                              {"empty", DType::bf16, {0, 7}}},
                             {{"format", "pt"}});
    tensors.append(std::span(values));
    tensors.append(std::span(values));
    tensors.append(std::span(values).first(1));
    tensors.commit();
    write_npy(directory / "ours.npy", std::vector<int64_t>{3, 5, 1}, values);

    for (const int64_t vocab_size : {1000, 100000}) {
        const auto path = directory / ("ours-" + std::to_string(vocab_size) + ".h5");
        TokenStoreWriter store(path, vocab_size, "feed");
        for (int32_t document = 0; document < 5; ++document) {
            for (int32_t t = 0; t < document; ++t) {
                const auto id = static_cast<int32_t>(vocab_size - 1 - 10 * document - t);
                store.append(std::span(&id, 1));
            }
            store.end_document();
        }
        store.commit();
        EXPECT_EQ(TokenStore::open(path).tokens(), 10);
    }

    const auto theirs = directory / (given ? "theirs.safetensors" : "ours.safetensors");
    const TensorFile file(theirs);
    std::ofstream list(directory / "read.txt");
    for (const TensorInfo& tensor : file.tensors()) {
        list << tensor.name << " " << name_of(tensor.dtype) << shape_text(tensor.shape) << "\n";
        std::vector<std::byte> bytes(static_cast<size_t>(tensor.nbytes));
        file.read(tensor, bytes);
        std::ofstream(directory / (tensor.name + ".bin"), std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), tensor.nbytes);
    }
    EXPECT_GE(file.tensors().size(), 4u);
}

}  // namespace
}  // namespace fucina
