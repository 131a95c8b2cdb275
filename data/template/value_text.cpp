// Values of chat templates as text: Python's str(), repr() and json.dumps().
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/template/value.h"
#include "data/tokenizer/unicode.h"

namespace fucina {
namespace {

// The fewest digits that read back to the same number, from 1e-4 to below 1e16 without exponent.
std::string float_text(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char digits[400];
    const double size = std::fabs(value);
    const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
    const auto end = std::to_chars(digits, digits + sizeof digits, value,
                                   plain ? std::chars_format::fixed : std::chars_format::scientific)
                         .ptr;
    std::string text(digits, end);
    if (plain && text.find('.') == std::string::npos) text += ".0";
    return text;
}

// Python's repr() of a string. What Python calls not printable beyond ASCII is refused, as its
// tables are not ours.
std::string quoted_text(const std::string& text) {
    const bool doubled =
        text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
    const char quote = doubled ? '"' : '\'';
    static const CodeSet kOther = [] {
        CodeSet set = *property_set("C");
        set.unite(*property_set("Z"));
        return set;
    }();
    std::string out(1, quote);
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
        const uint32_t c = decode_utf8(text, at, length);
        if (c == static_cast<uint8_t>(quote) || c == '\\')
            out += {'\\', static_cast<char>(c)};
        else if (c == '\n' || c == '\r' || c == '\t')
            out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
        else if (c < 0x20 || c == 0x7f)
            out += fmt::format("\\x{:02x}", c);
        else if (c >= 0x80 && kOther.contains(c))
            give_up(fmt::format("printing U+{:04X} inside a list is not supported", c));
        else
            out.append(text, at, length);
    }
    return out + quote;
}

std::string repr(const TemplateValue& value);

std::string list_text(const TemplateList& list) {
    if (list.kind > TemplateList::tuple)
        give_up("printing a generator or a view is not supported; use the filter list");
    std::string out;
    for (const TemplateValue& item : list.items) out += (out.empty() ? "" : ", ") + repr(item);
    if (list.kind == TemplateList::list) return "[" + out + "]";
    return "(" + out + (list.items.size() == 1 ? ",)" : ")");
}

std::string dict_text(const TemplateDict& dict) {
    if (dict.is_namespace) give_up("printing a namespace is not supported");
    std::string out;
    for (const auto& [key, value] : dict.items)
        out += (out.empty() ? "" : ", ") + quoted_text(key) + ": " + repr(value);
    return "{" + out + "}";
}

std::string repr(const TemplateValue& value) {
    if (is<Undefined>(value)) return "Undefined";
    const std::string* text = text_in(value);
    return text ? quoted_text(*text) : to_text(value);
}

class JsonWriter {
  public:
    explicit JsonWriter(const JsonStyle& style) : style_(style) {}

    std::string write(const TemplateValue& value, int64_t level) {
        if (is<None>(value)) return "null";
        if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
        if (const double* number = std::get_if<double>(&value)) return number_text(*number);
        if (const std::string* text = text_in(value)) return string(*text);
        if (const TemplateList* list = list_in(value); list && list->kind <= TemplateList::tuple) {
            std::vector<std::string> parts;
            for (const auto& item : list->items) parts.push_back(write(item, level + 1));
            return joined('[', parts, ']', level);
        }
        if (is_mapping(value)) {
            auto items = dict_in(value)->items;
            if (style_.sort_keys)
                std::ranges::stable_sort(items, {}, [](const auto& item) { return item.first; });
            std::vector<std::string> parts;
            for (const auto& [key, item] : items)
                parts.push_back(string(key) + style_.colon + write(item, level + 1));
            return joined('{', parts, '}', level);
        }
        if (!is<int64_t>(value)) give_up("a ", kind_of(value), " has no JSON");
        return to_text(value);
    }

  private:
    static std::string number_text(double number) {
        if (std::isnan(number)) return "NaN";
        if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
        return float_text(number);
    }

    std::string string(const std::string& text) const {
        return nlohmann::json(text).dump(-1, ' ', style_.ascii);
    }

    std::string joined(char open, const std::vector<std::string>& parts, char close,
                       int64_t level) const {
        if (parts.empty()) return {open, close};
        const auto new_line = [&](int64_t depth) {
            return style_.indent < 0
                       ? std::string()
                       : "\n" + std::string(static_cast<size_t>(depth * style_.indent), ' ');
        };
        std::string out(1, open);
        for (size_t i = 0; i < parts.size(); ++i)
            out += (i == 0 ? "" : style_.comma) + new_line(level + 1) + parts[i];
        return out + new_line(level) + close;
    }

    const JsonStyle& style_;
};

}  // namespace

std::string to_text(const TemplateValue& value) {
    if (is<Undefined>(value)) return "";
    if (is<None>(value)) return "None";
    if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "True" : "False";
    if (const int64_t* whole = std::get_if<int64_t>(&value)) return std::to_string(*whole);
    if (const double* number = std::get_if<double>(&value)) return float_text(*number);
    if (const std::string* text = text_in(value)) return *text;
    if (const TemplateList* list = list_in(value)) return list_text(*list);
    if (const TemplateDict* dict = dict_in(value)) return dict_text(*dict);
    give_up("printing a ", kind_of(value), " is not supported");
}

std::string to_json(const TemplateValue& value, const JsonStyle& style) {
    return JsonWriter(style).write(value, 0);
}

}  // namespace fucina
