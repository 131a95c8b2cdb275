#include <algorithm>

#include "data/template/builtins.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Value = TemplateValue;

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

std::string ascii(std::string text, char from, int shift) {
    for (char& c : text) {
        if (static_cast<unsigned char>(c) >= 0x80)
            throw TemplateProblem{"upper and lower case beyond ASCII is not supported"};
        if (c >= from && c < from + 26) c = static_cast<char>(c + shift);
    }
    return text;
}

Value split(const std::string& text, const TemplateArguments& arguments) {
    arguments.expect({"sep", "maxsplit"});
    const Value* separator = arguments.find(0, "sep");
    const Value* most = arguments.find(1, "maxsplit");
    int64_t left = most && std::holds_alternative<int64_t>(*most) ? std::get<int64_t>(*most) : -1;
    TemplateValues out;
    if (separator && !std::holds_alternative<None>(*separator)) {
        const std::string& by = want_text(*separator, "split's separator");
        if (by.empty()) throw TemplateProblem{"split by an empty string"};
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

Value replace(const std::string& text, const TemplateArguments& arguments) {
    arguments.expect({"old", "new", "count"});
    const Value *old = arguments.find(0, "old"), *with = arguments.find(1, "new");
    const Value* count = arguments.find(2, "count");
    if (!old || !with) throw TemplateProblem{"replace wants two strings"};
    int64_t left =
        count && std::holds_alternative<int64_t>(*count) ? std::get<int64_t>(*count) : -1;
    const std::string &wanted = want_text(*old, "what replace looks for"),
                      &better = want_text(*with, "what replace puts there");
    if (wanted.empty()) throw TemplateProblem{"replacing an empty string is not supported"};
    std::string out;
    size_t begin = 0;
    for (size_t at; left-- != 0 && (at = text.find(wanted, begin)) != std::string::npos;
         begin = at + wanted.size())
        out += text.substr(begin, at - begin) + better;
    return make_text(out + text.substr(begin));
}

bool has_end(const std::string& text, const Value& end, bool at_start) {
    if (const TemplateList* any = list_in(end); any && any->kind == TemplateList::tuple)
        return std::ranges::any_of(any->items,
                                   [&](const Value& one) { return has_end(text, one, at_start); });
    const std::string& wanted = want_text(end, "a beginning or end");
    return at_start ? text.starts_with(wanted) : text.ends_with(wanted);
}

int64_t count_of(const std::string& text, const std::string& part) {
    if (part.empty()) throw TemplateProblem{"counting an empty string is not supported"};
    int64_t count = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
    return count;
}

Value text_method(const std::string& text, const std::string& name,
                  const TemplateArguments& arguments, TemplateMeter& meter) {
    const auto one = [&]() -> const Value& {
        arguments.expect({""});
        if (arguments.positional.empty()) throw TemplateProblem{concat(name, " wants an argument")};
        return arguments.positional[0];
    };
    if (name == "strip" || name == "lstrip" || name == "rstrip") {
        arguments.expect({""});
        const bool all =
            arguments.positional.empty() || std::holds_alternative<None>(arguments.positional[0]);
        const std::string* set =
            all ? nullptr : &want_text(arguments.positional[0], "what is stripped");
        return make_text(strip(text, set, name != "rstrip", name != "lstrip"));
    }
    if (name == "split") return split(text, arguments);
    if (name == "replace") return replace(text, arguments);
    if (name == "startswith" || name == "endswith")
        return has_end(text, one(), name == "startswith");
    if (name == "join") {
        const TemplateArguments between{.positional = {make_text(text)}, .named = {}};
        TemplateValues items = items_of(one());
        for (const Value& item : items) want_text(item, "what is joined");
        return apply_filter("join", make_list(std::move(items)), between, meter);
    }
    if (name == "count") return count_of(text, want_text(one(), "what is counted"));
    if (name == "find") {
        const size_t at = text.find(want_text(one(), "what is looked for"));
        return at == std::string::npos
                   ? Value(int64_t{-1})
                   : Value(static_cast<int64_t>(characters(text.substr(0, at)).size()));
    }
    if (name != "upper" && name != "lower" && name != "capitalize")
        throw TemplateProblem{concat("the method ", name, " of a string is not supported")};
    arguments.expect({});
    if (name == "upper") return make_text(upper(text));
    if (name == "lower") return make_text(lower(text));
    return make_text(capitalize(text));
}

Value dict_method(const TemplateDict& dict, const std::string& name,
                  const TemplateArguments& arguments) {
    if (name == "get") {
        arguments.expect({"", ""});
        if (arguments.positional.empty()) throw TemplateProblem{"get wants a key"};
        const std::string* key = text_in(arguments.positional[0]);
        if (const Value* found = key ? dict.find(*key) : nullptr) return *found;
        return arguments.positional.size() > 1 ? arguments.positional[1] : None{};
    }
    if (name != "items" && name != "keys" && name != "values")
        throw TemplateProblem{concat("the method ", name, " of a dict is not supported")};
    arguments.expect({});
    TemplateValues out;
    for (const auto& [key, value] : dict.items) {
        if (name == "items")
            out.push_back(make_list({make_text(key), value}, TemplateList::tuple));
        else
            out.push_back(name == "keys" ? make_text(key) : value);
    }
    return make_list(std::move(out), TemplateList::view);
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
    throw TemplateProblem{concat("loop.", name, " is not supported")};
}

}  // namespace

std::string upper(std::string text) {
    return ascii(std::move(text), 'a', 'A' - 'a');
}
std::string lower(std::string text) {
    return ascii(std::move(text), 'A', 'a' - 'A');
}
std::string capitalize(std::string text) {
    text = lower(std::move(text));
    return text.empty() ? text : upper(text.substr(0, 1)) + text.substr(1);
}

const std::string& want_text(const TemplateValue& value, std::string_view what) {
    const std::string* text = text_in(value);
    if (!text) throw TemplateProblem{concat(what, " must be a string, not a ", kind_of(value))};
    return *text;
}

TemplateValue call_method(const TemplateMethod& method, const TemplateArguments& arguments,
                          TemplateMeter& meter) {
    if (const auto* text = std::get_if<TemplateText>(&method.self)) {
        if (text->is_safe) throw TemplateProblem{"a method of what `safe` made is not supported"};
        Value out = text_method(text->text, method.name, arguments, meter);
        meter.take_text(text->text.size());
        if (const std::string* made = text_in(out)) meter.take_text(made->size());
        return out;
    }
    if (const TemplateDict* dict = dict_in(method.self))
        return dict_method(*dict, method.name, arguments);
    throw TemplateProblem{
        concat("the method ", method.name, " of a ", kind_of(method.self), " is not supported")};
}

TemplateValue attribute_of(const TemplateValue& value, const std::string& name) {
    if (const auto* missing = std::get_if<Undefined>(&value))
        throw TemplateProblem{concat(missing->name, " is undefined, so it has no ", name)};
    if (const auto* loop = std::get_if<std::shared_ptr<TemplateLoop>>(&value))
        return loop_attribute(**loop, name);
    if (has_method(value, name))
        return std::make_shared<TemplateMethod>(TemplateMethod{value, name});
    const TemplateDict* dict = dict_in(value);
    if (const Value* found = dict ? dict->find(name) : nullptr) return *found;
    if (name.starts_with("__"))
        throw TemplateProblem{concat("the attribute ", name, " is not allowed")};
    return Undefined{concat("the ", kind_of(value), "'s ", name)};
}

TemplateValue item_of(const TemplateValue& value, const TemplateValue& index) {
    if (const auto* missing = std::get_if<Undefined>(&value))
        throw TemplateProblem{concat(missing->name, " is undefined, so it has no items")};
    const TemplateList* list = list_in(value);
    const std::string *text = text_in(value), *key = text_in(index);
    if (key) {
        const TemplateDict* dict = dict_in(value);
        const Value* found = dict ? dict->find(*key) : nullptr;
        return found ? *found : attribute_of(value, *key);
    }
    if (list && list->kind > TemplateList::tuple)
        throw TemplateProblem{
            concat("an item of a ", kind_of(value), " is not supported; use the filter list")};
    if ((list || text) &&
        (std::holds_alternative<int64_t>(index) || std::holds_alternative<bool>(index))) {
        const int64_t* whole = std::get_if<int64_t>(&index);
        int64_t at = whole ? *whole : std::get<bool>(index) ? 1 : 0;
        const int64_t count = length_of(value);
        if (at < 0) at += count;
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
        throw TemplateProblem{concat("a part of a ", kind_of(value), " is not supported")};
    const TemplateValues items = items_of(value);
    const auto count = static_cast<int64_t>(items.size());
    const auto bound = [](const Value& given, int64_t otherwise) {
        if (std::holds_alternative<None>(given)) return otherwise;
        const int64_t* whole = std::get_if<int64_t>(&given);
        if (!whole) throw TemplateProblem{concat("a slice wants integers, not a ", kind_of(given))};
        return *whole;
    };
    const int64_t by = bound(step, 1);
    if (by == 0) throw TemplateProblem{"a slice with step 0"};
    const auto clip = [&](const Value& given, int64_t otherwise) {
        if (std::holds_alternative<None>(given)) return otherwise;
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
