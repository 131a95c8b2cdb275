#include "trainer/report/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/file.h"
#include "kernels/error.h"
#include "trainer/metrics.h"
#include "trainer/report/report_style.h"
#include "trainer/report/svg_chart.h"

namespace fucina {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

template <class Get>
Series series_of(const std::vector<StepMetrics>& steps, const char* name, const char* css_class,
                 const Get& get) {
    Series series{name, css_class, {}, {}};
    for (const StepMetrics& step : steps) {
        series.x.push_back(static_cast<double>(step.step));
        series.y.push_back(get(step));
    }
    return series;
}

// Mean of the neighbours within a sixtieth of the run on either side; no lag, and gaps stay gaps.
Series smoothed(const Series& series, const char* name, const char* css_class) {
    const auto count = static_cast<int64_t>(series.y.size());
    std::vector<double> sums(series.y.size() + 1, 0), numbers(series.y.size() + 1, 0);
    for (size_t i = 0; i < series.y.size(); ++i) {
        const bool finite = std::isfinite(series.y[i]);
        sums[i + 1] = sums[i] + (finite ? series.y[i] : 0);
        numbers[i + 1] = numbers[i] + (finite ? 1 : 0);
    }
    Series out{name, css_class, series.x, series.y};
    for (int64_t i = 0; i < count; ++i) {
        const auto from = static_cast<size_t>(std::max<int64_t>(0, i - count / 60));
        const auto to = static_cast<size_t>(std::min(count, i + count / 60 + 1));
        if (std::isfinite(series.y[static_cast<size_t>(i)])) {
            out.y[static_cast<size_t>(i)] = (sums[to] - sums[from]) / (numbers[to] - numbers[from]);
        }
    }
    return out;
}

double median(std::vector<double> values) {
    std::erase_if(values, [](double value) { return !std::isfinite(value); });
    if (values.empty()) return kNaN;
    const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

std::string fact(const std::string& value, const std::string& name) {
    return fmt::format("<div class=\"fact\"><b>{}</b><span>{}</span></div>", html_escape(value),
                       html_escape(name));
}

std::string section(const char* title, const std::string& note, const std::string& body,
                    const char* css_class = "") {
    return fmt::format("<section class=\"{}\"><h2>{}</h2><p>{}</p>{}</section>\n", css_class, title,
                       note, body);
}

std::string facts_row(const std::vector<StepMetrics>& steps) {
    double tokens = 0, best_valid = kNaN, last_loss = kNaN;
    int64_t skipped = 0;
    std::vector<double> rates;
    for (const StepMetrics& step : steps) {
        tokens += static_cast<double>(step.tokens);
        skipped += step.skipped;
        rates.push_back(step.tokens_per_s);
        if (std::isfinite(step.loss)) last_loss = step.loss;
        const double valid = step.valid_loss.value_or(kNaN);
        if (std::isfinite(valid) && !(valid >= best_valid)) best_valid = valid;
    }
    std::string row = fact(human_number(static_cast<double>(steps.back().step)), "steps");
    row += fact(human_number(tokens), "tokens seen");
    row += fact(fmt::format("{:.4f}", last_loss),
                fmt::format("loss at the end, from {:.4f}", steps.front().loss));
    if (std::isfinite(best_valid)) {
        row += fact(fmt::format("{:.4f}", best_valid),
                    fmt::format("best held-out loss, perplexity {:.4g}", std::exp(best_valid)));
    }
    row += fact(human_number(std::round(median(rates))), "tokens/s, median");
    if (skipped > 0)
        row += fact(human_number(static_cast<double>(skipped)), "steps skipped: not finite");
    return "<div class=\"facts\">" + row + "</div>\n";
}

// A value that only some steps have.
template <class Get>
Series sparse_series(const std::vector<StepMetrics>& steps, const char* name, const char* css_class,
                     const Get& get) {
    Series series{name, css_class, {}, {}};
    for (const StepMetrics& step : steps) {
        const std::optional<double> value = get(step);
        if (!value) continue;
        series.x.push_back(static_cast<double>(step.step));
        series.y.push_back(*value);
    }
    return series;
}

std::string loss_section(const std::vector<StepMetrics>& steps) {
    const Series raw = series_of(steps, "each step", "faint", [](const auto& s) { return s.loss; });
    LineChart chart{.series = {raw, smoothed(raw, "training, smoothed", "ember")}, .wide = true};
    const Series mtp = sparse_series(steps, "", "", [](const auto& s) { return s.mtp_loss; });
    if (!mtp.x.empty()) chart.series.push_back(smoothed(mtp, "two tokens ahead (MTP)", "moss"));
    Series valid =
        sparse_series(steps, "held out", "steel", [](const auto& s) { return s.valid_loss; });
    constexpr size_t kMostDots = 60;
    valid.dots = valid.x.size() <= kMostDots;
    if (!valid.x.empty()) chart.series.push_back(std::move(valid));
    return section("Loss", "cross-entropy per token, nats", line_chart_svg(chart), "wide");
}

std::string small_charts(const std::vector<StepMetrics>& steps) {
    const Series lr = series_of(steps, "", "steel", [](const auto& s) { return s.lr; });
    const Series norm =
        series_of(steps, "each step", "faint", [](const auto& s) { return s.grad_norm; });
    const Series rate =
        series_of(steps, "each step", "mist", [](const auto& s) { return s.tokens_per_s; });
    const Series balance =
        sparse_series(steps, "", "moss", [](const auto& s) { return s.balance_loss; });
    const bool even = !balance.x.empty();  // the last one takes a whole row otherwise
    std::string html = section("Learning rate", "of each step",
                               line_chart_svg({.series = {lr}, .from_zero = true}));
    html += section("Gradient norm", "global, before clipping; logarithmic",
                    line_chart_svg({.series = {norm, smoothed(norm, "smoothed", "ember")},
                                    .logarithmic = true}));
    html += section("Throughput", "tokens per second, saving and evaluating not counted",
                    line_chart_svg({.series = {rate, smoothed(rate, "smoothed", "steel")},
                                    .from_zero = true,
                                    .wide = !even}),
                    even ? "" : "wide");
    if (even) {
        html += section("Balance loss", "sequence-wise, unweighted, summed over the MoE layers",
                        line_chart_svg({.series = {balance}}));
    }
    return html;
}

// Imbalance of each layer over the steps, the highest of each column's steps.
std::string imbalance_section(const std::vector<StepMetrics>& steps) {
    size_t layers = 0;
    for (const StepMetrics& step : steps) layers = std::max(layers, step.expert_load.size());
    if (layers == 0) return "";
    constexpr size_t kColumns = 120;
    const size_t columns = std::min(kColumns, steps.size());
    HeatMap map;
    map.rows.assign(layers, std::vector<double>(columns, kNaN));
    map.first_x = static_cast<double>(steps.front().step);
    map.last_x = static_cast<double>(steps.back().step);
    map.x_name = "step";
    double highest = 1.5;
    for (size_t i = 0; i < steps.size(); ++i) {
        for (size_t layer = 0; layer < steps[i].expert_load.size(); ++layer) {
            double& cell = map.rows[layer][i * columns / steps.size()];
            cell = std::fmax(cell, steps[i].expert_load[layer]);
            if (std::isfinite(cell)) highest = std::max(highest, cell);
        }
    }
    for (size_t layer = 0; layer < layers; ++layer)
        map.row_names.push_back(concat("MoE ", layer + 1));
    map.hottest = highest;
    return section("Expert load over time",
                   "the busiest expert's tokens over the mean, per layer; pale is balanced",
                   heat_map_svg(map), "wide");
}

// Load of each expert at the last step that recorded all counts.
std::string experts_section(const std::vector<StepMetrics>& steps) {
    const auto found = std::find_if(steps.rbegin(), steps.rend(),
                                    [](const StepMetrics& s) { return !s.expert_counts.empty(); });
    if (found == steps.rend()) return "";
    HeatMap map;
    map.diverging = true;
    map.x_name = "expert";
    size_t experts = 0;
    for (const auto& layer : found->expert_counts) experts = std::max(experts, layer.size());
    for (const auto& layer : found->expert_counts) {
        double sum = 0;
        for (const int64_t count : layer) sum += static_cast<double>(count);
        const double mean = sum / std::max(1.0, static_cast<double>(layer.size()));
        std::vector<double> row(experts, kNaN);
        for (size_t expert = 0; expert < layer.size() && mean > 0; ++expert) {
            row[expert] = static_cast<double>(layer[expert]) / mean;
        }
        map.row_names.push_back(concat("MoE ", map.rows.size() + 1));
        map.rows.push_back(std::move(row));
    }
    if (experts == 0) return "";
    map.last_x = static_cast<double>(experts - 1);
    return section("Experts",
                   fmt::format("tokens of each expert over the layer's mean, at step {}; "
                               "blue is less than its share, red more",
                               found->step),
                   heat_map_svg(map), "wide");
}

// The last few of samples.jsonl; lines that are not samples are passed over.
std::string samples_section(const std::string& path) {
    constexpr size_t kShown = 4;
    std::vector<std::string> samples;
    std::ifstream file(path, std::ios::binary);
    for (std::string line; std::getline(file, line);) {
        const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
        if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) continue;
        const auto text_of = [&](const char* key) {
            const auto value = json.find(key);
            return value != json.end() && value->is_string() ? value->get<std::string>() : "";
        };
        const auto step = json.find("step");
        const std::string when =
            step != json.end() && step->is_number() ? concat("step ", step->dump()) : "";
        samples.push_back(fmt::format("<div class=\"sample\"><i>{}</i><b>{}</b>{}</div>", when,
                                      html_escape(text_of("prompt")),
                                      html_escape(text_of("text"))));
    }
    if (samples.empty()) return "";
    std::string html;
    for (size_t i = samples.size() - std::min(kShown, samples.size()); i < samples.size(); ++i) {
        html += samples[i];
    }
    return section("Samples", "the prompt in bold, what the model wrote after it", html, "wide");
}

std::string facts_section(const std::string& path) {
    const auto facts = nlohmann::ordered_json::parse(read_file(path), nullptr, false);
    if (!facts.is_object() || facts.empty()) return "";
    std::string rows;
    for (const auto& [key, value] : facts.items()) {
        const std::string text = value.is_string()   ? value.get<std::string>()
                                 : value.is_number() ? human_number(value.get<double>())
                                                     : value.dump();
        rows += fmt::format("<tr><td>{}</td><td>{}</td></tr>", html_escape(key), html_escape(text));
    }
    return section("Run", "", "<table>" + rows + "</table>", "wide");
}

}  // namespace

