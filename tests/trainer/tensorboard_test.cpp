// TensorBoard's own library reads our event files, a resumed run's too.
#include "trainer/report/tensorboard.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

// What tests/oracle/read_events.py prints of a directory: {tag: [[step, value], ...]}.
nlohmann::json read_with_tensorboard(const std::string& directory) {
    const char* python = std::getenv("FUCINA_ORACLE_PYTHON");
    const std::string interpreter =
        python != nullptr ? python : FUCINA_SOURCE_DIR "/.venv-oracle/bin/python";
    const std::string command = concat("'", interpreter, "' '", FUCINA_SOURCE_DIR,
                                       "/tests/oracle/read_events.py' '", directory, "'");
    std::FILE* pipe = ::popen(command.c_str(), "r");
    std::string text;
    std::array<char, 4096> buffer;
    while (const size_t bytes = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
        text.append(buffer.data(), bytes);
    }
    EXPECT_EQ(::pclose(pipe), 0) << command;
    return nlohmann::json::parse(text, nullptr, false);
}

TEST(TensorBoard, Crc32cOfTheStandardsVectors) {  // RFC 3720, B.4
    EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
    EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
    EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

TEST(TensorBoard, ItsLibraryReadsWhatWeWrite) {
    const TemporaryDirectory directory;
    const std::string path = (directory.path() / "tensorboard").string();
    {
        TensorBoardWriter writer(path, 0);
        for (int64_t step = 1; step <= 300; ++step) {
            ASSERT_TRUE(writer.write(
                step, {{"loss", 1.0 / static_cast<double>(step)}, {"grad norm", -2.5}}));
        }
    }
    {
        TensorBoardWriter writer(path, 200);  // resumed from step 200
        for (int64_t step = 201; step <= 250; ++step) {
            ASSERT_TRUE(writer.write(step, {{"loss", 7.0}}));
        }
    }
    const nlohmann::json tags = read_with_tensorboard(path);
    ASSERT_TRUE(tags.is_object());
    ASSERT_EQ(tags.at("loss").size(), 250u);
    for (size_t i = 0; i < 250; ++i) {
        EXPECT_EQ(tags["loss"][i][0], i + 1);
        const double expected = i < 200 ? 1.0 / static_cast<double>(i + 1) : 7.0;
        EXPECT_EQ(tags["loss"][i][1].get<double>(),
                  static_cast<double>(static_cast<float>(expected)));
    }
    EXPECT_EQ(tags.at("grad norm").size(), 200u);
    EXPECT_THROW(TensorBoardWriter("/proc/nowhere", 0), Error);
}

}  // namespace
}  // namespace fucina
