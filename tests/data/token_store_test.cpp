// The HDF5 token store: round trip, and files that are foreign, cut, changed or lead elsewhere.
#include "data/token_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <numeric>
#include <thread>

#include "data/hdf5_handle.h"
#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

void write_store(const std::filesystem::path& path, int64_t vocab_size,
                 const std::vector<std::vector<int32_t>>& documents) {
    TokenStoreWriter writer(path, vocab_size, "0123abcd");
    for (const auto& document : documents) {
        writer.append(std::span(document).first(document.size() / 2));
        writer.append(std::span(document).subspan(document.size() / 2));
        writer.end_document();
    }
    writer.commit();
}

std::string refusal(const std::filesystem::path& path, bool verify = false) {
    try {
        const TokenStore store = TokenStore::open(path);
        if (verify) store.verify();
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data) << error.what();
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        EXPECT_CONTAINS(error.what(), path.filename().string());
        return error.what();
    }
}

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

TEST(TokenStore, ReadsWhatWasWritten) {
    const TemporaryDirectory directory;
    for (const int64_t vocab_size : {int64_t{65536}, int64_t{65537}, int64_t{1} << 31}) {
        const auto path = directory.path() / "store.h5";
        const auto top = static_cast<int32_t>(vocab_size - 1);
        write_store(path, vocab_size, {{1, 2, 3}, {}, {top, 0}, {7}});
        const TokenStore store = TokenStore::open(path);
        EXPECT_EQ(store.documents(), 4);
        EXPECT_EQ(store.tokens(), 6);
        EXPECT_EQ(store.vocab_size(), vocab_size);
        EXPECT_EQ(store.tokenizer_hash(), "0123abcd");
        std::vector<int64_t> offsets(5);
        store.read_offsets(0, offsets);
        EXPECT_EQ(offsets, (std::vector<int64_t>{0, 3, 3, 5, 6}));
        std::vector<int32_t> ids(4);
        store.read_tokens(2, ids);
        EXPECT_EQ(ids, (std::vector<int32_t>{3, top, 0, 7}));
        store.verify();
    }
    // Nothing but the store stays, and the same tokens make the same bytes, a second later too.
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
    write_store(directory.path() / "a.h5", 100, {{1}, {2, 3}});
    const std::time_t then = std::time(nullptr);
    while (std::time(nullptr) == then) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    write_store(directory.path() / "b.h5", 100, {{1}, {2, 3}});
    EXPECT_EQ(read_text_file(directory.path() / "a.h5", 1 << 20),
              read_text_file(directory.path() / "b.h5", 1 << 20));
}

TEST(TokenStore, KeepsABitATokenOfWhatIsSupervised) {
    const TemporaryDirectory directory;
    const auto path = directory.path() / "store.h5";
    std::vector<int32_t> ids(1003);
    std::vector<uint8_t> marks(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) marks[i] = i % 3 == 0 || i % 7 == 2;
    TokenStoreWriter writer(path, 10, "");
    for (size_t at = 0, size = 1; at < ids.size();
         at += size, size = std::min(size + 5, ids.size() - at)) {
        writer.append(std::span(ids).subspan(at, size), std::span(marks).subspan(at, size));
        writer.end_document();
    }
    writer.commit();
    const TokenStore store = TokenStore::open(path);
    store.verify();
    EXPECT_TRUE(store.is_masked());
    const TokenStore memory = TokenStore::from_lists({ids}, 10, "memory", marks);
    for (size_t first = 0; first < 30; ++first) {
        for (const size_t count : {size_t{0}, size_t{1}, size_t{9}, ids.size() - first}) {
            for (const TokenStore* one : {&store, &memory}) {
                std::vector<uint8_t> got(count);
                one->read_supervised(static_cast<int64_t>(first), got);
                EXPECT_TRUE(std::ranges::equal(got, std::span(marks).subspan(first, count)));
            }
        }
    }
    marks[5] ^= 1;
    EXPECT_NE(memory.content_hash(), TokenStore::from_lists({ids}, 10, "", marks).content_hash());
    EXPECT_EQ(memory.content_hash().size(), 48);
}