std::string report_html(const std::string& run_dir) {
    const std::string metrics_path = run_dir + "/metrics.jsonl";
    const std::vector<StepMetrics> steps = read_metrics(metrics_path);
    if (steps.empty()) {
        fail(ExitCode::data, metrics_path, ": no step is recorded there; is ", run_dir,
             " a run directory?");
    }
    const std::string name = std::filesystem::weakly_canonical(run_dir).filename().string();
    char now[64] = "";
    const std::time_t seconds = std::time(nullptr);
    std::strftime(now, sizeof(now), "%Y-%m-%d %H:%M", std::localtime(&seconds));
    std::string html = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
        "<title>{0} · Fucina</title><style>{1}</style></head><body><main>\n"
        "<header><h1><small>Fucina</small>{0}</h1><span class=\"when\">as of {2}</span></header>\n",
        html_escape(name), kReportStyle, now);
    html += facts_row(steps);
    html += "<div class=\"grid\">\n" + loss_section(steps) + small_charts(steps) +
            imbalance_section(steps) + experts_section(steps) +
            samples_section(run_dir + "/samples.jsonl") + facts_section(run_dir + "/facts.json");
    const std::string recipe = read_file(run_dir + "/recipe.resolved.toml");
    if (!recipe.empty()) {
        html += "<section class=\"wide\"><details><summary>Recipe</summary><pre>" +
                html_escape(recipe) + "</pre></details></section>\n";
    }
    return html +
           "</div>\n<footer>Made by fucina report from metrics.jsonl.</footer>"
           "</main></body></html>\n";
}

std::string write_report(const std::string& run_dir) {
    const std::string path = run_dir + "/report.html";
    write_text_file(path, report_html(run_dir));
    return path;
}

}  // namespace fucina
