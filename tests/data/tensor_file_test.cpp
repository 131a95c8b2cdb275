// safetensors: what we write we read; every way a file can lie is refused with the file and the
// tensor named.
#include "data/tensor_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "data/npy.h"
#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

std::string with_header(const std::string& header, size_t data_bytes) {
    uint64_t size = header.size();
    std::string file(reinterpret_cast<const char*>(&size), 8);
    return file + header + std::string(data_bytes, '\0');
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

// The message of the Error that opening `path` throws, "" if none.
std::string refusal(const std::filesystem::path& path) {
    try {
        TensorFile file(path);
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data);
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        return error.what();
    }
}

TEST(TensorFile, ReadsWhatTheWriterWrote) {
    const TemporaryDirectory directory;
    const auto path = directory.path() / "model.safetensors";
    const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {0.1f, -2.5f, 1e-30f};
    TensorFileWriter writer(path,
                            {{"b.weight", DType::bf16, {3}},
                             {"a.weight", DType::f32, {3, 2}},
                             {"empty", DType::f32, {0, 4}}},
                            {{"format", "pt"}});
    writer.append(std::span(b));
    writer.append(std::span(a).first(2));
    writer.append(std::span(a).subspan(2));
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.commit();

    for (const auto& from : {path, directory.path()}) {
        const TensorFile file(from);
        ASSERT_EQ(file.tensors().size(), 3u);
        EXPECT_EQ(file.tensors()[0].name, "a.weight");
        EXPECT_EQ(file.at("a.weight").shape, (std::vector<int64_t>{3, 2}));
        std::vector<float> read(6), rows(4);
        file.read(file.at("a.weight"), std::as_writable_bytes(std::span(read)));
        EXPECT_EQ(read, a);
        file.read_elements(file.at("a.weight"), 2, std::as_writable_bytes(std::span(rows)));
        EXPECT_EQ(rows, (std::vector<float>{3, 4, 5, 6}));
        std::vector<bfloat16> rounded(3);
        file.read(file.at("b.weight"), std::as_writable_bytes(std::span(rounded)));
        for (int i = 0; i < 3; ++i) EXPECT_EQ(rounded[i].bits, to_bfloat16(b[i]).bits);
        EXPECT_EQ(file.find("c"), nullptr);
        EXPECT_THROW(file.at("c"), Error);
    }
}