TEST(TokenStore, LargeStoresStreamThroughTheSpill) {
    const TemporaryDirectory directory;
    std::vector<std::vector<int32_t>> documents(3);
    int32_t next = 0;
    for (auto& document : documents) {
        document.resize(1000003);
        for (int32_t& id : document) id = next++ % 50000;
    }
    write_store(directory.path() / "large.h5", 50000, documents);
    const TokenStore store = TokenStore::open(directory.path() / "large.h5");
    store.verify();
    std::vector<int32_t> ids(1000003);
    for (int64_t d = 0; d < 3; ++d) {
        store.read_tokens(d * 1000003, ids);
        EXPECT_EQ(ids, documents[static_cast<size_t>(d)]);
    }
}

TEST(TokenStore, AnUncommittedOrEmptyStoreLeavesNothing) {
    const TemporaryDirectory directory;
    {
        TokenStoreWriter writer(directory.path() / "a.h5", 10, "");
        writer.append(std::vector<int32_t>{1, 2});
        writer.end_document();
    }
    {
        TokenStoreWriter writer(directory.path() / "b.h5", 10, "");
        EXPECT_THROW(writer.commit(), Error);
        EXPECT_THROW(writer.append(std::vector<int32_t>{10}), Error);
    }
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(TokenStore, EveryTruncationIsRefused) {
    const TemporaryDirectory directory;
    const auto path = directory.path() / "store.h5";
    std::vector<int32_t> document(3000);
    std::iota(document.begin(), document.end(), 0);
    write_store(path, 4000, {document, document});
    const std::string whole = read_text_file(path, 1 << 20);
    for (size_t length = 0; length < whole.size(); length += length < 300 ? 7 : 197) {
        write_bytes(path, whole.substr(0, length));
        EXPECT_NE(refusal(path), "") << length;
    }
    write_bytes(path, whole.substr(0, whole.size() - 1));
    EXPECT_NE(refusal(path), "");
    write_bytes(path, whole);
    EXPECT_EQ(refusal(path, true), "");
}

TEST(TokenStore, EveryChangedByteIsFoundOrHarmless) {
    const TemporaryDirectory directory;
    const auto path = directory.path() / "store.h5";
    std::vector<int32_t> document(60);
    std::iota(document.begin(), document.end(), 0);
    write_store(path, 4000, {document, document});
    const std::string whole = read_text_file(path, 1 << 20);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](size_t at, char byte) {
        file.seekp(static_cast<std::streamoff>(at));
        file.put(byte).flush();
    };
    int64_t found = 0;
    for (size_t at = 0; at < whole.size(); ++at) {
        put(at, static_cast<char>(whole[at] ^ (1 << at % 8)));
        if (refusal(path, true) != "")
            ++found;
        else
            EXPECT_EQ(TokenStore::open(path).tokens(), 120);
        put(at, whole[at]);
    }
    EXPECT_EQ(refusal(path, true), "");
    // The bytes that count: 120 tokens of 2 bytes, 3 offsets of 8.
    EXPECT_GE(found, 120 * 2 + 3 * 8);
}

// A store made by hand, wrong in one way.
struct Wrong {
    bool chunked = false, external = false, soft_link = false, no_hash = false;
    int64_t version = 1, vocab_size = 100;
    hid_t token_type = H5T_STD_U16LE;
    std::vector<int64_t> offsets{0, 2, 4};
};

