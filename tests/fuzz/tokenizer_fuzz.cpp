// A tokenizer.json, what lies beside it, and a text: parts of the input, with zero bytes between.
#include "data/tokenizer/tokenizer.h"

#include <simdjson.h>

#include "tests/fuzz/fuzz.h"

FUZZ(input) {
    using namespace fucina;
    auto part = [left = input]() mutable {
        const size_t end = std::min(left.find('\0'), left.size());
        const std::string_view found = left.substr(0, end);
        left.remove_prefix(std::min(end + 1, left.size()));
        return found;
    };
    const std::string path = fuzz::file_of(part(), "tokenizer.json").string();
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
        const std::string_view bytes = part();
        const auto beside = fuzz::file_of(bytes, name);
        if (bytes.empty()) std::filesystem::remove(beside);
    }
    std::string text(part());
    text += "Then 12345 words, it's\r\n\t  \xc3\xa9\xe4\xb8\xad\xf0\x9f\x99\x82 <|end|>";
    fuzz::accepts([&] {
        const Tokenizer tokenizer = Tokenizer::load(path);
        const std::vector<int32_t> ids = tokenizer.encode(text);
        HOLDS(ids.size() <= 4 * text.size());
        for (const int32_t id : ids) HOLDS(id >= 0 && id < tokenizer.vocab_size());
        const std::string decoded = tokenizer.decode(ids);
        HOLDS(simdjson::validate_utf8(decoded.data(), decoded.size()));
        HOLDS(std::ssize(tokenizer.token_bytes()) == tokenizer.vocab_size());
        for (const int32_t id : tokenizer.ends().stops)
            HOLDS(id >= 0 && id < tokenizer.vocab_size());
    });
}
