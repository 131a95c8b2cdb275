// ConfigReader: typed, range-checked access to a config.json (or a recipe's model section, which
// has the same keys). A key that is absent or null gives the default; a wrong type or range fails
// (exit 2) in one line that names source, key, what was found and what was expected.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace fucina {

class ConfigReader {
  public:
    // config must outlive the reader; source is the file's or section's name, for messages.
    ConfigReader(const nlohmann::json& config, std::string source);

    bool has(const std::string& key) const;  // present and not null
    bool absent(const std::string& key) const { return !config_->contains(key); }
    int64_t integer(const std::string& key, int64_t fallback, int64_t least,
                    int64_t most = int64_t{1} << 31) const;
    double real(const std::string& key, double fallback, double least) const;
    std::optional<double> optional_real(const std::string& key, double least) const;
    bool flag(const std::string& key, bool fallback) const;
    std::string text(const std::string& key, const std::string& fallback) const;
    // One id or a list of ids.
    std::vector<int32_t> ids(const std::string& key, std::vector<int32_t> fallback) const;
    // The object under key, with messages that say key.inner.
    std::optional<ConfigReader> object(const std::string& key) const;

    const std::string& source() const { return source_; }
    std::string where(const std::string& key) const { return source_ + ": " + prefix_ + key; }

  private:
    const nlohmann::json* config_;
    std::string source_, prefix_;
};

}  // namespace fucina
