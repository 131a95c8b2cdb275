// report.html: one self-contained page, whatever stands in the run directory.
#include "trainer/report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <random>

#include "kernels/error.h"
#include "tests/support/temporary_directory.h"
#include "trainer/metrics.h"
#include "trainer/report/svg_chart.h"

namespace fucina {
namespace {

size_t count_of(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++count;
    return count;
}

StepMetrics step(int64_t number) {
    StepMetrics metrics;
    metrics.step = number;
    metrics.loss = 5.0 / std::sqrt(static_cast<double>(number));
    metrics.grad_norm = 1.0 / static_cast<double>(number);
    metrics.lr = 1e-3;
    metrics.tokens = 1000;
    metrics.tokens_per_s = 2000;
    metrics.expert_load = {1.5, 2.0};
    if (number % 10 == 0) {
        metrics.valid_loss = metrics.loss;
        metrics.expert_counts = {{1, 2, 3}, {0, 0, 6}};
    }
    return metrics;
}

TEST(Report, ShowsEverythingOnOneSelfContainedPage) {
    const TemporaryDirectory directory;
    const std::string run = directory.path().string();
    {
        MetricsFile file(run + "/metrics.jsonl", 0);
        for (int64_t i = 1; i <= 40; ++i) ASSERT_TRUE(file.append(step(i)));
    }
    std::ofstream(run + "/samples.jsonl")
        << "{\"step\":9,\"prompt\":\"A <b>\",\"text\":\" & \\\"c\\\"\"}\nnot json\n[1]\n";
    std::ofstream(run + "/facts.json") << "{\"parameters\":1234567,\"by\":\"<me>\"}";
    std::ofstream(run + "/recipe.resolved.toml") << "[run]\ndir = \"<x>\"\n";
    const std::string path = write_report(run);
    std::ifstream file(path);
    const std::string html((std::istreambuf_iterator<char>(file)), {});
    for (const char* part : {"<h2>Loss", "<h2>Learning rate", "<h2>Gradient norm", "<h2>Throughput",
                             "<h2>Expert load over time", "<h2>Experts", "<h2>Samples", "held out",
                             "A &lt;b&gt;", "1,234,567", "&lt;me&gt;", "&lt;x&gt;", "40,000"}) {
        EXPECT_NE(html.find(part), std::string::npos) << part;
    }
    for (const char* tag : {"svg", "section", "div", "text", "p", "table", "style", "span"}) {
        EXPECT_EQ(count_of(html, concat("<", tag, ">")) + count_of(html, concat("<", tag, " ")),
                  count_of(html, concat("</", tag, ">")))
            << tag;
    }
    for (const char* outside : {"http", "src=", "@import", "url(", "<script", "<link"}) {
        EXPECT_EQ(html.find(outside), std::string::npos) << outside;
    }
    EXPECT_EQ(html.find("nan"), std::string::npos);
    EXPECT_EQ(html.find("inf"), std::string::npos);
}

TEST(Report, OddRunsStillMakeAPage) {
    const TemporaryDirectory directory;
    const std::string run = directory.path().string();
    EXPECT_THROW(report_html(run), Error);
    StepMetrics odd = step(10);
    odd.loss = odd.grad_norm = odd.lr = odd.tokens_per_s = std::numeric_limits<double>::quiet_NaN();
    odd.expert_load = {std::numeric_limits<double>::infinity()};
    odd.expert_counts = {{}, {0, 0}};
    odd.skipped = true;
    {
        MetricsFile file(run + "/metrics.jsonl", 0);
        ASSERT_TRUE(file.append(odd));
    }
    EXPECT_NE(report_html(run).find("nothing recorded"), std::string::npos);
    StepMetrics huge = step(11);
    huge.loss = 1e300;
    huge.grad_norm = 1e-300;
    huge.tokens_per_s = -1e300;
    MetricsFile(run + "/metrics.jsonl", 10).append(huge);
    EXPECT_NE(report_html(run).find("1e+300"), std::string::npos);
}

TEST(Report, LongRunsStaySmallAndKeepTheirSpikes) {
    const TemporaryDirectory directory;
    const std::string run = directory.path().string();
    {
        MetricsFile file(run + "/metrics.jsonl", 0);
        for (int64_t i = 1; i <= 50000; ++i) {
            StepMetrics metrics = step(i);
            if (i == 31234) metrics.loss = 77.0;
            ASSERT_TRUE(file.append(metrics));
        }
    }
    EXPECT_LT(report_html(run).size(), 600000u);
    Series series{"", "", {}, {}};
    for (int i = 0; i < 50000; ++i) {
        series.x.push_back(i);
        series.y.push_back(i == 31234 ? 77.0 : 1.0);
    }
    const Series thin = thinned(series, 500);
    EXPECT_LE(thin.x.size(), 1000u);
    EXPECT_TRUE(std::is_sorted(thin.x.begin(), thin.x.end()));
    EXPECT_EQ(*std::max_element(thin.y.begin(), thin.y.end()), 77.0);
}

TEST(Report, NumbersReadWell) {
    EXPECT_EQ(human_number(1234567), "1,234,567");
    EXPECT_EQ(human_number(-1234), "-1,234");
    EXPECT_EQ(human_number(123), "123");
    EXPECT_EQ(human_number(0.0123), "0.0123");
    EXPECT_EQ(human_number(3.2e-5), "3.2e-05");
    EXPECT_EQ(human_number(0), "0");
}

}  // namespace
}  // namespace fucina
