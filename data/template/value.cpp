#include "data/template/value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/tokenizer/unicode.h"

namespace fucina {
namespace {

// Raises `depth` to hold `value`, which must be plain data.
void hold(const TemplateValue& value, int& depth) {
    int inner = 0;
    const TemplateDict* dict = dict_in(value);
    const auto* callable = std::get_if<std::shared_ptr<TemplateCallable>>(&value);
    if (const TemplateList* list = list_in(value))
        inner = list->depth;
    else if (is_mapping(value))
        inner = dict->depth;
    else if (dict || is<std::shared_ptr<TemplateLoop>>(value) ||
             (callable && (*callable)->kind != "function"))
        give_up("a ", kind_of(value), " cannot be put into another value");
    depth = std::max(depth, inner + 1);
    if (depth > kTemplateDepth) give_up("a value of more than ", kTemplateDepth, " levels");
}

}  // namespace

const TemplateValue* TemplateNames::find(std::string_view name) const {
    for (const auto& [key, value] : items)
        if (key == name) return &value;
    return nullptr;
}

void TemplateNames::put(const std::string& name, TemplateValue value) {
    for (auto& [key, old] : items)
        if (key == name) return void(old = std::move(value));
    items.emplace_back(name, std::move(value));
}

void TemplateDict::set(const std::string& key, TemplateValue value) {
    hold(value, depth);
    put(key, std::move(value));
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
        give_up("the number ", json.dump(), " is beyond 64 bits");
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

std::optional<int64_t> whole_in(const TemplateValue& value) {
    if (const bool* flag = std::get_if<bool>(&value)) return *flag ? 1 : 0;
    const int64_t* whole = std::get_if<int64_t>(&value);
    return whole ? std::optional(*whole) : std::nullopt;
}

std::optional<double> number_in(const TemplateValue& value) {
    if (const auto whole = whole_in(value)) return static_cast<double>(*whole);
    const double* real = std::get_if<double>(&value);
    return real ? std::optional(*real) : std::nullopt;
}

std::string kind_of(const TemplateValue& value) {
    if (const auto* undefined = std::get_if<Undefined>(&value))
        return concat("undefined value (", undefined->name, ")");
    if (const TemplateList* list = list_in(value)) {
        constexpr const char* kKinds[] = {"list", "tuple", "generator", "view"};
        return kKinds[list->kind];
    }
    if (const TemplateDict* dict = dict_in(value)) return dict->is_namespace ? "namespace" : "dict";
    if (const auto* callable = std::get_if<std::shared_ptr<TemplateCallable>>(&value))
        return (*callable)->kind;
    constexpr const char* kNames[] = {"",       "None", "boolean", "integer", "float",
                                      "string", "",     "",        "loop"};
    return kNames[value.index()];
}

const std::string& want_text(const TemplateValue& value, std::string_view what) {
    const std::string* text = text_in(value);
    if (!text) give_up(what, " must be a string, not a ", kind_of(value));
    return *text;
}

bool is_true(const TemplateValue& value) {
    if (const auto number = number_in(value)) return *number != 0;
    if (const std::string* text = text_in(value)) return !text->empty();
    if (const TemplateList* list = list_in(value))
        return list->kind == TemplateList::generator || !list->items.empty();
    if (const TemplateDict* dict = dict_in(value))
        return dict->is_namespace || !dict->items.empty();
    if (const auto* loop = std::get_if<std::shared_ptr<TemplateLoop>>(&value))
        return !(*loop)->items.empty();
    return !is<Undefined>(value) && !is<None>(value);
}

TemplateValues items_of(const TemplateValue& value) {
    TemplateValues out;
    if (is<Undefined>(value)) return out;
    if (const std::string* text = text_in(value)) {
        for (std::string& one : characters(*text)) out.push_back(make_text(std::move(one)));
    } else if (const auto* list = std::get_if<std::shared_ptr<TemplateList>>(&value)) {
        const bool once = (*list)->kind == TemplateList::generator;
        if (once && std::exchange((*list)->is_used, true)) return out;
        out = (*list)->items;
    } else if (is_mapping(value)) {
        for (const auto& item : dict_in(value)->items) out.push_back(make_text(item.first));
    } else {
        give_up("a ", kind_of(value), " cannot be gone through");
    }
    return out;
}

int64_t length_of(const TemplateValue& value) {
    const TemplateList* list = list_in(value);
    if (const std::string* text = text_in(value)) return std::ssize(characters(*text));
    if (list && list->kind != TemplateList::generator) return std::ssize(list->items);
    if (is_mapping(value)) return std::ssize(dict_in(value)->items);
    if (is<Undefined>(value)) return 0;
    give_up("a ", kind_of(value), " has no length");
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
    static const CodeSet kSpaces = [] {
        CodeSet set = space_set();
        set.add(0x1c, 0x1f);
        return set;
    }();
    return kSpaces.contains(decode_utf8(text, at, length));
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
