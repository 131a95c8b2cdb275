// A chat template from anywhere, rendered with a conversation that has tools and every kind of
// value.
#include <nlohmann/json.hpp>

#include "data/template/chat_template.h"
#include "data/tokenizer/unicode.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
    using namespace fucina;
    static const auto kVariables = nlohmann::ordered_json::parse(R"({
        "messages": [{"role": "system", "content": "S\u00e9"}, {"role": "user", "content": "a, b\\n"},
                     {"role": "assistant", "content": null, "tool_calls": [{"function": {
                        "name": "f", "arguments": {"x": [1, 2.5, true, null], "items": {}}}}]}],
        "tools": [{"function": {"name": "f", "parameters": {"b": 1, "A": 2}}}],
        "add_generation_prompt": true, "bos_token": "<s>"})");
    std::string text;
    if (fuzz::accepts([&] { text = ChatTemplate::parse(input, "t").render(kVariables); }))
        HOLDS(is_valid_utf8(text));
}
