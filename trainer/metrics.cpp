#include "trainer/metrics.h"

#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace fucina {
namespace {

// Shortest digits that read back to the same bits, with a point or an exponent, so that every
// reader takes it for a float.
std::string json_float(double value) {
    if (!std::isfinite(value)) return "null";
    std::string text = fmt::format("{}", value);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
}

template <class T, class Print>
std::string json_list(const std::vector<T>& values, const Print& print) {
    std::string text = "[";
    for (const T& value : values) {
        if (text.size() > 1) text += ",";
        text += print(value);
    }
    return text + "]";
}

double number_or_nan(const nlohmann::json& json, const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_number() ? found->get<double>() : std::nan("");
}

std::optional<double> optional_number(const nlohmann::json& json, const char* key) {
    if (!json.contains(key)) return std::nullopt;
    return number_or_nan(json, key);
}

// The step of a line that is whole, or nothing.
std::optional<int64_t> step_of(const std::string& line) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) return std::nullopt;
    const auto step = json.find("step");
    if (step == json.end() || !step->is_number_integer()) return std::nullopt;
    return step->get<int64_t>();
}

// Bytes of the file up to the last whole line that is not after `last_step`. What cannot be read
// must not pass for nothing to keep.
int64_t bytes_to_keep(const std::string& path, int64_t last_step) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(ExitCode::storage, path, ": cannot open: ", std::strerror(errno));
    int64_t keep = 0;
    for (std::string line; std::getline(file, line);) {
        if (file.eof()) break;  // no newline: torn
        const std::optional<int64_t> step = step_of(line);
        if (!step || *step > last_step) break;
        keep += static_cast<int64_t>(line.size()) + 1;
    }
    if (file.bad()) fail(ExitCode::storage, path, ": cannot read: ", std::strerror(errno));
    return keep;
}

}  // namespace

std::string metrics_line(const StepMetrics& metrics) {
    std::string text =
        fmt::format("{{\"step\":{},\"loss\":{}", metrics.step, json_float(metrics.loss));
    auto add = [&](const char* key, const std::string& value) {
        text += fmt::format(",\"{}\":{}", key, value);
    };
    if (metrics.balance_loss) add("balance_loss", json_float(*metrics.balance_loss));
    if (metrics.mtp_loss) add("mtp_loss", json_float(*metrics.mtp_loss));
    if (metrics.valid_loss) add("valid_loss", json_float(*metrics.valid_loss));
    if (metrics.valid_bits_per_byte)
        add("valid_bits_per_byte", json_float(*metrics.valid_bits_per_byte));
    add("grad_norm", json_float(metrics.grad_norm));
    add("lr", json_float(metrics.lr));
    add("tokens", std::to_string(metrics.tokens));
    add("tokens_per_s", json_float(metrics.tokens_per_s));
    if (metrics.compute_s) add("compute_s", json_float(*metrics.compute_s));
    if (metrics.exposed_s) add("exposed_s", json_float(*metrics.exposed_s));
    if (!metrics.expert_load.empty())
        add("expert_load", json_list(metrics.expert_load, json_float));
    if (!metrics.expert_counts.empty()) {
        add("expert_counts", json_list(metrics.expert_counts, [](const auto& layer) {
                return json_list(layer, [](int64_t count) { return std::to_string(count); });
            }));
    }
    if (metrics.dropped) add("dropped", std::to_string(*metrics.dropped));
    if (metrics.skipped) add("skipped", "true");
    return text + "}";
}

std::optional<StepMetrics> parse_metrics_line(const std::string& line) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("loss")) return std::nullopt;
    try {
        StepMetrics metrics;
        metrics.step = json.at("step").get<int64_t>();
        metrics.loss = number_or_nan(json, "loss");
        metrics.balance_loss = optional_number(json, "balance_loss");
        metrics.mtp_loss = optional_number(json, "mtp_loss");
        metrics.valid_loss = optional_number(json, "valid_loss");
        metrics.valid_bits_per_byte = optional_number(json, "valid_bits_per_byte");
        metrics.grad_norm = number_or_nan(json, "grad_norm");
        metrics.lr = number_or_nan(json, "lr");
        metrics.tokens = json.value("tokens", int64_t{0});
        metrics.tokens_per_s = number_or_nan(json, "tokens_per_s");
        metrics.compute_s = optional_number(json, "compute_s");
        metrics.exposed_s = optional_number(json, "exposed_s");
        for (const nlohmann::json& load : json.value("expert_load", nlohmann::json::array_t())) {
            metrics.expert_load.push_back(load.is_null() ? std::nan("") : load.get<double>());
        }
        metrics.expert_counts = json.value("expert_counts", std::vector<std::vector<int64_t>>());
        if (json.contains("dropped")) metrics.dropped = json.at("dropped").get<int64_t>();
        metrics.skipped = json.value("skipped", false);
        return metrics;
    } catch (const nlohmann::json::exception&) {
        return std::nullopt;
    }
}

std::vector<StepMetrics> read_metrics(const std::string& path) {
    std::vector<StepMetrics> all;
    std::ifstream file(path, std::ios::binary);
    for (std::string line; std::getline(file, line);) {
        if (!step_of(line)) break;
        if (std::optional<StepMetrics> metrics = parse_metrics_line(line)) {
            all.push_back(std::move(*metrics));
        }
    }
    return all;
}

MetricsFile::MetricsFile(const std::string& path, int64_t last_step) : file_(path) {
    file_.cut(bytes_to_keep(path, last_step));
}

bool MetricsFile::append(const StepMetrics& metrics) {
    return file_.append(metrics_line(metrics) + "\n");
}

bool MetricsFile::sync() {
    return file_.sync();
}

}  // namespace fucina
