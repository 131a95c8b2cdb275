// ConfigReader: typed, range-checked access to a config.json (or a recipe's model section, which
// has the same keys). A key that is absent gives the default; a wrong type or range fails (exit 2)
// in one line that names source, key, what was found and what was expected. null is no default:
// each accessor says what it is, and where it says nothing, null is a wrong type.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/error.h"

namespace fucina {

class ConfigReader {
  public:
    // config must outlive the reader; source is the file's or section's name, for messages.
    ConfigReader(const nlohmann::json& config, std::string source);

    bool has(const std::string& key) const;  // null too
    bool is_null(const std::string& key) const;
    int64_t integer(const std::string& key, int64_t fallback, int64_t least,
                    int64_t most = int64_t{1} << 31) const;
    double real(const std::string& key, double fallback, double least) const;
    // null is none.
    std::optional<double> optional_real(const std::string& key, double least) const;
    bool flag(const std::string& key, bool fallback) const;  // null is false, as in Python
    std::string text(const std::string& key, const std::string& fallback) const;
    // One id or a list of ids, below vocab_size; null is none.
    std::vector<int32_t> ids(const std::string& key, std::vector<int32_t> fallback,
                             int64_t vocab_size) const;
    // The object under key, with messages that say key.inner; null and {} are none.
    std::optional<ConfigReader> object(const std::string& key) const;

    const std::string& source() const { return source_; }
    std::string name(const std::string& key) const { return prefix_ + key; }
    std::string where(const std::string& key) const { return source_ + ": " + name(key); }

  private:
    const nlohmann::json* config_;
    std::string source_, prefix_;
};

// One value that a config may give under several keys. All that do must agree: neither is taken
// silently (exit 2, naming both).
template <class T>
class Agreed {
  public:
    void take(const ConfigReader& config, const std::string& key, const T& value) {
        if (value_ && *value_ != value)
            fail(ExitCode::usage, config.where(key), " is ", value, ", but ", name_, " is ",
                 *value_, ", and both mean the same; keep the right one");
        value_ = value;
        name_ = config.name(key);
    }
    const std::optional<T>& value() const { return value_; }
    T value_or(const T& fallback) const { return value_.value_or(fallback); }

  private:
    std::optional<T> value_;
    std::string name_;
};

}  // namespace fucina
