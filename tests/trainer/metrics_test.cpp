// metrics.jsonl: floats come back bit for bit, and a resume leaves each step standing once.
#include "trainer/metrics.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "kernels/error.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

std::string read_all(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

StepMetrics step(int64_t number) {
    StepMetrics metrics;
    metrics.step = number;
    metrics.loss = 10.0 / static_cast<double>(number);
    metrics.tokens = 512;
    metrics.expert_load = {1.5, 2.0};
    return metrics;
}

TEST(Metrics, FloatsReadBackToTheSameBits) {
    std::mt19937_64 random(3);
    for (int round = 0; round < 20000; ++round) {
        const double any = std::bit_cast<double>(random());
        const auto narrow = std::bit_cast<float>(static_cast<uint32_t>(random()));
        StepMetrics metrics = step(1 + round);
        metrics.loss = any;
        metrics.grad_norm = narrow;
        metrics.valid_loss = static_cast<double>(round);
        const std::string line = metrics_line(metrics);
        const nlohmann::json json = nlohmann::json::parse(line);
        ASSERT_TRUE(json.at("valid_loss").is_number_float()) << line;
        if (std::isfinite(any)) {
            ASSERT_EQ(std::bit_cast<uint64_t>(json.at("loss").get<double>()),
                      std::bit_cast<uint64_t>(any))
                << line;
        } else {
            ASSERT_TRUE(json.at("loss").is_null());
        }
        if (std::isfinite(narrow)) {
            const auto back = static_cast<float>(json.at("grad_norm").get<double>());
            ASSERT_EQ(std::bit_cast<uint32_t>(back), std::bit_cast<uint32_t>(narrow)) << line;
        }
        const std::optional<StepMetrics> parsed = parse_metrics_line(line);
        ASSERT_TRUE(parsed);
        ASSERT_EQ(metrics_line(*parsed), line);
    }
}

TEST(Metrics, HasTheKeysOfItsFormat) {
    StepMetrics metrics = step(7);
    metrics.balance_loss = 1.0;
    metrics.mtp_loss = 2.5;
    metrics.valid_loss = 4;
    metrics.valid_bits_per_byte = 1.5;
    metrics.expert_counts = {{1, 2}, {3, 0}};
    metrics.lr = 3e-4;
    metrics.tokens_per_s = 1234.5;
    metrics.compute_s = 0.5;
    metrics.exposed_s = 0.25;
    metrics.dropped = 3;
    metrics.grad_norm = 0.1;
    EXPECT_EQ(metrics_line(metrics),
              "{\"step\":7,\"loss\":1.4285714285714286,\"balance_loss\":1.0,\"mtp_loss\":2.5,"
              "\"valid_loss\":4.0,\"valid_bits_per_byte\":1.5,\"grad_norm\":0.1,\"lr\":0.0003,\"tokens\":512,\"tokens_per_s\":1234.5,"
              "\"compute_s\":0.5,\"exposed_s\":0.25,"
              "\"expert_load\":[1.5,2.0],\"expert_counts\":[[1,2],[3,0]],\"dropped\":3}");
}

TEST(Metrics, ResumeDropsLaterAndTornLines) {
    const TemporaryDirectory directory;
    const std::string path = (directory.path() / "metrics.jsonl").string();
    {
        MetricsFile file(path, 0);
        for (int i = 1; i <= 9; ++i) ASSERT_TRUE(file.append(step(i)));
        ASSERT_TRUE(file.sync());
    }
    const std::string whole = read_all(path);
    // Cut the file at every byte of its last two lines, resume at 8: steps 1..8 stand there once.
    const size_t eighth = whole.rfind("{\"step\":8");
    for (size_t cut = eighth; cut <= whole.size(); ++cut) {
        std::ofstream(path, std::ios::binary | std::ios::trunc) << whole.substr(0, cut);
        MetricsFile file(path, 8);
        const size_t kept = read_metrics(path).size();
        ASSERT_EQ(kept, cut > whole.find('\n', eighth) ? 8u : 7u) << cut;
        for (int64_t next = static_cast<int64_t>(kept) + 1; next <= 9; ++next) {
            ASSERT_TRUE(file.append(step(next)));
        }
        ASSERT_EQ(read_all(path), whole) << cut;
    }
    MetricsFile fresh(path, 0);
    EXPECT_EQ(read_all(path), "");
}

TEST(Metrics, ForeignBytesEndTheReading) {
    const TemporaryDirectory directory;
    const std::string path = (directory.path() / "metrics.jsonl").string();
    for (const char* foreign :
         {"\xff\x01\n", "\n", "[]\n", "{\"step\":\"2\"}\n", "{\"step\":1e99}\n", "{"}) {
        std::ofstream(path, std::ios::binary | std::ios::trunc)
            << metrics_line(step(1)) << "\n"
            << foreign << metrics_line(step(2)) << "\n";
        EXPECT_EQ(read_metrics(path).size(), 1u) << foreign;
        MetricsFile file(path, 2);
        EXPECT_EQ(read_all(path), metrics_line(step(1)) + "\n") << foreign;
    }
    EXPECT_FALSE(parse_metrics_line("{\"loss\":1.0}"));
    EXPECT_FALSE(parse_metrics_line("{\"step\":1,\"loss\":1.0,\"expert_load\":3}"));
    EXPECT_THROW(MetricsFile("/nonexistent/metrics.jsonl", 0), Error);
}

}  // namespace
}  // namespace fucina
