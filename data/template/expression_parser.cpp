#include "data/template/expression_parser.h"

#include <charconv>

#include "data/file.h"

namespace fucina {
namespace {

using Expression = TemplateExpression;
using Run = TemplateRun;
using Value = TemplateValue;

// From what binds less to what binds more.
constexpr std::string_view kArithmetic[] = {" + - ", " ~ ", " * / // % "};
constexpr std::string_view kComparisons = " == != < <= > >= ";

Expression constant(size_t place, Value value) {
    return {place, [value](Run&) { return value; }};
}

TemplateValues evaluate(const std::vector<Expression>& all, Run& run) {
    TemplateValues values;
    for (const Expression& one : all) values.push_back(one(run));
    return values;
}

Expression collection(size_t place, const std::vector<Expression>& items, TemplateList::Kind kind) {
    return {place, [=](Run& run) { return make_list(evaluate(items, run), kind); }};
}

Value look_up(const std::string& name, const Run& run) {
    const Value* found = run.scope->find(name);
    return found ? *found : function_of(name);
}

Value call(const Value& what, const TemplateArguments& arguments, Run& run) {
    if (const auto* callable = std::get_if<std::shared_ptr<TemplateCallable>>(&what))
        return (*callable)->call(arguments, run);
    give_up("a ", kind_of(what), " cannot be called");
}

// What it makes is as large as what it takes steps for.
Value calculated(const std::string& sign, const Value& a, const Value& b, TemplateMeter& meter) {
    Value out = calculate(sign, a, b);
    if (const std::string* text = text_in(out)) meter.take_text(text->size());
    if (const TemplateList* list = list_in(out)) meter.take(std::ssize(list->items));
    return out;
}

}  // namespace

std::string ExpressionParser::found() const {
    if (next().kind == Token::last) return "the end of the template";
    return next().kind == Token::data ? "text" : concat("`", printable(next().text), "`");
}

Expression ExpressionParser::tuple_or_one() {
    const Expression first = condition();
    if (!is_symbol(",")) return first;
    std::vector<Expression> items{first};
    while (take_symbol(",")) {
        if (next().kind == Token::end || is_symbol(")")) break;
        items.push_back(condition());
    }
    return collection(first.place, items, TemplateList::tuple);
}

Expression ExpressionParser::condition() {
    const Level level(*this);
    Expression out = logical();
    while (take_word("if")) {
        const Expression then = out, test = logical();
        const Expression other = take_word("else") ? condition() : Expression();
        out = {then, [=](Run& run) -> Value {
                   if (is_true(test(run))) return then(run);
                   return other ? other(run) : Undefined{"an `if` without else"};
               }};
    }
    return out;
}

Expression ExpressionParser::logical(bool is_or) {
    const auto operand = [&] { return is_or ? logical(false) : negation(); };
    Expression out = operand();
    while (take_word(is_or ? "or" : "and")) {
        const Expression first = out, second = operand();
        out = {first, [=](Run& run) {
                   Value value = first(run);
                   return is_true(value) == is_or ? value : second(run);
               }};
    }
    return out;
}

Expression ExpressionParser::negation() {
    const Level level(*this);
    if (!take_word("not")) return comparison();
    const Expression what = negation();
    return {what, [=](Run& run) -> Value { return !is_true(what(run)); }};
}

Expression ExpressionParser::comparison() {
    const Expression first = arithmetic(0);
    std::vector<std::pair<std::string, Expression>> others;  // behind their operators
    for (;;) {
        std::string sign;
        if (is_one_of(kComparisons))
            sign = take().text;
        else if (take_word("in"))
            sign = "in";
        else if (is_word("not") && is_word("in", 1))
            at_ += 2, sign = "not in";
        else
            break;
        others.emplace_back(sign, arithmetic(0));
    }
    if (others.empty()) return first;
    return {first, [=](Run& run) -> Value {
                Value left = first(run);
                for (const auto& [sign, other] : others) {
                    Value right = other(run);
                    if (!holds(left, sign, right)) return false;
                    left = std::move(right);
                }
                return true;
            }};
}

Expression ExpressionParser::arithmetic(size_t level) {
    if (level == std::size(kArithmetic)) return operand(true);
    Expression out = arithmetic(level + 1);
    while (is_one_of(kArithmetic[level])) {
        const std::string sign = take().text;
        const Expression first = out, second = arithmetic(level + 1);
        out = {first, [=](Run& run) {
                   const Value a = first(run), b = second(run);
                   return calculated(sign, a, b, run.meter);
               }};
    }
    if (is_symbol("**")) refuse("`**` is not supported");
    return out;
}

Expression ExpressionParser::operand(bool with_filters) {
    const Level level(*this);
    if (!is_one_of(" + - ")) return behind(primary(), true, with_filters);
    const std::string sign = take().text;
    const Expression what = operand(false);
    const Expression out{what, [=](Run& run) { return calculate(sign, int64_t{0}, what(run)); }};
    return with_filters ? behind(out, false, true) : out;
}

Expression ExpressionParser::primary() {
    const size_t place = here();
    switch (next().kind) {
        case Token::name:
            return word();
        case Token::string: {
            std::string text;
            while (next().kind == Token::string) text += take().text;
            return constant(place, make_text(std::move(text)));
        }
        case Token::integer:
        case Token::floating:
            return number();
        default:
            break;
    }
    if (take_symbol("[")) return list();
    if (take_symbol("{")) return dict();
    if (!take_symbol("(")) refuse("wanted a value, found ", found());
    if (take_symbol(")")) return collection(place, {}, TemplateList::tuple);
    Expression out = tuple_or_one();
    want(")");
    return out;
}

Expression ExpressionParser::word() {
    const size_t place = here();
    const std::string name = take().text;
    if (name == "true" || name == "True") return constant(place, true);
    if (name == "false" || name == "False") return constant(place, false);
    if (name == "none" || name == "None") return constant(place, None{});
    for (const char* special : {"caller", "varargs", "kwargs", "self", "super"})
        if (name == special) refuse_at(place, "the name `", name, "` is not supported");
    return {place, [name](Run& run) { return look_up(name, run); }};
}

Expression ExpressionParser::number() {
    const Token token = take();
    const auto read = [&](auto number) {
        const char *first = token.text.data(), *last = first + token.text.size();
        if (std::from_chars(first, last, number).ec != std::errc())
            refuse_at(token.place, "the number ", printable(token.text), " is too large");
        return constant(token.place, number);
    };
    return token.kind == Token::floating ? read(0.0) : read(int64_t{0});
}

Expression ExpressionParser::list() {
    const size_t place = tokens_[at_ - 1].place;
    std::vector<Expression> items;
    while (!take_symbol("]")) {
        if (!items.empty()) want(",");
        if (take_symbol("]")) break;
        items.push_back(condition());
    }
    return collection(place, items, TemplateList::list);
}

Expression ExpressionParser::dict() {
    const size_t place = tokens_[at_ - 1].place;
    std::vector<std::pair<Expression, Expression>> items;
    while (!take_symbol("}")) {
        if (!items.empty()) want(",");
        if (take_symbol("}")) break;
        const Expression key = condition();
        want(":");
        items.emplace_back(key, condition());
    }
    return {place, [=](Run& run) -> Value {
                auto dict = std::make_shared<TemplateDict>();
                for (const auto& [key, value] : items) {
                    const Value name = key(run), made = value(run);
                    dict->set(want_text(name, "a key"), made);
                }
                return dict;
            }};
}

// Attributes, items and calls behind a value; then filters, tests and calls.
Expression ExpressionParser::behind(Expression out, bool is_plain, bool with_filters) {
    for (;;) {
        const Expression what = out;
        if (is_plain && take_symbol(".")) {
            const std::string name = want_name();
            out = {what, [=](Run& run) { return attribute_of(what(run), name); }};
        } else if (is_plain && take_symbol("[")) {
            out = item(what);
        } else if (is_symbol("(")) {
            const Arguments arguments = this->arguments();
            out = {what, [=](Run& run) {
                       const Value called = what(run);
                       return call(called, arguments(run), run);
                   }};
        } else if (with_filters && (is_symbol("|") || is_word("is"))) {
            is_plain = false;
            out = take().text == "|" ? filter(what) : test(what);
        } else {
            return out;
        }
    }
}

Expression ExpressionParser::item(const Expression& of) {
    const Expression none = constant(of.place, None{});
    Expression begin = none, end = none, step = none;
    if (!is_symbol(":")) begin = condition();
    if (take_symbol("]"))
        return {of, [=](Run& run) {
                    const Value whole = of(run);
                    return item_of(whole, begin(run));
                }};
    want(":");
    if (!is_symbol(":") && !is_symbol("]")) end = condition();
    if (take_symbol(":") && !is_symbol("]")) step = condition();
    want("]");
    return {of, [=](Run& run) {
                const Value whole = of(run);
                const TemplateValues bounds = evaluate({begin, end, step}, run);
                run.meter.take(length_of(whole));
                return slice_of(whole, bounds[0], bounds[1], bounds[2]);
            }};
}

ExpressionParser::Arguments ExpressionParser::arguments() {
    Arguments out;
    want("(");
    for (bool first = true; !take_symbol(")"); first = false) {
        if (!first) want(",");
        if (take_symbol(")")) break;
        if (is_one_of(" * ** ")) refuse("arguments with * are not supported");
        if (next().kind == Token::name && is_symbol("=", 1)) {
            std::string name = take().text;
            ++at_;
            out.named.emplace_back(std::move(name), condition());
        } else if (out.named.empty()) {
            out.positional.push_back(condition());
        } else {
            refuse("an argument without a name behind one with a name");
        }
    }
    return out;
}

TemplateArguments ExpressionParser::Arguments::operator()(Run& run) const {
    TemplateArguments out{evaluate(positional, run), {}};
    for (const auto& [name, value] : named) out.named.items.emplace_back(name, value(run));
    return out;
}

Expression ExpressionParser::filter(const Expression& input) {
    if (!template_filters().contains(next().text))
        refuse("the filter ", found(), " is not supported");
    const std::string name = want_name();
    const Arguments arguments = is_symbol("(") ? this->arguments() : Arguments();
    return {input, [=](Run& run) {
                const Value value = input(run);
                return apply_filter(name, value, arguments(run), run.meter);
            }};
}

Expression ExpressionParser::test(const Expression& subject) {
    const bool negated = take_word("not");
    if (!template_tests().contains(next().text)) refuse("the test ", found(), " is not supported");
    const std::string name = want_name();
    Arguments arguments;
    const Token::Kind kind = next().kind;
    const bool ends = is_word("else") || is_word("or") || is_word("and") || is_word("is");
    if (is_symbol("("))
        arguments = this->arguments();
    else if (is_one_of(" [ { ") || kind == Token::string || kind == Token::integer ||
             kind == Token::floating || (kind == Token::name && !ends))
        arguments.positional = {behind(primary(), true, false)};
    return {subject, [=](Run& run) -> Value {
                const Value value = subject(run);
                return apply_test(name, value, arguments(run), run.meter) != negated;
            }};
}

}  // namespace fucina
