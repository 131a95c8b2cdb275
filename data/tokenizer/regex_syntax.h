// The syntax tree of a pattern, between its parser and its compiler.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fucina {

constexpr uint32_t kNoLimit = UINT32_MAX;

struct RegexNode {
    enum Kind : uint8_t { empty, set, concat, alternate, repeat, atomic, look, anchor };
    enum Greed : uint8_t { greedy, lazy, possessive };
    Kind kind = empty;
    std::vector<RegexNode> children;
    int32_t set_index = 0;              // set
    uint32_t min = 0, max = 0;          // repeat
    Greed greed = greedy;               // repeat
    bool ahead = true, negate = false;  // look
    char where = 0;  // anchor: 'A' text begin, 'z' text end, '^' and '$' of a line
};

struct RegexTree {
    RegexNode root;
    std::vector<CodeSet> sets;  // without duplicates
};

RegexTree parse_regex(std::string_view pattern);

}  // namespace fucina
