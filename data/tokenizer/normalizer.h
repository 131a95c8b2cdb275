// The normalizers of byte-level tokenizers: none, NFC, NFD, or a sequence of them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fucina {

class Normalizer {
  public:
    enum class Form { nfc, nfd };

    void append(Form form) { forms_.push_back(form); }
    size_t size() const { return forms_.size(); }
    bool changes_nothing() const { return forms_.empty(); }
    std::string apply(std::string_view text) const;  // valid UTF-8

  private:
    std::vector<Form> forms_;
};

}  // namespace fucina
