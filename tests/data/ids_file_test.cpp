// The JSON ids reader: exact ids, and one line that names the place of the first wrong thing.
#include "data/ids_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

std::string refusal(const std::string& json) {
    const TemporaryDirectory directory;
    const auto path = directory.path() / "ids.json";
    std::ofstream(path, std::ios::binary) << json;
    try {
        read_ids(path, 256);
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data);
        const std::string message = error.what();
        return message.substr(message.find("ids.json"));
    }
}

TEST(IdsFile, ReadsLists) {
    const TemporaryDirectory directory;
    std::ofstream(directory.path() / "ids.json") << " [[0, 255],\n [], [7]]\n";
    EXPECT_EQ(read_ids(directory.path() / "ids.json", 256),
              (std::vector<std::vector<int32_t>>{{0, 255}, {}, {7}}));
}

TEST(IdsFile, NamesThePlaceOfWhatIsWrong) {
    EXPECT_EQ(refusal("[[1],[2],[3],[0,1,900]]"),
              "ids.json: list 3, position 2: id 900 is beyond the vocabulary of 256");
    EXPECT_EQ(refusal("[[1,256]]"),
              "ids.json: list 0, position 1: id 256 is beyond the vocabulary of 256");
    EXPECT_EQ(refusal("[[1,-1]]"), "ids.json: list 0, position 1: id -1 is negative");
    EXPECT_EQ(refusal("[[1],[4294967296]]"),
              "ids.json: list 1, position 0: id 4294967296 is beyond the vocabulary of 256");
    EXPECT_EQ(refusal("[[1.5]]"), "ids.json: list 0, position 0: the number 1.5 is not a token id");
    EXPECT_EQ(refusal("[[99999999999999999999999]]"),
              "ids.json: list 0, position 0: the number 99999999999999999999999 is not a token id");
    EXPECT_EQ(refusal("[[\"a\"]]"),
              "ids.json: list 0, position 0: the string \"a\" is not a token id");
    EXPECT_EQ(refusal("[[true]]"), "ids.json: list 0, position 0: a boolean is not a token id");
    EXPECT_EQ(refusal("[[[1]]]"), "ids.json: list 0, position 0: a list is not a token id");
    EXPECT_CONTAINS(refusal("[1, 2]"), "the number 1 where a list of lists of ids was expected");
    EXPECT_CONTAINS(refusal("[-1]"), "the number -1 where a list of lists");
    EXPECT_CONTAINS(refusal("{\"a\": 1}"), "an object where a list of lists");
    EXPECT_CONTAINS(refusal(std::string(100000, '[')), "a list is not a token id");
    EXPECT_CONTAINS(refusal("[[1],\n [2,,3]]"), "ids.json:2:5: not valid JSON");
    EXPECT_CONTAINS(refusal("[[1, 2"), "ids.json:1:7: not valid JSON");
    EXPECT_CONTAINS(refusal(""), "ids.json:1:1: not valid JSON");
    EXPECT_EQ(refusal("[[],[]]"), "ids.json: holds no token ids");
    EXPECT_EQ(refusal("[]"), "ids.json: holds no token ids");
}

}  // namespace
}  // namespace fucina
