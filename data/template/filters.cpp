#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "data/template/builtins.h"
#include "data/template/syntax.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Value = TemplateValue;

struct FilterCall {
    const Value& input;
    const TemplateArguments& arguments;
    TemplateMeter& meter;

    void none() const { arguments.expect({}); }
    std::string text() const { return to_text(input); }
};
using Filter = Value (*)(const FilterCall&);

bool flag(const Value* given) {
    return given && is_true(*given);
}

Value to_json_filter(const FilterCall& call) {
    call.arguments.expect({"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ascii = flag(call.arguments.find(0, "ensure_ascii"));
    style.sort_keys = flag(call.arguments.find(3, "sort_keys"));
    const Value* indent = call.arguments.find(1, "indent");
    if (indent && !std::holds_alternative<None>(*indent)) {
        const int64_t* spaces = std::get_if<int64_t>(indent);
        if (!spaces || *spaces < 0 || *spaces > 64)
            throw TemplateProblem{"tojson wants an indent from 0 to 64"};
        style.indent = *spaces;
        style.comma = ",";
    }
    const Value* separators = call.arguments.find(2, "separators");
    if (separators && !std::holds_alternative<None>(*separators)) {
        const TemplateList* both = list_in(*separators);
        if (!both || both->items.size() != 2) throw TemplateProblem{"tojson wants two separators"};
        style.comma = want_text(both->items[0], "a separator");
        style.colon = want_text(both->items[1], "a separator");
    }
    std::string text = to_json(call.input, style);
    call.meter.take_text(text.size());
    return make_text(std::move(text));
}

Value replace_filter(const FilterCall& call) {
    call.arguments.expect({"old", "new", "count"});
    return call_method({make_text(call.text()), "replace"}, call.arguments, call.meter);
}

Value join_filter(const FilterCall& call) {
    call.arguments.expect({"d"});
    const Value* between = call.arguments.find(0, "d");
    std::string out;
    bool first = true;
    for (const Value& item : items_of(call.input)) {
        if (!std::exchange(first, false) && between) out += to_text(*between);
        out += to_text(item);
    }
    call.meter.take_text(out.size());
    return make_text(std::move(out));
}

Value default_filter(const FilterCall& call) {
    call.arguments.expect({"default_value", "boolean"});
    const bool falsy = flag(call.arguments.find(1, "boolean")) && !is_true(call.input);
    if (!falsy && !std::holds_alternative<Undefined>(call.input)) return call.input;
    const Value* other = call.arguments.find(0, "default_value");
    return other ? *other : make_text("");
}

Value pairs(const TemplateDict& dict, TemplateList::Kind kind) {
    TemplateValues out;
    for (const auto& [key, value] : dict.items)
        out.push_back(make_list({make_text(key), value}, TemplateList::tuple));
    return make_list(std::move(out), kind);
}

Value items_filter(const FilterCall& call) {
    call.none();
    if (std::holds_alternative<Undefined>(call.input))
        return make_list({}, TemplateList::generator);
    if (!is_mapping(call.input))
        throw TemplateProblem{concat("items wants a dict, not a ", kind_of(call.input))};
    return pairs(*dict_in(call.input), TemplateList::generator);
}

Value dictsort_filter(const FilterCall& call) {
    call.none();
    if (!is_mapping(call.input))
        throw TemplateProblem{concat("dictsort wants a dict, not a ", kind_of(call.input))};
    TemplateDict sorted = *dict_in(call.input);
    std::ranges::stable_sort(sorted.items, {}, [](const auto& item) { return lower(item.first); });
    return pairs(sorted, TemplateList::list);
}

Value first_filter(const FilterCall& call) {
    call.none();
    const TemplateValues items = items_of(call.input);
    return items.empty() ? Undefined{"the first of none"} : items.front();
}

Value last_filter(const FilterCall& call) {
    call.none();
    length_of(call.input);  // a generator has no last
    const TemplateValues items = items_of(call.input);
    return items.empty() ? Undefined{"the last of none"} : items.back();
}

Value number_filter(const FilterCall& call, bool whole) {
    call.arguments.expect({"default"});
    const Value* given = call.arguments.find(0, "default");
    double real = 0;
    if (const std::string* text = text_in(call.input)) {
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
    } else if (const double* number = std::get_if<double>(&call.input)) {
        real = *number;
    } else if (const int64_t* number = std::get_if<int64_t>(&call.input)) {
        return whole ? Value(*number) : Value(static_cast<double>(*number));
    } else {
        throw TemplateProblem{concat("a number of a ", kind_of(call.input), " is not supported")};
    }
    if (!whole) return real;
    if (!(std::fabs(real) < 0x1p62)) throw TemplateProblem{"a number beyond 64 bits"};
    return static_cast<int64_t>(real);
}

// The arguments of the filter or test that is named by the one at `place`.
TemplateArguments behind(const TemplateArguments& arguments, size_t place) {
    TemplateArguments out = arguments;
    const size_t drop = std::min(place + 1, out.positional.size());
    out.positional.erase(out.positional.begin(),
                         out.positional.begin() + static_cast<int64_t>(drop));
    return out;
}

Value map_filter(const FilterCall& call) {
    TemplateValues out;
    const TemplateArguments rest = behind(call.arguments, 0);
    const bool by_name = call.arguments.positional.empty();
    if (by_name) call.arguments.expect({"attribute"});
    const Value* what = call.arguments.find(0, "attribute");
    if (!what) throw TemplateProblem{"map wants a filter or an attribute"};
    const std::string& name = want_text(*what, "map's filter or attribute");
    if (by_name ? name.find('.') != std::string::npos : !is_filter(name))
        throw TemplateProblem{concat("map by ", name, " is not supported")};
    for (const Value& item : items_of(call.input))
        out.push_back(by_name ? item_of(item, make_text(name))
                              : apply_filter(name, item, rest, call.meter));
    return make_list(std::move(out), TemplateList::generator);
}

// select, reject, selectattr, rejectattr.
Value select_filter(const FilterCall& call, bool keeps, bool by_attribute) {
    const size_t place = by_attribute ? 1 : 0;
    const Value* attribute = by_attribute ? call.arguments.find(0, "attr") : nullptr;
    if (by_attribute &&
        (!attribute || want_text(*attribute, "an attribute").find('.') != std::string::npos))
        throw TemplateProblem{"select by this attribute is not supported"};
    const Value* named = call.arguments.find(place, "test");
    const std::string test = named ? want_text(*named, "a test") : "";
    if (named && !is_test(test))
        throw TemplateProblem{concat("the test ", test, " is not supported")};
    const TemplateArguments rest = behind(call.arguments, place);
    TemplateValues out;
    for (const Value& item : items_of(call.input)) {
        const Value looked_at = attribute ? item_of(item, *attribute) : item;
        const bool holds = named ? apply_test(test, looked_at, rest) : is_true(looked_at);
        if (holds == keeps) out.push_back(item);
    }
    return make_list(std::move(out), TemplateList::generator);
}

const std::map<std::string_view, Filter>& filters() {
    static const std::map<std::string_view, Filter> kFilters = {
        {"tojson", to_json_filter},
        {"replace", replace_filter},
        {"join", join_filter},
        {"default", default_filter},
        {"d", default_filter},
        {"items", items_filter},
        {"dictsort", dictsort_filter},
        {"first", first_filter},
        {"last", last_filter},
        {"map", map_filter},
        {"int", [](const FilterCall& call) { return number_filter(call, true); }},
        {"float", [](const FilterCall& call) { return number_filter(call, false); }},
        {"select", [](const FilterCall& call) { return select_filter(call, true, false); }},
        {"reject", [](const FilterCall& call) { return select_filter(call, false, false); }},
        {"selectattr", [](const FilterCall& call) { return select_filter(call, true, true); }},
        {"rejectattr", [](const FilterCall& call) { return select_filter(call, false, true); }},
        {"trim",
         [](const FilterCall& call) {
             call.arguments.expect({"chars"});
             const Value* set = call.arguments.find(0, "chars");
             return make_text(
                 strip(call.text(), set ? &want_text(*set, "trim's set") : nullptr, true, true));
         }},
        {"length",
         [](const FilterCall& call) { return call.none(), Value(length_of(call.input)); }},
        {"count", [](const FilterCall& call) { return call.none(), Value(length_of(call.input)); }},
        {"list",
         [](const FilterCall& call) { return call.none(), make_list(items_of(call.input)); }},
        {"upper",
         [](const FilterCall& call) { return call.none(), make_text(upper(call.text())); }},
        {"lower",
         [](const FilterCall& call) { return call.none(), make_text(lower(call.text())); }},
        {"capitalize",
         [](const FilterCall& call) { return call.none(), make_text(capitalize(call.text())); }},
        {"string",
         [](const FilterCall& call) {
             call.none();
             return text_in(call.input) ? call.input : make_text(call.text());
         }},
        {"safe",
         [](const FilterCall& call) {
             call.none();
             return Value(TemplateText{.text = call.text(), .is_safe = true});
         }},
    };
    return kFilters;
}

using Test = bool (*)(const Value& subject, const Value& other);

const std::map<std::string_view, std::pair<size_t, Test>>& tests() {
    static const auto kind = [](const Value& value, auto type) {
        return std::holds_alternative<decltype(type)>(value);
    };
    static const Test equal = [](const Value& a, const Value& b) { return are_equal(a, b); };
    static const Test differs = [](const Value& a, const Value& b) { return !are_equal(a, b); };
    static const Test number = [](const Value& a, const Value&) {
        return kind(a, true) || kind(a, int64_t{}) || kind(a, 0.0);
    };
    static const Test iterable = [](const Value& a, const Value&) {
        return text_in(a) || list_in(a) || is_mapping(a) || kind(a, Undefined{}) ||
               kind(a, std::shared_ptr<TemplateLoop>());
    };
    static const Test sequence = [](const Value& a, const Value& b) {
        const TemplateList* list = list_in(a);
        if (list && list->kind == TemplateList::view)
            throw TemplateProblem{"`is sequence` of a view is not supported"};
        return iterable(a, b) && !(list && list->kind == TemplateList::generator) &&
               !kind(a, std::shared_ptr<TemplateLoop>());
    };
    static const std::map<std::string_view, std::pair<size_t, Test>> kTests = {
        {"defined", {0, [](const Value& a, const Value&) { return !kind(a, Undefined{}); }}},
        {"undefined", {0, [](const Value& a, const Value&) { return kind(a, Undefined{}); }}},
        {"none", {0, [](const Value& a, const Value&) { return kind(a, None{}); }}},
        {"string", {0, [](const Value& a, const Value&) { return text_in(a) != nullptr; }}},
        {"mapping", {0, [](const Value& a, const Value&) { return is_mapping(a); }}},
        {"boolean", {0, [](const Value& a, const Value&) { return kind(a, true); }}},
        {"true", {0, [](const Value& a, const Value&) { return kind(a, true) && is_true(a); }}},
        {"false", {0, [](const Value& a, const Value&) { return kind(a, true) && !is_true(a); }}},
        {"integer", {0, [](const Value& a, const Value&) { return kind(a, int64_t{}); }}},
        {"float", {0, [](const Value& a, const Value&) { return kind(a, 0.0); }}},
        {"number", {0, number}},
        {"iterable", {0, iterable}},
        {"sequence", {0, sequence}},
        {"equalto", {1, equal}},
        {"eq", {1, equal}},
        {"ne", {1, differs}},
        {"in", {1, [](const Value& a, const Value& b) { return contains(b, a); }}},
        {"sameas",
         {1,
          [](const Value& a, const Value& b) {
              if (a.index() > 2 && b.index() > 2)  // beyond none, true and false it is memory
                  throw TemplateProblem{"`is sameas` is supported with none, true and false alone"};
              return a.index() == b.index() && are_equal(a, b);
          }}},
    };
    return kTests;
}

}  // namespace

bool is_filter(std::string_view name) {
    return filters().contains(name);
}

bool is_test(std::string_view name) {
    return tests().contains(name);
}

void TemplateArguments::expect(std::initializer_list<std::string_view> names) const {
    if (positional.size() > names.size())
        throw TemplateProblem{
            concat(positional.size(), " arguments, at most ", names.size(), " are supported")};
    for (const auto& [name, value] : named)
        if (std::ranges::find(names, name) == names.end())
            throw TemplateProblem{concat("the argument ", name, " is not supported")};
}

const TemplateValue* TemplateArguments::find(size_t place, std::string_view name) const {
    if (place < positional.size()) return &positional[place];
    for (const auto& [key, value] : named)
        if (key == name) return &value;
    return nullptr;
}

TemplateValue apply_filter(const std::string& name, const TemplateValue& input,
                           const TemplateArguments& arguments, TemplateMeter& meter) {
    const auto* text = std::get_if<TemplateText>(&input);
    if (text) meter.take_text(text->text.size());
    if (text && text->is_safe && name != "string" && name != "safe" && name != "length" &&
        name != "tojson")
        throw TemplateProblem{concat("the filter ", name, " of what `safe` made is not supported")};
    return filters().at(name)({.input = input, .arguments = arguments, .meter = meter});
}

bool apply_test(const std::string& name, const TemplateValue& subject,
                const TemplateArguments& arguments) {
    const auto& [count, test] = tests().at(name);
    if (arguments.positional.size() != count || !arguments.named.empty())
        throw TemplateProblem{concat("the test ", name, " wants ", count, " arguments")};
    return test(subject, count > 0 ? arguments.positional[0] : Value());
}

}  // namespace fucina