void attribute(hid_t file, const char* name, hid_t type, const void* value) {
    const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    const Hdf5Handle id(H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    H5Awrite(id, type, value);
}

void write_wrong(const std::filesystem::path& path, const Wrong& wrong) {
    const Hdf5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
                          H5Fclose);
    const uint16_t tokens[] = {1, 2, 3, 4};
    hsize_t count = 4;
    const Hdf5Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    const Hdf5Handle layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    if (wrong.chunked) H5Pset_chunk(layout, 1, &count);
    if (wrong.external) H5Pset_external(layout, "/etc/passwd", 0, 8);
    {
        const Hdf5Handle data(H5Dcreate2(file, wrong.soft_link ? "real" : "tokens",
                                         wrong.token_type, space, H5P_DEFAULT, layout, H5P_DEFAULT),
                              H5Dclose);
        if (!wrong.external) {
            H5Dwrite(data, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens);
        }
    }
    if (wrong.soft_link) H5Lcreate_soft("/real", file, "tokens", H5P_DEFAULT, H5P_DEFAULT);
    count = wrong.offsets.size();
    const Hdf5Handle offset_space(H5Screate_simple(1, &count, nullptr), H5Sclose);
    const Hdf5Handle offsets(H5Dcreate2(file, "document_offsets", H5T_STD_I64LE, offset_space,
                                        H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                             H5Dclose);
    H5Dwrite(offsets, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, wrong.offsets.data());
    attribute(file, "format_version", H5T_STD_I64LE, &wrong.version);
    attribute(file, "vocab_size", H5T_STD_I64LE, &wrong.vocab_size);
    const uint64_t checksum = 0;
    attribute(file, "tokens_xxh3", H5T_STD_U64LE, &checksum);
    attribute(file, "document_offsets_xxh3", H5T_STD_U64LE, &checksum);
    if (!wrong.no_hash) attribute(file, "tokenizer_hash", H5T_C_S1, "");
}

TEST(TokenStore, RefusesWhatIsNotAStore) {
    quiet_hdf5();
    const TemporaryDirectory directory;
    const auto path = directory.path() / "wrong.h5";
    const auto message = [&](const Wrong& wrong) {
        write_wrong(path, wrong);
        return refusal(path);
    };
    EXPECT_EQ(message({}), "");
    EXPECT_CONTAINS(message({.chunked = true}), "dataset tokens is not contiguous");
    EXPECT_CONTAINS(message({.external = true}), "dataset tokens lies in another file");
    EXPECT_CONTAINS(message({.soft_link = true}), "dataset tokens is a link");
    EXPECT_CONTAINS(message({.no_hash = true}), "has no attribute tokenizer_hash");
    EXPECT_CONTAINS(message({.version = 3}), "format version 3, this program reads 1 and 2");
    EXPECT_CONTAINS(message({.version = 2}), "has no attribute supervised_xxh3");
    EXPECT_CONTAINS(message({.vocab_size = 0}), "vocab_size 0, expected 1 to 2147483648");
    EXPECT_CONTAINS(message({.token_type = H5T_STD_I16LE}), "another element type");
    EXPECT_CONTAINS(message({.token_type = H5T_IEEE_F32LE}), "another element type");
    EXPECT_CONTAINS(message({.offsets = {0, 2, 5}}), "end with 5, there are 4 tokens");
    EXPECT_CONTAINS(message({.offsets = {1, 4}}), "begin with 1, expected 0");
    EXPECT_CONTAINS(message({.offsets = {0, 3, 2, 4}}), "fall from 3 to 2 at 2");
    EXPECT_CONTAINS(message({.offsets = {4}}), "1 document offsets");
    write_wrong(path, {});
    EXPECT_CONTAINS(refusal(path, true), "checksum");
    write_wrong(path, {.vocab_size = 4});
    EXPECT_CONTAINS(refusal(path, true), "token 3: id 4 is beyond the vocabulary of 4");

    write_bytes(path, "{\"json\": 1}");
    EXPECT_CONTAINS(refusal(path), "not a token store: no HDF5 signature in its 11 bytes");
    write_bytes(path, "");
    EXPECT_CONTAINS(refusal(path), "no HDF5 signature in its 0 bytes");
    write_bytes(path, std::string("\x89HDF\r\n\x1a\n") + std::string(1000, 'x'));
    EXPECT_CONTAINS(refusal(path), "not a readable HDF5 file");
    EXPECT_CONTAINS(refusal(directory.path() / "none.h5"), "No such file");
}

}  // namespace
}  // namespace fucina
