// The words of a chat template, and what its parser makes of them. Private to data/template.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/template/run.h"

namespace fucina {

struct TemplateToken {
    enum Kind : uint8_t { data, name, integer, floating, string, symbol, begin, end, last };
    Kind kind = last;
    std::string text;  // of begin and end: {{ {% }} %}; of a string: unescaped
    size_t place = 0;  // in the source
};

// Of a source that is UTF-8, with line feeds alone. White space around tags as transformers has it:
// trim_blocks, lstrip_blocks. Both fail with a TemplateProblem that has its place.
std::vector<TemplateToken> read_tokens(std::string_view source);
TemplateStatement parse_template(std::string_view source);

}  // namespace fucina