TEST(TensorFile, WriterWithoutCommitLeavesNothing) {
    const TemporaryDirectory directory;
    { TensorFileWriter writer(directory.path() / "x.safetensors", {{"a", DType::f32, {2}}}); }
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(TensorFile, RefusesHostileHeaders) {
    const std::string ok = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    struct Case {
        std::string bytes, message;
    };
    const auto entry = [](const std::string& fields) {
        return with_header("{\"a\":{" + fields + "}}", 8);
    };
    const std::vector<Case> cases = {
        {"", "0 bytes, at least 8"},
        {"short", "5 bytes"},
        {std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + ok, "at most 100000000"},
        {std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + ok, "a header of 100000001"},
        {std::string("\x60\0\0\0\0\0\0\0", 8) + ok, "cut short: the header ends at byte 104"},
        {with_header("", 0), "no JSON header"},
        {with_header(std::string(100000, '['), 0), "no JSON header"},
        {with_header("{\"a\":" + std::string(100000, '['), 0), "tensor a: unexpected a list"},
        {with_header("{\"a\":" + std::string(1000, '{'), 0), "not valid JSON"},
        {with_header("{\"a\":1}", 0), "unexpected a number"},
        {with_header("{\"a\"", 0), ":1:5: not valid JSON"},
        {with_header("{\"\xff\":{}}", 0), "UTF-8"},
        {with_header(ok + "x", 8), "not valid JSON"},
        {with_header(ok + std::string(8, '\0'), 8), ":1:55: not valid JSON: a zero byte"},
        {with_header("{\n" + std::string(1, '\0') + ok.substr(1), 8),
         ":2:1: not valid JSON: a zero"},
        {with_header(ok, 7), "tensor a: cut short: it ends at data byte 8, the file has 7"},
        {with_header(ok, 9), "9 bytes of data, the tensors cover 8"},
        {entry(R"("dtype":"F33","shape":[2],"data_offsets":[0,8])"), "unsupported dtype \"F33\""},
        {entry(R"("dtype":5,"shape":[2],"data_offsets":[0,8])"), "tensor a: unexpected a number"},
        {entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "negative number"},
        {entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "the number 2.0"},
        {entry(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), "unexpected a list"},
        {entry(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), "unexpected a number"},
        {entry(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"), "more than 8"},
        {entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
         "needs 12 bytes, data_offsets give 8"},
        // 2^31 * 2^31 * 4 elements of 4 bytes wrap to 0 in 64 bits
        {entry(R"("dtype":"F32","shape":[2147483648,2147483648,4],"data_offsets":[0,0])"),
         "too large"},
        {entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"),
         "unexpected the number"},
        {entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "data_offsets"},
        {entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "data_offsets"},
        {entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"),
         "unexpected"},
        {entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "gap"},
        {entry(R"("dtype":"F32","shape":[2])"), "\"data_offsets\" is missing"},
        {entry(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
         "a second \"dtype\""},
        {entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":)" + std::string(99, '[')),
         "not valid JSON: nested deeper than 64 levels"},
        {entry(R"("dtype":"F4","shape":[3],"data_offsets":[0,8])"), "ends within a byte"},
        {entry(R"("dtype":"U16","shape":[3],"data_offsets":[0,8])"), "needs 6 bytes"},
        {with_header(R"({"a":null})", 0), "unexpected null"},
        {with_header(R"({"__metadata__":{"a":null}})", 0), "unexpected null"},
        {with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                     R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                     8),
         "second entry of this name"},
        {with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                     R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                     8),
         "overlap"},
        {with_header("{\"a\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
         "control"},
        {with_header("{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
         "without a name"},
        {with_header(R"({"__metadata__":{"a":1}})", 0), "unexpected a number"},
    };
    const TemporaryDirectory directory;
    const auto path = directory.path() / "hostile.safetensors";
    for (const Case& hostile : cases) {
        write_file(path, hostile.bytes);
        EXPECT_CONTAINS(refusal(path), hostile.message);
        EXPECT_CONTAINS(refusal(path), "hostile.safetensors");
    }
    write_file(path, with_header(ok, 8));
    EXPECT_EQ(refusal(path), "");
    write_file(path, with_header("{}", 0));
    EXPECT_EQ(refusal(path), "");
    for (
        const std::string& odd :
        {with_header(R"({"__metadata__":null,)" + ok.substr(1) + " \n\t", 8),
         entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
         entry(
             R"("x":{"dtype":[{"y":[null,-1,2.5,true,"z"]}]},"dtype":"F32","shape":[2],"data_offsets":[0,8])"),
         entry(R"("dtype":"F4","shape":[16],"data_offsets":[0,8])")}) {
        write_file(path, odd);
        EXPECT_EQ(refusal(path), "") << odd.substr(8);
    }
}

TEST(TensorFile, EveryTruncationAndByteChangeIsRefusedOrHarmless) {
    const std::string good = with_header(
        R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}})",
        12);
    const TemporaryDirectory directory;
    const auto path = directory.path() / "mutant.safetensors";
    for (size_t length = 0; length < good.size(); ++length) {
        write_file(path, good.substr(0, length));
        EXPECT_NE(refusal(path), "") << length;
    }
    write_file(path, good);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](size_t at, char byte) {
        file.seekp(static_cast<std::streamoff>(at));
        file.put(byte).flush();
    };
    for (size_t at = 0; at < good.size() - 12; ++at) {
        for (const int flip : {1, 2, 0x10, 0x80}) {
            put(at, static_cast<char>(good[at] ^ flip));
            refusal(path);  // an Error or a valid other file, never anything else
        }
        put(at, good[at]);
    }
    EXPECT_EQ(refusal(path), "");
}

