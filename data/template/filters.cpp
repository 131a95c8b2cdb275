// The filters and tests of chat templates, as Jinja2 has them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "data/template/builtins.h"

namespace fucina {
namespace {

using Value = TemplateValue;
using Call = TemplateCall;

Value to_json_filter(const Call& call) {
    JsonStyle style{.ascii = call.flag(0), .sort_keys = call.flag(3)};
    if (call.some(1)) {
        style.indent = call.whole(1, -1);
        if (style.indent < 0 || style.indent > 64) give_up("tojson wants an indent from 0 to 64");
        style.comma = ",";
    }
    if (const Value* separators = call.some(2)) {
        const TemplateList* both = list_in(*separators);
        if (!both || both->items.size() != 2) give_up("tojson wants two separators");
        style.comma = want_text(both->items[0], "a separator");
        style.colon = want_text(both->items[1], "a separator");
    }
    return make_text(to_json(call.self, style));
}

Value join_filter(const Call& call) {
    std::string out;
    bool first = true;
    for (const Value& item : items_of(call.self)) {
        const size_t before = out.size();
        if (!std::exchange(first, false) && call.given[0]) out += to_text(*call.given[0]);
        out += to_text(item);
        call.meter.take_text(out.size() - before);
    }
    return make_text(std::move(out));
}

Value default_filter(const Call& call) {
    const bool falsy = call.flag(1) && !is_true(call.self);
    if (!falsy && !is<Undefined>(call.self)) return call.self;
    return call.given[0] ? *call.given[0] : make_text("");
}

Value pairs(const TemplateDict& dict, TemplateList::Kind kind) {
    TemplateValues out;
    for (const auto& [key, value] : dict.items)
        out.push_back(make_list({make_text(key), value}, TemplateList::tuple));
    return make_list(std::move(out), kind);
}

Value items_filter(const Call& call) {
    if (is<Undefined>(call.self)) return make_list({}, TemplateList::generator);
    if (!is_mapping(call.self)) give_up("items wants a dict, not a ", kind_of(call.self));
    return pairs(*dict_in(call.self), TemplateList::generator);
}

Value dictsort_filter(const Call& call) {
    if (!is_mapping(call.self)) give_up("dictsort wants a dict, not a ", kind_of(call.self));
    TemplateDict sorted = *dict_in(call.self);
    std::ranges::stable_sort(sorted.items, {},
                             [](const auto& item) { return lower_ascii(item.first); });
    return pairs(sorted, TemplateList::list);
}

Value first_filter(const Call& call) {
    const TemplateValues items = items_of(call.self);
    return items.empty() ? Undefined{"the first of none"} : items.front();
}

Value last_filter(const Call& call) {
    length_of(call.self);  // a generator has no last
    const TemplateValues items = items_of(call.self);
    return items.empty() ? Undefined{"the last of none"} : items.back();
}

Value number_filter(const Call& call, bool whole) {
    const Value* given = call.given[0];
    double real = 0;
    if (const std::string* text = text_in(call.self)) {
        const std::string digits = strip(*text, nullptr, true, true);
        const char *first = digits.data() + (digits.starts_with('+') ? 1 : 0),
                   *end = digits.data() + digits.size();
        int64_t integer = 0;
        const auto found = std::from_chars(first, end, integer);
        if (whole && found.ec == std::errc() && found.ptr == end) return integer;
        const auto point = std::from_chars(first, end, real);
        if (point.ec != std::errc() || point.ptr != end) {
            if (given) return *given;
            return whole ? Value(int64_t{0}) : Value(0.0);
        }
    } else if (const double* number = std::get_if<double>(&call.self)) {
        real = *number;
    } else if (const int64_t* number = std::get_if<int64_t>(&call.self)) {
        return whole ? Value(*number) : Value(static_cast<double>(*number));
    } else {
        give_up("a number of a ", kind_of(call.self), " is not supported");
    }
    if (!whole) return real;
    if (!(std::fabs(real) < 0x1p62)) give_up("a number beyond 64 bits");
    return static_cast<int64_t>(real);
}

const Value* argument(const Call& call, size_t place, std::string_view name) {
    const TemplateValues& positional = call.arguments.positional;
    return place < positional.size() ? &positional[place] : call.arguments.named.find(name);
}

// The arguments of the filter or test that is named by the one at `place`.
TemplateArguments behind(const TemplateArguments& arguments, size_t place) {
    TemplateArguments out = arguments;
    const size_t drop = std::min(place + 1, out.positional.size());
    out.positional.erase(out.positional.begin(),
                         out.positional.begin() + static_cast<int64_t>(drop));
    return out;
}

Value map_filter(const Call& call) {
    TemplateValues out;
    const TemplateArguments rest = behind(call.arguments, 0);
    const bool by_name = call.arguments.positional.empty();
    const Value* what = by_name ? bind_arguments("map", {"attribute"}, 0, call.arguments)[0]
                                : &call.arguments.positional[0];
    if (!what) give_up("map wants a filter or an attribute");
    const std::string& name = want_text(*what, "map's filter or attribute");
    if (by_name ? name.find('.') != std::string::npos : !template_filters().contains(name))
        give_up("map by ", name, " is not supported");
    for (const Value& item : items_of(call.self))
        out.push_back(by_name ? item_of(item, make_text(name))
                              : apply_filter(name, item, rest, call.meter));
    return make_list(std::move(out), TemplateList::generator);
}

Value string_filter(const Call& call) {
    return text_in(call.self) ? call.self : make_text(to_text(call.self));
}

Value safe_filter(const Call& call) {
    return TemplateText{.text = to_text(call.self), .is_safe = true};
}

// select, reject, selectattr, rejectattr.
Value select_filter(const Call& call, bool keeps, bool by_attribute) {
    const size_t place = by_attribute ? 1 : 0;
    const Value* attribute = by_attribute ? argument(call, 0, "attr") : nullptr;
    if (by_attribute &&
        (!attribute || want_text(*attribute, "an attribute").find('.') != std::string::npos))
        give_up("select by this attribute is not supported");
    const Value* named = argument(call, place, "test");
    const std::string test = named ? want_text(*named, "a test") : "";
    if (named && !template_tests().contains(test)) give_up("the test ", test, " is not supported");
    const TemplateArguments rest = behind(call.arguments, place);
    TemplateValues out;
    for (const Value& item : items_of(call.self)) {
        const Value looked_at = attribute ? item_of(item, *attribute) : item;
        const bool holds =
            named ? apply_test(test, looked_at, rest, call.meter) : is_true(looked_at);
        if (holds == keeps) out.push_back(item);
    }
    return make_list(std::move(out), TemplateList::generator);
}

TemplateBuiltin selection(bool keeps, bool by_attribute) {
    return {{"..."}, 0, [=](const Call& call) { return select_filter(call, keeps, by_attribute); }};
}

bool is_iterable(const Value& value) {
    return text_in(value) || list_in(value) || is_mapping(value) || is<Undefined>(value) ||
           is<std::shared_ptr<TemplateLoop>>(value);
}

bool is_sequence(const Value& value) {
    const TemplateList* list = list_in(value);
    if (list && list->kind == TemplateList::view)
        give_up("`is sequence` of a view is not supported");
    return is_iterable(value) && !(list && list->kind == TemplateList::generator) &&
           !is<std::shared_ptr<TemplateLoop>>(value);
}

bool are_same(const Value& a, const Value& b) {
    if (a.index() > 2 && b.index() > 2)  // beyond none, true and false it is memory
        give_up("`is sameas` is supported with none, true and false alone");
    return a.index() == b.index() && are_equal(a, b);
}

TemplateBuiltin test(bool (*holds)(const Value&)) {
    return {{}, 0, [=](const Call& call) -> Value { return holds(call.self); }};
}

TemplateBuiltin test(bool (*holds)(const Value&, const Value&)) {
    return {{""}, 1, [=](const Call& call) -> Value { return holds(call.self, *call.given[0]); }};
}

}  // namespace

const TemplateBuiltins& template_filters() {
    static const TemplateBuiltins kFilters = [] {
        const auto length = [](const Call& call) -> Value { return length_of(call.self); };
        TemplateBuiltins all = {
            {"tojson",
             {{"ensure_ascii", "indent", "separators", "sort_keys"}, 0, to_json_filter, true}},
            {"join", {{"d"}, 0, join_filter}},
            {"default", {{"default_value", "boolean"}, 0, default_filter}},
            {"items", {{}, 0, items_filter}},
            {"dictsort", {{}, 0, dictsort_filter}},
            {"first", {{}, 0, first_filter}},
            {"last", {{}, 0, last_filter}},
            {"map", {{"..."}, 0, map_filter}},
            {"int", {{"default"}, 0, [](const Call& call) { return number_filter(call, true); }}},
            {"float",
             {{"default"}, 0, [](const Call& call) { return number_filter(call, false); }}},
            {"select", selection(true, false)},
            {"reject", selection(false, false)},
            {"selectattr", selection(true, true)},
            {"rejectattr", selection(false, true)},
            {"trim", {{"chars"}, 0, text_methods().at("strip").work}},
            {"length", {{}, 0, length, true}},
            {"count", {{}, 0, length}},
            {"list", {{}, 0, [](const Call& call) { return make_list(items_of(call.self)); }}},
            {"string", {{}, 0, string_filter, true}},
            {"safe", {{}, 0, safe_filter, true}},
        };
        all.emplace("d", all.at("default"));
        for (const char* name : {"replace", "upper", "lower", "capitalize"})
            all.emplace(name, text_methods().at(name));
        return all;
    }();
    return kFilters;
}

const TemplateBuiltins& template_tests() {
    static const TemplateBuiltins kTests = {
        {"defined", test([](const Value& a) { return !is<Undefined>(a); })},
        {"undefined", test(is<Undefined>)},
        {"none", test(is<None>)},
        {"string", test(is<TemplateText>)},
        {"mapping", test(is_mapping)},
        {"boolean", test(is<bool>)},
        {"true", test([](const Value& a) { return is<bool>(a) && is_true(a); })},
        {"false", test([](const Value& a) { return is<bool>(a) && !is_true(a); })},
        {"integer", test(is<int64_t>)},
        {"float", test(is<double>)},
        {"number", test([](const Value& a) { return number_in(a).has_value(); })},
        {"iterable", test(is_iterable)},
        {"sequence", test(is_sequence)},
        {"equalto", test(are_equal)},
        {"eq", test(are_equal)},
        {"ne", test([](const Value& a, const Value& b) { return !are_equal(a, b); })},
        {"in", test([](const Value& a, const Value& b) { return contains(b, a); })},
        {"sameas", test(are_same)},
    };
    return kTests;
}

}  // namespace fucina
