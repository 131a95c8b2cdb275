#include "data/template/value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tokenizer/unicode.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// Raises `depth` to hold `value`, which must be plain data.
void hold(const TemplateValue& value, int& depth) {
    int inner = 0;
    if (const TemplateList* list = list_in(value)) {
        inner = list->depth;
    } else if (const TemplateDict* dict = dict_in(value)) {
        if (dict->is_namespace)
            throw TemplateProblem{"a namespace cannot be put into another value"};
        inner = dict->depth;
    } else if (std::holds_alternative<std::shared_ptr<TemplateLoop>>(value) ||
               std::holds_alternative<std::shared_ptr<TemplateMacro>>(value) ||
               std::holds_alternative<std::shared_ptr<TemplateMethod>>(value)) {
        throw TemplateProblem{concat("a ", kind_of(value), " cannot be put into another value")};
    }
    depth = std::max(depth, inner + 1);
    if (depth > kTemplateDepth)
        throw TemplateProblem{concat("a value of more than ", kTemplateDepth, " levels")};
}

bool is_number(const TemplateValue& value) {
    return std::holds_alternative<bool>(value) || std::holds_alternative<int64_t>(value) ||
           std::holds_alternative<double>(value);
}

double number(const TemplateValue& value) {
    if (const bool* flag = std::get_if<bool>(&value)) return *flag ? 1 : 0;
    if (const int64_t* whole = std::get_if<int64_t>(&value)) return static_cast<double>(*whole);
    return std::get<double>(value);
}

bool same_items(const TemplateDict& a, const TemplateDict& b) {
    if (a.items.size() != b.items.size()) return false;
    return std::ranges::all_of(a.items, [&](const auto& item) {
        const TemplateValue* other = b.find(item.first);
        return other && are_equal(item.second, *other);
    });
}

bool same_items(const TemplateList& a, const TemplateList& b) {
    return a.kind == b.kind && std::ranges::equal(a.items, b.items, are_equal);
}

}  // namespace

const TemplateValue* TemplateDict::find(std::string_view key) const {
    for (const auto& [name, value] : items)
        if (name == key) return &value;
    return nullptr;
}

void TemplateDict::set(const std::string& key, TemplateValue value) {
    hold(value, depth);
    for (auto& [name, old] : items)
        if (name == key) return void(old = std::move(value));
    items.emplace_back(key, std::move(value));
}

TemplateValue make_text(std::string text) {
    return TemplateText{.text = std::move(text)};
}

TemplateValue make_list(TemplateValues items, TemplateList::Kind kind) {
    auto list = std::make_shared<TemplateList>();
    for (const TemplateValue& item : items) hold(item, list->depth);
    list->items = std::move(items);
    list->kind = kind;
    return list;
}

TemplateValue from_json(const nlohmann::ordered_json& json) {
    if (json.is_null()) return None{};
    if (json.is_boolean()) return json.get<bool>();
    if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX})
        throw TemplateProblem{concat("the number ", json.dump(), " is beyond 64 bits")};
    if (json.is_number_integer()) return json.get<int64_t>();
    if (json.is_number_float()) return json.get<double>();
    if (json.is_string()) return make_text(json.get<std::string>());
    if (json.is_array()) {
        TemplateValues items;
        for (const auto& item : json) items.push_back(from_json(item));
        return make_list(std::move(items));
    }
    auto dict = std::make_shared<TemplateDict>();
    for (const auto& [key, value] : json.items()) dict->set(key, from_json(value));
    return dict;
}

const std::string* text_in(const TemplateValue& value) {
    const auto* text = std::get_if<TemplateText>(&value);
    return text ? &text->text : nullptr;
}

const TemplateList* list_in(const TemplateValue& value) {
    const auto* list = std::get_if<std::shared_ptr<TemplateList>>(&value);
    return list ? list->get() : nullptr;
}

const TemplateDict* dict_in(const TemplateValue& value) {
    const auto* dict = std::get_if<std::shared_ptr<TemplateDict>>(&value);
    return dict ? dict->get() : nullptr;
}

bool is_mapping(const TemplateValue& value) {
    const TemplateDict* dict = dict_in(value);
    return dict && !dict->is_namespace;
}

std::string kind_of(const TemplateValue& value) {
    if (const auto* undefined = std::get_if<Undefined>(&value))
        return concat("undefined value (", undefined->name, ")");
    constexpr const char* kNames[] = {"",         "None", "boolean", "integer", "float", "string",
                                      "function", "",     "",        "loop",    "macro", "method"};
    if (const TemplateList* list = list_in(value)) {
        constexpr const char* kKinds[] = {"list", "tuple", "generator", "view"};
        return kKinds[list->kind];
    }
    if (const TemplateDict* dict = dict_in(value)) return dict->is_namespace ? "namespace" : "dict";
    return kNames[value.index()];
}

