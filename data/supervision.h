// Tokens as text that shows which of them are supervised.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "data/token_store.h"
#include "data/tokenizer/tokenizer.h"

namespace fucina {

// What is supervised stands in green, or without `colours` between [[ and ]]. Long stretches are
// cut in the middle; control characters but line feeds and tabs are '?'.
std::string marked_text(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                        std::span<const uint8_t> supervised, bool colours);

// The same of the store's first document.
std::string marked_example(const Tokenizer& tokenizer, const TokenStore& store, bool colours);

}  // namespace fucina
