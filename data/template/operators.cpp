// The operators of chat templates, as Python's.
#include <algorithm>

#include "data/template/value.h"

namespace fucina {
namespace {

using Value = TemplateValue;

int64_t of_integers(char sign, int64_t a, int64_t b) {
    int64_t out = 0;
    if (sign == '/' || sign == '%') {
        if (a == INT64_MIN || b == INT64_MIN) give_up("an integer is too large");
        const int64_t rest = a % b;
        const bool down = rest != 0 && (rest < 0) != (b < 0);  // Python rounds down
        return sign == '%' ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
    }
    const bool over = sign == '+'   ? __builtin_add_overflow(a, b, &out)
                      : sign == '-' ? __builtin_sub_overflow(a, b, &out)
                                    : __builtin_mul_overflow(a, b, &out);
    if (over) give_up("an integer beyond 64 bits");
    return out;
}

Value of_numbers(const std::string& sign, const Value& a, const Value& b) {
    const double x = *number_in(a), y = *number_in(b);
    const bool divides = sign[0] == '/' || sign == "%";
    if (divides && y == 0) give_up("a division by 0");
    if (sign == "/") return x / y;
    const auto whole = whole_in(a), other = whole_in(b);
    if (whole && other) return of_integers(sign[0], *whole, *other);
    if (divides) give_up("`", sign, "` of floats is not supported");
    return sign == "+" ? x + y : sign == "-" ? x - y : x * y;
}

// Negative, 0 or positive.
int order(const Value& a, const Value& b) {
    const auto of = [](auto x, auto y) { return (x > y) - (x < y); };
    if (const std::string* left = text_in(a), *right = text_in(b); left && right)
        return left->compare(*right);
    if (const auto left = whole_in(a), right = whole_in(b); left && right) return of(*left, *right);
    if (const auto left = number_in(a), right = number_in(b); left && right)
        return of(*left, *right);
    give_up("a ", kind_of(a), " and a ", kind_of(b), " have no order");
}

}  // namespace

bool are_equal(const TemplateValue& a, const TemplateValue& b) {
    if (const auto left = whole_in(a), right = whole_in(b); left && right) return *left == *right;
    if (const auto left = number_in(a), right = number_in(b); left && right) return *left == *right;
    if (a.index() != b.index()) return false;
    if (const std::string* text = text_in(a)) return *text == *text_in(b);
    if (const TemplateList* list = list_in(a), *other = list_in(b); list)
        return list == other || (list->kind == other->kind &&
                                 std::ranges::equal(list->items, other->items, are_equal));
    if (const TemplateDict* dict = dict_in(a), *other = dict_in(b); dict) {
        if (dict->is_namespace || other->is_namespace) return dict == other;
        return dict->items.size() == other->items.size() &&
               std::ranges::all_of(dict->items, [&](const auto& item) {
                   const Value* found = other->find(item.first);
                   return found && are_equal(item.second, *found);
               });
    }
    if (is<Undefined>(a) || is<None>(a)) return true;
    give_up("comparing a ", kind_of(a), " is not supported");
}

bool contains(const TemplateValue& whole, const TemplateValue& part) {
    const std::string* wanted = text_in(part);
    if (const std::string* text = text_in(whole)) {
        if (!wanted) give_up("`in` a string wants a string, not a ", kind_of(part));
        return text->find(*wanted) != std::string::npos;
    }
    if (is_mapping(whole)) return wanted && dict_in(whole)->find(*wanted);
    return std::ranges::any_of(items_of(whole), [&](const Value& v) { return are_equal(v, part); });
}

bool holds(const TemplateValue& a, const std::string& sign, const TemplateValue& b) {
    if (sign == "==" || sign == "!=") return are_equal(a, b) == (sign == "==");
    if (sign == "in" || sign == "not in") return contains(b, a) == (sign == "in");
    const int found = order(a, b);
    if (found == 0) return sign.size() == 2;
    return (found < 0) == (sign[0] == '<');
}

TemplateValue calculate(const std::string& sign, const TemplateValue& a, const TemplateValue& b) {
    if (sign == "~") return make_text(to_text(a) + to_text(b));
    const auto *left = std::get_if<TemplateText>(&a), *right = std::get_if<TemplateText>(&b);
    if ((left && left->is_safe) || (right && right->is_safe))
        give_up("`", sign, "` with what `safe` made is not supported; use ~");
    if (sign == "+" && left && right) return make_text(left->text + right->text);
    const TemplateList *list = list_in(a), *other = list_in(b);
    if (sign == "+" && list && other && list->kind == other->kind &&
        list->kind <= TemplateList::tuple) {
        TemplateValues items = list->items;
        items.insert(items.end(), other->items.begin(), other->items.end());
        return make_list(std::move(items), list->kind);
    }
    if (number_in(a) && number_in(b)) return of_numbers(sign, a, b);
    give_up("`", sign, "` of a ", kind_of(a), " and a ", kind_of(b), " is not supported");
}

}  // namespace fucina
