#include "model/config_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace fucina {

namespace {

std::string shown(const nlohmann::json& value) {
    if (value.is_number_float() && !std::isfinite(value.get<double>()))  // JSON itself has no name
        return std::isnan(value.get<double>()) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
}

[[noreturn]] void mistyped(const std::string& where, const nlohmann::json& value,
                           const std::string& expected) {
    fail(ExitCode::usage, where, " is ", shown(value), ", expected ", expected);
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& config, std::string source)
    : config_(&config), source_(std::move(source)) {
    if (!config.is_object())
        fail(ExitCode::usage, source_, ": is ", shown(config),
             ", expected an object of model keys");
}

bool ConfigReader::has(const std::string& key) const {
    return config_->contains(key);
}

bool ConfigReader::is_null(const std::string& key) const {
    return has(key) && config_->at(key).is_null();
}

int64_t ConfigReader::integer(const std::string& key, int64_t fallback, int64_t least,
                              int64_t most) const {
    if (!has(key)) return fallback;
    const nlohmann::json& value = config_->at(key);
    const std::string expected = concat("an integer from ", least, " to ", most);
    if (!value.is_number_integer()) mistyped(where(key), value, expected);
    if (value.is_number_unsigned() &&
        value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        mistyped(where(key), value, expected);
    const auto number = value.get<int64_t>();
    if (number < least || number > most) mistyped(where(key), value, expected);
    return number;
}

double ConfigReader::real(const std::string& key, double fallback, double least) const {
    if (is_null(key)) mistyped(where(key), nullptr, concat("a number of at least ", least));
    return optional_real(key, least).value_or(fallback);
}

std::optional<double> ConfigReader::optional_real(const std::string& key, double least) const {
    if (!has(key) || is_null(key)) return std::nullopt;
    const nlohmann::json& value = config_->at(key);
    const std::string expected = concat("a number of at least ", least);
    if (!value.is_number()) mistyped(where(key), value, expected);
    const auto number = value.get<double>();
    if (!std::isfinite(number) || number < least) mistyped(where(key), value, expected);
    return number;
}

bool ConfigReader::flag(const std::string& key, bool fallback) const {
    if (!has(key)) return fallback;
    if (is_null(key)) return false;
    const nlohmann::json& value = config_->at(key);
    if (!value.is_boolean()) mistyped(where(key), value, "true or false");
    return value.get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    const nlohmann::json& value = config_->at(key);
    if (!value.is_string()) mistyped(where(key), value, "a string");
    const auto& text = value.get_ref<const std::string&>();
    const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
    if (text.size() > 200 || std::ranges::any_of(text, control))  // messages quote it
        mistyped(where(key), value, "a name");
    return text;
}

std::vector<int32_t> ConfigReader::ids(const std::string& key, std::vector<int32_t> fallback,
                                       int64_t vocab_size) const {
    if (!has(key)) return fallback;
    if (is_null(key)) return {};
    const nlohmann::json& value = config_->at(key);
    std::vector<int32_t> ids;
    for (const nlohmann::json& item : value.is_array() ? value : nlohmann::json::array({value})) {
        if (!item.is_number_integer() || item < 0 || item >= vocab_size)
            mistyped(where(key), value,
                     concat("a token id or a list of token ids, below vocab_size = ", vocab_size));
        ids.push_back(item.get<int32_t>());
    }
    return ids;
}

std::optional<ConfigReader> ConfigReader::object(const std::string& key) const {
    if (!has(key) || is_null(key)) return std::nullopt;
    const nlohmann::json& value = config_->at(key);
    if (!value.is_object()) mistyped(where(key), value, "an object");
    if (value.empty()) return std::nullopt;
    ConfigReader reader(value, source_);
    reader.prefix_ = prefix_ + key + ".";
    return reader;
}

}  // namespace fucina