bool is_true(const TemplateValue& value) {
    if (is_number(value)) return number(value) != 0;
    if (const std::string* text = text_in(value)) return !text->empty();
    if (const TemplateList* list = list_in(value))
        return list->kind == TemplateList::generator || !list->items.empty();
    if (const TemplateDict* dict = dict_in(value))
        return dict->is_namespace || !dict->items.empty();
    if (const auto* loop = std::get_if<std::shared_ptr<TemplateLoop>>(&value))
        return !(*loop)->items.empty();
    return !std::holds_alternative<Undefined>(value) && !std::holds_alternative<None>(value);
}

bool are_equal(const TemplateValue& a, const TemplateValue& b) {
    if (std::holds_alternative<int64_t>(a) && std::holds_alternative<int64_t>(b))
        return std::get<int64_t>(a) == std::get<int64_t>(b);
    if (is_number(a) && is_number(b)) return number(a) == number(b);
    if (a.index() != b.index()) return false;
    if (const std::string* text = text_in(a)) return *text == *text_in(b);
    if (const TemplateList* list = list_in(a))
        return list == list_in(b) || same_items(*list, *list_in(b));
    if (const TemplateDict* dict = dict_in(a)) {
        if (dict->is_namespace || dict_in(b)->is_namespace) return dict == dict_in(b);
        return same_items(*dict, *dict_in(b));
    }
    if (std::holds_alternative<Undefined>(a) || std::holds_alternative<None>(a)) return true;
    throw TemplateProblem{concat("comparing a ", kind_of(a), " is not supported")};
}

int compare(const TemplateValue& a, const TemplateValue& b) {
    const std::string *left = text_in(a), *right = text_in(b);
    if (left && right) return left->compare(*right);
    if (!is_number(a) || !is_number(b))
        throw TemplateProblem{concat("a ", kind_of(a), " and a ", kind_of(b), " have no order")};
    if (std::holds_alternative<int64_t>(a) && std::holds_alternative<int64_t>(b))
        return (std::get<int64_t>(a) > std::get<int64_t>(b)) -
               (std::get<int64_t>(a) < std::get<int64_t>(b));
    return (number(a) > number(b)) - (number(a) < number(b));
}

bool contains(const TemplateValue& whole, const TemplateValue& part) {
    if (const std::string* text = text_in(whole)) {
        const std::string* wanted = text_in(part);
        if (!wanted)
            throw TemplateProblem{concat("`in` a string wants a string, not a ", kind_of(part))};
        return text->find(*wanted) != std::string::npos;
    }
    if (const TemplateDict* dict = dict_in(whole); dict && !dict->is_namespace) {
        const std::string* key = text_in(part);
        return key && dict->find(*key);
    }
    const TemplateValues items = items_of(whole);
    return std::ranges::any_of(items, [&](const TemplateValue& v) { return are_equal(v, part); });
}

TemplateValues items_of(const TemplateValue& value) {
    TemplateValues out;
    if (std::holds_alternative<Undefined>(value)) return out;
    if (const std::string* text = text_in(value)) {
        for (std::string& one : characters(*text)) out.push_back(make_text(std::move(one)));
    } else if (const auto* list = std::get_if<std::shared_ptr<TemplateList>>(&value)) {
        const bool once = (*list)->kind == TemplateList::generator;
        if (once && std::exchange((*list)->is_used, true)) return out;
        out = (*list)->items;
    } else if (is_mapping(value)) {
        for (const auto& item : dict_in(value)->items) out.push_back(make_text(item.first));
    } else {
        throw TemplateProblem{concat("a ", kind_of(value), " cannot be gone through")};
    }
    return out;
}

int64_t length_of(const TemplateValue& value) {
    size_t length = 0;
    const TemplateList* list = list_in(value);
    if (const std::string* text = text_in(value))
        length = characters(*text).size();
    else if (list && list->kind != TemplateList::generator)
        length = list->items.size();
    else if (is_mapping(value))
        length = dict_in(value)->items.size();
    else if (!std::holds_alternative<Undefined>(value))
        throw TemplateProblem{concat("a ", kind_of(value), " has no length")};
    return static_cast<int64_t>(length);
}

std::vector<std::string> characters(std::string_view text) {
    std::vector<std::string> out;
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
        decode_utf8(text, at, length);
        out.emplace_back(text.substr(at, length));
    }
    return out;
}

bool is_space_at(std::string_view text, size_t at, size_t& length) {
    const uint32_t c = decode_utf8(text, at, length);
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string strip(std::string_view text, const std::string* set, bool left, bool right) {
    size_t length = 0;
    const auto goes = [&](size_t at) {
        const bool space = is_space_at(text, at, length);
        return set ? set->find(text.substr(at, length)) != std::string::npos : space;
    };
    while (left && !text.empty() && goes(0)) text.remove_prefix(length);
    while (right && !text.empty()) {
        const size_t last = previous_utf8(text, text.size());
        if (!goes(last)) break;
        text = text.substr(0, last);
    }
    return std::string(text);
}

}  // namespace fucina
