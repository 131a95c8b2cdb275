// `fucina data` as a user runs it: what it prints, its exit codes, and one line per error.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "data/file.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

class DataCommand : public testing::Test {
  protected:
    // Runs the program in the temporary directory and keeps both its outputs.
    int run(const std::string& arguments, const std::string& before = "true") {
        const std::string command = "cd " + directory_.path().string() + " && " + before +
                                    " && " FUCINA_BINARY " data " + arguments +
                                    " >out.txt 2>err.txt";
        const int status = std::system(command.c_str());
        out_ = read_text_file(directory_.path() / "out.txt", 1 << 20);
        error_ = read_text_file(directory_.path() / "err.txt", 1 << 20);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    void write(const std::string& name, const std::string& bytes) {
        std::ofstream(directory_.path() / name, std::ios::binary) << bytes;
    }

    TemporaryDirectory directory_;
    std::string out_, error_;
};

TEST_F(DataCommand, PreparesAndChecksIds) {
    write("ids.json", "[[1, 2, 3], [255]]");
    EXPECT_EQ(run("prepare --input ids.json --vocab-size 256 --output store.h5"), 0) << error_;
    EXPECT_CONTAINS(out_, "documents 2\ntokens    4 (");
    EXPECT_EQ(run("check store.h5 ids.json"), 0) << error_;
    EXPECT_CONTAINS(out_,
                    "store.h5: token store, whole\ndocuments 2\ntokens    4\nvocab     256\n");
    EXPECT_CONTAINS(out_, "ids.json: token ids\ndocuments 2\ntokens    4\nlargest   id 255\n");
    EXPECT_EQ(error_, "");
}

TEST_F(DataCommand, RefusesBadInputInOneLine) {
    write("ids.json", "[[1, 2, 300]]");
    EXPECT_EQ(run("prepare --input ids.json --vocab-size 256 --output store.h5"), 3);
    EXPECT_EQ(error_,
              "error: ids.json: list 0, position 2: id 300 is beyond the vocabulary of 256\n");
    EXPECT_FALSE(std::filesystem::exists(directory_.path() / "store.h5"));
    EXPECT_EQ(run("prepare --input ids.json --output store.h5"), 2);
    EXPECT_CONTAINS(error_, "--tokenizer is needed");
    EXPECT_EQ(run("prepare --input none.json --vocab-size 256 --output store.h5"), 3);
    EXPECT_EQ(error_, "error: none.json: cannot open: No such file or directory\n");
    EXPECT_EQ(run("check ids.csv"), 2);
    EXPECT_CONTAINS(error_, "say the format");
    write("store.h5", "not HDF5");
    EXPECT_EQ(run("check store.h5"), 3);
    EXPECT_EQ(error_, "error: store.h5: not a token store: no HDF5 signature in its 8 bytes\n");
}

TEST_F(DataCommand, AFullDiskIsOneLineAndLeavesNothing) {
    std::string ids = "[[0";
    for (int i = 0; i < 20000; ++i) ids += ",1";
    write("ids.json", ids + "]]");
    // The store needs 40 kB; a limit of 12 kB (24 blocks) stands for the full disk.
    EXPECT_EQ(run("prepare --input ids.json --vocab-size 256 --output store.h5", "ulimit -f 24"),
              11);
    EXPECT_CONTAINS(error_, "error: store.h5: HDF5 cannot write it; is the disk full?");
    EXPECT_EQ(error_.find('\n'), error_.size() - 1);
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
        EXPECT_EQ(entry.path().filename().string().find("store"), std::string::npos) << entry;
    }
}

TEST_F(DataCommand, ListsBrokenLines) {
    std::string lines = "broken\n";
    for (int i = 0; i < 1000; ++i) lines += "{\"text\": \"ab\"}\n";
    write("a.jsonl", lines);
    EXPECT_EQ(run("check a.jsonl"), 0) << error_;
    EXPECT_CONTAINS(out_, "documents 1,000\n");
    EXPECT_CONTAINS(out_,
                    "note      1 of 1001 lines skipped: 1 bad JSON\n"
                    "            a.jsonl:1:1: not valid JSON: a value is expected\n");
    write("b.jsonl", "broken\n{\"text\": \"\"}\n{\"text\": \"ab\"}\n");
    EXPECT_EQ(run("check b.jsonl"), 3);
    EXPECT_CONTAINS(out_, "b.jsonl:2: empty text");
    EXPECT_EQ(error_,
              "error: b.jsonl: 2 of 3 lines are broken (1 bad JSON, 1 empty text; first: "
              "b.jsonl:1:1: not valid JSON: a value is expected; `fucina data check` lists all), "
              "more than 0.1 %; mend them, or go on without them by data.broken_limit = 0.667 "
              "(--broken-limit 0.667)\n");
    EXPECT_EQ(run("check b.jsonl --broken-limit 0.667"), 0);
    std::string many;
    for (int i = 1; i <= 100; ++i) many += "{\"id\": 1}\n";
    write("c.jsonl", many + "{\"text\": \"ab\"}\n");
    EXPECT_EQ(run("check c.jsonl --broken-limit 1"), 0);
    EXPECT_CONTAINS(out_, "  c.jsonl:100: no \"text\", but \"id\"\n");  // every one is listed
}

}  // namespace
}  // namespace fucina
