#include <cmath>

#include "data/template/builtins.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Value = TemplateValue;

bool is_whole(const Value& value) {
    return std::holds_alternative<bool>(value) || std::holds_alternative<int64_t>(value);
}

int64_t whole(const Value& value) {
    const bool* flag = std::get_if<bool>(&value);
    return flag ? (*flag ? 1 : 0) : std::get<int64_t>(value);
}

double real(const Value& value) {
    return is_whole(value) ? static_cast<double>(whole(value)) : std::get<double>(value);
}

int64_t of_integers(char sign, int64_t a, int64_t b) {
    int64_t out = 0;
    if (sign == '/' || sign == '%') {
        if (a == INT64_MIN || b == INT64_MIN) throw TemplateProblem{"an integer is too large"};
        const int64_t rest = a % b;
        const bool down = rest != 0 && (rest < 0) != (b < 0);  // Python rounds down
        return sign == '%' ? rest + (down ? b : 0) : a / b - (down ? 1 : 0);
    }
    const bool over = sign == '+'   ? __builtin_add_overflow(a, b, &out)
                      : sign == '-' ? __builtin_sub_overflow(a, b, &out)
                                    : __builtin_mul_overflow(a, b, &out);
    if (over) throw TemplateProblem{"an integer beyond 64 bits"};
    return out;
}

Value of_numbers(const std::string& sign, const Value& a, const Value& b) {
    const bool divides = sign[0] == '/' || sign == "%";
    if (divides && real(b) == 0) throw TemplateProblem{"a division by 0"};
    if (sign == "/") return real(a) / real(b);
    if (is_whole(a) && is_whole(b)) return of_integers(sign[0], whole(a), whole(b));
    if (divides) throw TemplateProblem{concat("`", sign, "` of floats is not supported")};
    const double x = real(a), y = real(b);
    return sign == "+" ? x + y : sign == "-" ? x - y : x * y;
}

}  // namespace

TemplateValue calculate(const std::string& sign, const TemplateValue& a, const TemplateValue& b) {
    if (sign == "~") return make_text(to_text(a) + to_text(b));
    const auto *left = std::get_if<TemplateText>(&a), *right = std::get_if<TemplateText>(&b);
    if ((left && left->is_safe) || (right && right->is_safe))
        throw TemplateProblem{concat("`", sign, "` with what `safe` made is not supported; use ~")};
    if (sign == "+" && left && right) return make_text(left->text + right->text);
    const TemplateList *list = list_in(a), *other = list_in(b);
    if (sign == "+" && list && other && list->kind == other->kind &&
        list->kind <= TemplateList::tuple) {
        TemplateValues items = list->items;
        items.insert(items.end(), other->items.begin(), other->items.end());
        return make_list(std::move(items), list->kind);
    }
    const auto is_number = [](const Value& v) {
        return is_whole(v) || std::holds_alternative<double>(v);
    };
    if (!is_number(a) || !is_number(b))
        throw TemplateProblem{
            concat("`", sign, "` of a ", kind_of(a), " and a ", kind_of(b), " is not supported")};
    return of_numbers(sign, a, b);
}

}  // namespace fucina
