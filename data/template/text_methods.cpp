// The methods of strings, as Python's. Cases are ASCII's alone; the rest is refused.
#include <algorithm>

#include "data/template/builtins.h"

namespace fucina {
namespace {

using Value = TemplateValue;
using Call = TemplateCall;

std::string shifted(std::string text, char from, int shift) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) >= 0x80)
            give_up("upper and lower case beyond ASCII is not supported");
        if (c >= from && c < from + 26) c = static_cast<char>(c + shift);
    }
    return text;
}

std::string upper_ascii(std::string text) {
    return shifted(std::move(text), 'a', 'A' - 'a');
}

Value capitalize(const Call& call) {
    const std::string text = lower_ascii(to_text(call.self));
    return make_text(text.empty() ? text : upper_ascii(text.substr(0, 1)) + text.substr(1));
}

Value stripped(const Call& call, bool left, bool right) {
    const Value* set = call.some(0);
    return make_text(strip(to_text(call.self), set ? &want_text(*set, "what is stripped") : nullptr,
                           left, right));
}

Value split(const Call& call) {
    const std::string text = to_text(call.self);
    int64_t left = call.whole(1, -1);
    TemplateValues out;
    if (const Value* separator = call.some(0)) {
        const std::string& by = want_text(*separator, "split's separator");
        if (by.empty()) give_up("split by an empty string");
        size_t begin = 0;
        for (size_t at; left-- != 0 && (at = text.find(by, begin)) != std::string::npos;
             begin = at + by.size())
            out.push_back(make_text(text.substr(begin, at - begin)));
        out.push_back(make_text(text.substr(begin)));
        return make_list(std::move(out));
    }
    std::string rest = strip(text, nullptr, true, false);
    while (!rest.empty()) {
        size_t end = 0, length = 0;
        while (end < rest.size() && left != 0 && !is_space_at(rest, end, length)) end += length;
        if (left-- == 0) end = rest.size();
        out.push_back(make_text(rest.substr(0, end)));
        rest = strip(std::string_view(rest).substr(end), nullptr, true, false);
    }
    return make_list(std::move(out));
}

Value replace(const Call& call) {
    const std::string text = to_text(call.self);
    const std::string &wanted = want_text(*call.given[0], "what replace looks for"),
                      &better = want_text(*call.given[1], "what replace puts there");
    if (wanted.empty()) give_up("replacing an empty string is not supported");
    int64_t left = call.whole(2, -1);
    std::string out;
    size_t begin = 0;
    for (size_t at; left-- != 0 && (at = text.find(wanted, begin)) != std::string::npos;
         begin = at + wanted.size()) {
        call.meter.take_text(better.size());
        out.append(text, begin, at - begin).append(better);
    }
    return make_text(out.append(text, begin));
}

Value has_end(const std::string& text, const Value& end, bool at_start) {
    if (const TemplateList* any = list_in(end); any && any->kind == TemplateList::tuple)
        return std::ranges::any_of(
            any->items, [&](const Value& one) { return is_true(has_end(text, one, at_start)); });
    const std::string& wanted = want_text(end, "a beginning or end");
    return at_start ? text.starts_with(wanted) : text.ends_with(wanted);
}

Value join(const Call& call) {
    TemplateValues items = items_of(*call.given[0]);
    for (const Value& item : items) want_text(item, "what is joined");
    return apply_filter("join", make_list(std::move(items)), {{call.self}, {}}, call.meter);
}

Value count(const Call& call) {
    const std::string &text = *text_in(call.self),
                      &part = want_text(*call.given[0], "what is counted");
    if (part.empty()) give_up("counting an empty string is not supported");
    int64_t count = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
    return count;
}

Value find(const Call& call) {
    const std::string& text = *text_in(call.self);
    const size_t at = text.find(want_text(*call.given[0], "what is looked for"));
    if (at == std::string::npos) return int64_t{-1};
    return int64_t{std::ssize(characters(text.substr(0, at)))};
}

}  // namespace

std::string lower_ascii(std::string text) {
    return shifted(std::move(text), 'A', 'a' - 'A');
}

const TemplateBuiltins& text_methods() {
    static const TemplateBuiltins kMethods = {
        {"strip", {{""}, 0, [](const Call& call) { return stripped(call, true, true); }}},
        {"lstrip", {{""}, 0, [](const Call& call) { return stripped(call, true, false); }}},
        {"rstrip", {{""}, 0, [](const Call& call) { return stripped(call, false, true); }}},
        {"split", {{"sep", "maxsplit"}, 0, split}},
        {"replace", {{"old", "new", "count"}, 2, replace}},
        {"startswith",
         {{""},
          1,
          [](const Call& call) { return has_end(to_text(call.self), *call.given[0], 1); }}},
        {"endswith",
         {{""},
          1,
          [](const Call& call) { return has_end(to_text(call.self), *call.given[0], 0); }}},
        {"join", {{""}, 1, join}},
        {"count", {{""}, 1, count}},
        {"find", {{""}, 1, find}},
        {"upper",
         {{}, 0, [](const Call& call) { return make_text(upper_ascii(to_text(call.self))); }}},
        {"lower",
         {{}, 0, [](const Call& call) { return make_text(lower_ascii(to_text(call.self))); }}},
        {"capitalize", {{}, 0, capitalize}},
    };
    return kMethods;
}

}  // namespace fucina
