// Attributes, items and parts of values, and the methods of dicts.
#include <algorithm>

#include "data/template/builtins.h"
#include "data/template/run.h"

namespace fucina {
namespace {

using Value = TemplateValue;
using Call = TemplateCall;

// What Python's types have, so that an attribute of that name is not undefined.
constexpr std::string_view kOfText =
    " capitalize casefold center count encode endswith expandtabs find format format_map index "
    "isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace "
    "istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace "
    "rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title "
    "translate upper zfill ";
constexpr std::string_view kOfDict =
    " clear copy fromkeys get items keys pop popitem setdefault update values ";
constexpr std::string_view kOfList =
    " append clear copy count extend index insert pop remove reverse sort ";
constexpr std::string_view kOfTuple = " count index ";

bool has_method(const Value& value, const std::string& name) {
    const TemplateList* list = list_in(value);
    const std::string_view all = text_in(value)                     ? kOfText
                                 : is_mapping(value)                ? kOfDict
                                 : !list                            ? ""
                                 : list->kind == TemplateList::list ? kOfList
                                                                    : kOfTuple;
    return all.find(" " + name + " ") != std::string_view::npos;
}

// What `part` makes of each item of a dict.
Value view_of(const Call& call, Value (*part)(const std::string& key, const Value& value)) {
    TemplateValues out;
    for (const auto& [key, value] : dict_in(call.self)->items) out.push_back(part(key, value));
    return make_list(std::move(out), TemplateList::view);
}

Value get(const Call& call) {
    const std::string* key = text_in(*call.given[0]);
    if (const Value* found = key ? dict_in(call.self)->find(*key) : nullptr) return *found;
    return call.given[1] ? *call.given[1] : None{};
}

const TemplateBuiltins& dict_methods() {
    static const auto pair = [](const std::string& key, const Value& value) {
        return make_list({make_text(key), value}, TemplateList::tuple);
    };
    static const auto key_of = [](const std::string& key, const Value&) { return make_text(key); };
    static const auto value_of = [](const std::string&, const Value& value) { return value; };
    static const TemplateBuiltins kMethods = {
        {"get", {{"", ""}, 1, get}},
        {"items", {{}, 0, [](const Call& call) { return view_of(call, pair); }}},
        {"keys", {{}, 0, [](const Call& call) { return view_of(call, key_of); }}},
        {"values", {{}, 0, [](const Call& call) { return view_of(call, value_of); }}},
    };
    return kMethods;
}

Value method_of(const Value& self, const std::string& name) {
    static const TemplateBuiltins kNone;
    const TemplateBuiltins& methods = text_in(self)   ? text_methods()
                                      : dict_in(self) ? dict_methods()
                                                      : kNone;
    const auto call = [self, name, &methods](const TemplateArguments& arguments, TemplateRun& run) {
        return call_method(name, methods, self, arguments, run.meter);
    };
    return std::make_shared<TemplateCallable>(TemplateCallable{"method", call});
}

Value loop_attribute(const TemplateLoop& loop, const std::string& name) {
    const auto count = static_cast<int64_t>(loop.items.size());
    const auto at = [&](int64_t i) -> Value {
        if (i < 0 || i >= count) return Undefined{"there is no such item"};
        return loop.items[static_cast<size_t>(i)];
    };
    if (name == "index0") return loop.index0;
    if (name == "index") return loop.index0 + 1;
    if (name == "first") return loop.index0 == 0;
    if (name == "last") return loop.index0 == count - 1;
    if (name == "length") return count;
    if (name == "revindex") return count - loop.index0;
    if (name == "revindex0") return count - loop.index0 - 1;
    if (name == "previtem") return at(loop.index0 - 1);
    if (name == "nextitem") return at(loop.index0 + 1);
    give_up("loop.", name, " is not supported");
}

}  // namespace

TemplateValue attribute_of(const TemplateValue& value, const std::string& name) {
    if (const auto* missing = std::get_if<Undefined>(&value))
        give_up(missing->name, " is undefined, so it has no ", name);
    if (const auto* loop = std::get_if<std::shared_ptr<TemplateLoop>>(&value))
        return loop_attribute(**loop, name);
    if (has_method(value, name)) return method_of(value, name);
    const TemplateDict* dict = dict_in(value);
    if (const Value* found = dict ? dict->find(name) : nullptr) return *found;
    if (name.starts_with("__")) give_up("the attribute ", name, " is not allowed");
    return Undefined{concat("the ", kind_of(value), "'s ", name)};
}

TemplateValue item_of(const TemplateValue& value, const TemplateValue& index) {
    if (const auto* missing = std::get_if<Undefined>(&value))
        give_up(missing->name, " is undefined, so it has no items");
    const TemplateList* list = list_in(value);
    const std::string *text = text_in(value), *key = text_in(index);
    if (key) {
        const TemplateDict* dict = dict_in(value);
        const Value* found = dict ? dict->find(*key) : nullptr;
        return found ? *found : attribute_of(value, *key);
    }
    if (list && list->kind > TemplateList::tuple)
        give_up("an item of a ", kind_of(value), " is not supported; use the filter list");
    if (const auto whole = whole_in(index); whole && (list || text)) {
        const int64_t count = length_of(value), at = *whole < 0 ? *whole + count : *whole;
        if (at >= 0 && at < count)
            return list ? list->items[static_cast<size_t>(at)]
                        : make_text(characters(*text)[static_cast<size_t>(at)]);
    }
    return Undefined{concat("an item of a ", kind_of(value))};
}

TemplateValue slice_of(const TemplateValue& value, const TemplateValue& begin,
                       const TemplateValue& end, const TemplateValue& step) {
    const TemplateList* list = list_in(value);
    if ((!list || list->kind > TemplateList::tuple) && !text_in(value))
        give_up("a part of a ", kind_of(value), " is not supported");
    const TemplateValues items = items_of(value);
    const auto count = static_cast<int64_t>(items.size());
    const auto bound = [](const Value& given, int64_t otherwise) {
        if (is<None>(given)) return otherwise;
        const int64_t* whole = std::get_if<int64_t>(&given);
        if (!whole) give_up("a slice wants integers, not a ", kind_of(given));
        return *whole;
    };
    const int64_t by = bound(step, 1);
    if (by == 0) give_up("a slice with step 0");
    const auto clip = [&](const Value& given, int64_t otherwise) {
        if (is<None>(given)) return otherwise;
        int64_t at = bound(given, 0);
        if (at < 0) at += count;
        return std::clamp<int64_t>(at, by > 0 ? 0 : -1, by > 0 ? count : count - 1);
    };
    const int64_t first = clip(begin, by > 0 ? 0 : count - 1),
                  last = clip(end, by > 0 ? count : -1);
    TemplateValues out;
    for (int64_t at = first; by > 0 ? at < last : at > last;) {
        out.push_back(items[static_cast<size_t>(at)]);
        if (__builtin_add_overflow(at, by, &at)) break;
    }
    if (list) return make_list(std::move(out), list->kind);
    std::string text;
    for (const Value& one : out) text += *text_in(one);
    return make_text(std::move(text));
}

}  // namespace fucina
