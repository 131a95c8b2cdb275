// A source of the recipe (data.train, data.valid), of any format, as a token store.
#pragma once
#include <filesystem>
#include <memory>

#include "data/prepare.h"
#include "data/token_store.h"

namespace fucina {

struct SourceOptions {
    PrepareOptions prepare;                    // input, format, append_eos, progress
    int64_t vocab_size = 0;                    // the model's: ids are below it
    const TextTokenizer* tokenizer = nullptr;  // needed for text and jsonl
    std::filesystem::path cache_directory;     // for text and jsonl
};

struct OpenedSource {
    std::shared_ptr<const TokenStore> store;
    std::optional<PrepareReport> report;  // when text was encoded just now
};

// Opens the source; text and jsonl are encoded into the cache first, unless they are there. Where
// several processes need a text source, one opens it before the others do.
// Fails with exit 3 on bad data, and on a store that was made for a larger vocabulary or with
// another tokenizer; with exit 2 where text has no tokenizer.
OpenedSource open_source(const SourceOptions& options);

}  // namespace fucina
