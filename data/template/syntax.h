// The syntax tree of a chat template, between its parser and its interpreter. Private to
// data/template.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/template/value.h"

namespace fucina {

struct TemplateNode {
    enum Kind : uint8_t {
        nothing,
        // Expressions. call, filter and test: what is called or looked at, then the arguments, the
        // last of them named by `names`. compare: operands; `names` are the operators.
        constant,
        name,
        list,
        tuple,
        dict,       // keys and values in turn
        attribute,  // text
        item,       // of, index
        slice,      // of, begin, end, step; each may be nothing
        call,
        filter,
        test,
        negate,
        logical_not,
        logical_and,
        logical_or,
        compare,
        arithmetic,   // text is the operator
        conditional,  // condition, then, else or nothing
        // Statements
        plain,  // text
        output,
        assign,        // names, or text as an attribute of names[0]; value
        assign_block,  // the same with a body
        choice,        // condition, body, else or nothing
        repeat,        // names; what is gone through, condition or nothing, body, else or nothing
        macro,         // text, names; body, the last parameters' defaults
        block,
        scope,  // {% generation %}: body
        leave,  // break
        skip,   // continue
    };
    Kind kind = nothing;
    int line = 1, column = 1;
    std::string text;
    TemplateValue value = None{};  // constant
    std::vector<std::string> names;
    std::vector<TemplateNode> children;
};

struct TemplateToken {
    enum Kind : uint8_t { data, name, integer, floating, string, symbol, begin, end, last };
    Kind kind = last;
    std::string text;  // of begin and end: {{ {% }} %}; of a string: unescaped
    int line = 1, column = 1;
};

// White space around tags as transformers has it: trim_blocks, lstrip_blocks. Errors are
// Error(data), "name:line:col: what".
std::vector<TemplateToken> read_tokens(std::string_view source, const std::string& name);
TemplateNode parse_template(std::string_view source, const std::string& name);

// Where several files know what there is.
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

}  // namespace fucina