TEST(TensorFile, ReadsShardsAndRefusesALyingIndex) {
    const TemporaryDirectory directory;
    const auto index = directory.path() / "model.safetensors.index.json";
    for (const char* name : {"a", "b"}) {
        TensorFileWriter writer(directory.path() / (std::string("model-") + name + ".safetensors"),
                                {{name, DType::f32, {1}}});
        const float value = *name;
        writer.append(std::span(&value, 1));
        writer.commit();
    }
    const auto with_map = [&](const std::string& map) {
        write_file(index,
                   R"({"metadata":{"total_size":8,"deep":[{"x":[1]}]},"weight_map":)" + map + "}");
        return refusal(directory.path());
    };
    EXPECT_EQ(with_map(R"({"a":"model-a.safetensors","b":"model-b.safetensors"})"), "");
    const TensorFile file(directory.path());
    float value = 0;
    file.read(file.at("b"), std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(value, static_cast<float>('b'));
    EXPECT_CONTAINS(file.file_of(file.at("b")).string(), "model-b.safetensors");

    EXPECT_CONTAINS(with_map(R"({"a":"../../model-a.safetensors"})"), "shard name");
    EXPECT_CONTAINS(with_map(R"({"a":"/etc/x.safetensors"})"), "shard name");
    EXPECT_CONTAINS(with_map(R"({"a":"..safetensors"})"), "shard name");
    EXPECT_CONTAINS(with_map(R"({"a":"x\u0000.safetensors"})"), "shard name");
    EXPECT_CONTAINS(with_map(R"({"a":"passwd"})"), "shard name");
    // What is promised and not there is missed by who wants it, and by nobody else.
    const auto asked = [&](const std::string& map, const char* name) -> std::string {
        EXPECT_EQ(with_map(map), "");
        try {
            TensorFile(directory.path()).at(name);
        } catch (const Error& error) {
            return error.what();
        }
        return "";
    };
    EXPECT_CONTAINS(
        asked(R"({"a":"model-a.safetensors","c":"model-c.safetensors"})", "c"),
        "model-c.safetensors: missing; model.safetensors.index.json names it for tensor c");
    EXPECT_CONTAINS(
        asked(R"({"c":"model-a.safetensors"})", "c"),
        "model-a.safetensors: tensor c: missing; model.safetensors.index.json says it is");
    EXPECT_EQ(asked(R"({"a":"model-a.safetensors","c":"model-c.safetensors"})", "a"), "");
    write_file(directory.path() / "model-x.safetensors",
               "version https://git-lfs.github.com/spec/v1\n");
    EXPECT_EQ(asked(R"({"a":"model-a.safetensors","x":"model-x.safetensors"})", "a"), "");
    EXPECT_CONTAINS(asked(R"({"a":"model-a.safetensors","x":"model-x.safetensors"})", "x"),
                    "model-x.safetensors: a Git LFS pointer");
    EXPECT_CONTAINS(with_map(R"({"a":"model-b.safetensors","b":"model-a.safetensors"})"),
                    "tensor b: model.safetensors.index.json says it is in model-a.safetensors");
    EXPECT_EQ(with_map(R"({"a":"x.safetensors","a":"model-a.safetensors"})"), "");  // the last
    EXPECT_CONTAINS(with_map(R"({"a":["model-a.safetensors"]})"), "shard name of a is [");
    EXPECT_CONTAINS(with_map("[]"), "no \"weight_map\"");
    EXPECT_CONTAINS(with_map("{}"), "no \"weight_map\"");
    write_file(index, "{\"metadata\":" + std::string(100000, '['));
    EXPECT_CONTAINS(refusal(directory.path()), "not valid JSON: nested deeper than 64 levels");
    for (const char* no_map : {"[]", "1", "null", "{\"weight_map\":NaN}"}) {
        write_file(index, no_map);
        EXPECT_CONTAINS(refusal(directory.path()), "no \"weight_map\"");
    }

    TensorFileWriter both(directory.path() / "model-c.safetensors",
                          {{"a", DType::f32, {0}}, {"c", DType::f32, {0}}});
    both.commit();
    EXPECT_CONTAINS(with_map(R"({"a":"model-a.safetensors","c":"model-c.safetensors"})"),
                    "model-c.safetensors: tensor a: model.safetensors.index.json says it is in "
                    "model-a.safetensors");
}

TEST(TensorFile, TheSingleFileIsReadAndAnIndexOfOthersIsSaid) {
    const TemporaryDirectory directory;
    for (const char* name : {"model.safetensors", "model-1.safetensors"}) {
        TensorFileWriter writer(directory.path() / name, {{"a", DType::f32, {1}}});
        const float value = name[5] == '.' ? 1 : 2;
        writer.append(std::span(&value, 1));
        writer.commit();
    }
    EXPECT_EQ(TensorFile(directory.path()).note(), "");
    const auto index = directory.path() / "model.safetensors.index.json";
    write_file(index, R"({"weight_map":{"a":"model.safetensors"}})");
    EXPECT_EQ(TensorFile(directory.path()).note(), "");
    write_file(index, R"({"weight_map":{"a":"model-1.safetensors"}})");
    const TensorFile file(directory.path());
    EXPECT_CONTAINS(file.note(), "which names model-1.safetensors; model.safetensors was read");
    float value = 0;
    file.read(file.at("a"), std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(value, 1);
}

TEST(TensorFile, MissingPathsAreNamed) {
    const TemporaryDirectory directory;
    EXPECT_CONTAINS(refusal(directory.path()), "neither model.safetensors nor");
    EXPECT_CONTAINS(refusal(directory.path() / "none.safetensors"), "No such file");
    EXPECT_CONTAINS(refusal("/dev/null"), "not a regular file");
}

TEST(Npy, HeaderIsAlignedAndComplete) {
    const TemporaryDirectory directory;
    const std::vector<float> values = {1, 2, 3, 4, 5, 6};
    write_npy(directory.path() / "x.npy", std::vector<int64_t>{2, 3}, values);
    const std::string bytes = read_text_file(directory.path() / "x.npy", 1000);
    EXPECT_EQ(bytes.size(), 128u + 24u);
    EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
    EXPECT_CONTAINS(bytes, "'descr': '<f4', 'fortran_order': False, 'shape': (2,3,), }");
    EXPECT_EQ(bytes[127], '\n');
}

}  // namespace
}  // namespace fucina
