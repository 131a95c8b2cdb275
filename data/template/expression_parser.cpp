#include "data/template/expression_parser.h"

#include <charconv>

namespace fucina {

TemplateNode ExpressionParser::tuple_or_one() {
    Node first = condition();
    if (!is_symbol(",")) return first;
    Node out = node(Node::tuple, {std::move(first)});
    while (take_symbol(",")) {
        if (next().kind == Token::end || is_symbol(")")) break;
        out.children.push_back(condition());
    }
    return out;
}

TemplateNode ExpressionParser::condition() {
    const Level level(*this);
    Node out = either();
    while (take_word("if")) {
        Node test = either();
        Node other;
        if (take_word("else")) other = condition();
        out = node(Node::conditional, {std::move(test), std::move(out), std::move(other)});
    }
    return out;
}

TemplateNode ExpressionParser::either() {
    Node out = both();
    while (take_word("or")) out = node(Node::logical_or, {std::move(out), both()});
    return out;
}

TemplateNode ExpressionParser::both() {
    Node out = negation();
    while (take_word("and")) out = node(Node::logical_and, {std::move(out), negation()});
    return out;
}

TemplateNode ExpressionParser::negation() {
    const Level level(*this);
    if (take_word("not")) return node(Node::logical_not, {negation()});
    return comparison();
}

TemplateNode ExpressionParser::comparison() {
    Node first = sum();
    std::vector<std::string> operators;
    std::vector<Node> operands;
    for (;;) {
        constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
        const bool symbol = next().kind == Token::symbol;
        if (symbol && std::ranges::find(kOperators, next().text) != std::end(kOperators))
            operators.push_back(take().text);
        else if (take_word("in"))
            operators.emplace_back("in");
        else if (is_word("not") && is_word("in", 1))
            at_ += 2, operators.emplace_back("not in");
        else
            break;
        operands.push_back(sum());
    }
    if (operators.empty()) return first;
    Node out = node(Node::compare, {std::move(first)});
    std::ranges::move(operands, std::back_inserter(out.children));
    out.names = std::move(operators);
    return out;
}

TemplateNode ExpressionParser::binary(std::initializer_list<std::string_view> operators,
                                      Node (ExpressionParser::*operand)()) {
    Node out = (this->*operand)();
    while (next().kind == Token::symbol &&
           std::ranges::find(operators, next().text) != operators.end()) {
        std::string text = take().text;
        out = node(Node::arithmetic, {std::move(out), (this->*operand)()}, std::move(text));
    }
    return out;
}

TemplateNode ExpressionParser::sum() {
    return binary({"+", "-"}, &ExpressionParser::joined);
}

TemplateNode ExpressionParser::joined() {
    return binary({"~"}, &ExpressionParser::product);
}

TemplateNode ExpressionParser::product() {
    Node out = binary({"*", "/", "//", "%"}, &ExpressionParser::operand);
    if (is_symbol("**")) refuse("`**` is not supported");
    return out;
}

TemplateNode ExpressionParser::operand() {
    return sign(true);
}

TemplateNode ExpressionParser::sign(bool with_filters) {
    const Level level(*this);
    Node out;
    if (is_symbol("-") || is_symbol("+")) {
        const bool minus = take().text == "-";
        out = sign(false);
        out = node(Node::negate, {std::move(out)}, minus ? "-" : "+");
    } else {
        out = behind(primary());
    }
    return with_filters ? filters(std::move(out)) : out;
}

TemplateNode ExpressionParser::primary() {
    const Token token = next();
    if (token.kind == Token::name) return word();
    if (token.kind == Token::string) {
        Node out = node(Node::constant);
        std::string text;
        while (next().kind == Token::string) text += take().text;
        out.value = make_text(std::move(text));
        return out;
    }
    if (token.kind == Token::integer || token.kind == Token::floating) return number();
    if (is_symbol("(")) {
        ++at_;
        if (take_symbol(")")) return node_at(token, Node::tuple);
        Node out = tuple_or_one();
        want(")");
        return out;
    }
    if (is_symbol("[")) return collection(Node::list, "]");
    if (is_symbol("{")) return collection(Node::dict, "}");
    refuse("wanted a value, found ", found());
}

TemplateNode ExpressionParser::word() {
    Node out = node(Node::constant);
    const std::string name = take().text;
    if (name == "true" || name == "True") {
        out.value = true;
    } else if (name == "false" || name == "False") {
        out.value = false;
    } else if (name != "none" && name != "None") {
        constexpr std::string_view kSpecial[] = {"caller", "varargs", "kwargs", "self", "super"};
        if (std::ranges::find(kSpecial, name) != std::end(kSpecial))
            refuse_at(out, "the name `", name, "` is not supported");
        out.kind = Node::name;
        out.text = name;
    }
    return out;
}

TemplateNode ExpressionParser::number() {
    Node out = node(Node::constant);
    const Token token = take();
    const char *first = token.text.data(), *last = first + token.text.size();
    int64_t whole = 0;
    double real = 0;
    const bool floating = token.kind == Token::floating;
    const auto error =
        floating ? std::from_chars(first, last, real).ec : std::from_chars(first, last, whole).ec;
    if (error != std::errc()) refuse_at(out, "the number ", printable(token.text), " is too large");
    if (floating)
        out.value = real;
    else
        out.value = whole;
    return out;
}

TemplateNode ExpressionParser::collection(Node::Kind kind, std::string_view close) {
    Node out = node(kind);
    ++at_;
    while (!is_symbol(close)) {
        if (!out.children.empty()) want(",");
        if (is_symbol(close)) break;
        out.children.push_back(condition());
        if (kind != Node::dict) continue;
        want(":");
        out.children.push_back(condition());
    }
    want(close);
    return out;
}

// Attributes, items and calls behind a value.
TemplateNode ExpressionParser::behind(Node out) {
    for (;;) {
        if (take_symbol(".")) {
            out = node(Node::attribute, {std::move(out)});
            out.text = want_name();
        } else if (take_symbol("[")) {
            out = item(std::move(out));
        } else if (is_symbol("(")) {
            out = node(Node::call, {std::move(out)});
            arguments(out);
        } else {
            return out;
        }
    }
}

TemplateNode ExpressionParser::item(Node of) {
    Node begin, end, step;
    if (!is_symbol(":")) begin = condition();
    if (take_symbol("]")) return node(Node::item, {std::move(of), std::move(begin)});
    want(":");
    if (!is_symbol(":") && !is_symbol("]")) end = condition();
    if (take_symbol(":") && !is_symbol("]")) step = condition();
    want("]");
    return node(Node::slice, {std::move(of), std::move(begin), std::move(end), std::move(step)});
}

void ExpressionParser::arguments(Node& out) {
    want("(");
    for (bool first = true; !is_symbol(")"); first = false) {
        if (!first) want(",");
        if (is_symbol(")")) break;
        if (is_symbol("*") || is_symbol("**")) refuse("arguments with * are not supported");
        if (next().kind == Token::name && next(1).text == "=" && next(1).kind == Token::symbol) {
            out.names.push_back(take().text);
            ++at_;
        } else if (!out.names.empty()) {
            refuse("an argument without a name behind one with a name");
        }
        out.children.push_back(condition());
    }
    want(")");
}

TemplateNode ExpressionParser::filters(Node out) {
    for (;;) {
        if (take_symbol("|")) {
            out = node(Node::filter, {std::move(out)});
            if (!is_filter(next().text)) refuse("the filter ", found(), " is not supported");
            out.text = want_name();
            if (is_symbol("(")) arguments(out);
        } else if (take_word("is")) {
            out = test(std::move(out));
        } else if (is_symbol("(")) {
            out = node(Node::call, {std::move(out)});
            arguments(out);
        } else {
            return out;
        }
    }
}

TemplateNode ExpressionParser::test(Node subject) {
    const bool negated = take_word("not");
    Node out = node(Node::test, {std::move(subject)});
    if (!is_test(next().text)) refuse("the test ", found(), " is not supported");
    out.text = want_name();
    const Token::Kind kind = next().kind;
    const bool ends = is_word("else") || is_word("or") || is_word("and") || is_word("is");
    if (is_symbol("("))
        arguments(out);
    else if (is_symbol("[") || is_symbol("{") || kind == Token::string || kind == Token::integer ||
             kind == Token::floating || (kind == Token::name && !ends))
        out.children.push_back(behind(primary()));
    if (!negated) return out;
    return node(Node::logical_not, {std::move(out)});
}

}  // namespace fucina
