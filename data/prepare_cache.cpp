// The cache of data/prepare.h, and data/source.h which uses it.
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <system_error>

#include "data/ids_file.h"
#include "data/prepare.h"
#include "data/source.h"
#include "data/streaming_hash.h"
#include "data/token_store_format.h"
#include "kernels/error.h"

namespace fucina {
namespace {

uint64_t hash_of_file(const std::filesystem::path& path) {
    const InputFile file(path);
    return hash_range(file, 0, file.size());
}

bool is_whole(const std::filesystem::path& path, const TextTokenizer& tokenizer) {
    if (!std::filesystem::exists(path)) return false;
    try {
        const TokenStore store = TokenStore::open(path);
        store.verify();
        return store.tokenizer_hash() == tokenizer.hash &&
               store.vocab_size() == tokenizer.vocab_size;
    } catch (const Error&) {
        return false;  // a damaged cache is made again
    }
}

std::shared_ptr<const TokenStore> open_store(const SourceOptions& options) {
    auto store = std::make_shared<TokenStore>(TokenStore::open(options.prepare.input));
    if (store->vocab_size() > options.vocab_size) {
        fail(ExitCode::data, store->name(), ": made for a vocabulary of ", store->vocab_size(),
             ", the model has ", options.vocab_size);
    }
    if (options.tokenizer && !store->tokenizer_hash().empty() &&
        store->tokenizer_hash() != options.tokenizer->hash) {
        fail(ExitCode::data, store->name(), ": made with tokenizer ", store->tokenizer_hash(),
             ", the run has tokenizer ", options.tokenizer->hash);
    }
    return store;
}

}  // namespace

std::filesystem::path cache_path(const PrepareOptions& options, const TextTokenizer& tokenizer,
                                 const std::filesystem::path& cache_directory) {
    std::string key =
        concat(kTokenStoreVersion, " ", hash_of_file(options.input), " ", tokenizer.hash, " ",
               tokenizer.vocab_size, " ", static_cast<int>(options.format), " ",
               options.append_eos ? tokenizer.end.value_or(-1) : -1, " ", options.broken_limit);
    for (const int32_t id : tokenizer.begin) key += concat(" begin ", id);
    if (options.format == SourceFormat::jsonl && tokenizer.chat) {
        key += " chat " + tokenizer.chat->hash();
        for (const std::string& stop : tokenizer.stops) key += " stop " + stop;
    }
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016" PRIx64, XXH3_64bits(key.data(), key.size()));
    return cache_directory / (options.input.stem().string() + "-" + digits + ".h5");
}

bool can_hold_files(const std::filesystem::path& directory) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    return !error && ::access(directory.c_str(), W_OK | X_OK) == 0;
}

PreparedText prepare_text(PrepareOptions options, const TextTokenizer& tokenizer,
                          const std::filesystem::path& cache_directory) {
    const auto path = cache_path(options, tokenizer, cache_directory);
    if (is_whole(path, tokenizer)) return {.store = path, .report = std::nullopt};
    std::error_code error;
    std::filesystem::create_directories(cache_directory, error);
    if (error) {
        fail(ExitCode::storage, cache_directory.string(), ": cannot create: ", error.message(),
             "; data.cache names another place for encoded text");
    }
    options.output = path;
    return {.store = path, .report = prepare(options, tokenizer)};
}

OpenedSource open_source(const SourceOptions& options) {
    const PrepareOptions& prepare = options.prepare;
    if (prepare.format == SourceFormat::store) return {open_store(options), std::nullopt};
    if (prepare.format == SourceFormat::tokens) {
        return {std::make_shared<TokenStore>(
                    TokenStore::from_lists(read_ids(prepare.input, options.vocab_size),
                                           options.vocab_size, prepare.input.string())),
                std::nullopt};
    }
    if (!options.tokenizer) {
        fail(ExitCode::usage, prepare.input.string(),
             ": text needs a tokenizer; set data.tokenizer to a tokenizer.json");
    }
    PreparedText text = prepare_text(prepare, *options.tokenizer, options.cache_directory);
    SourceOptions cached = options;
    cached.prepare.input = text.store;
    return {open_store(cached), std::move(text.report)};
}

}  // namespace fucina
