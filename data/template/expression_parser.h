// The expressions of a chat template, for the parser of its statements. Private to data/template.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/file.h"
#include "data/template/syntax.h"
#include "kernels/error.h"

namespace fucina {

class ExpressionParser {
  public:
    ExpressionParser(std::vector<TemplateToken> tokens, const std::string& name)
        : tokens_(std::move(tokens)), name_(name) {}

  protected:
    using Node = TemplateNode;
    using Token = TemplateToken;

    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... what) const {
        refuse_at(next(), what...);
    }
    template <class Place, class... Parts>
    [[noreturn]] void refuse_at(const Place& at, const Parts&... what) const {
        fail(ExitCode::data, name_, ":", at.line, ":", at.column, ": ", what...);
    }

    const Token& next(size_t ahead = 0) const {
        return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
    }
    Token take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
    bool is_symbol(std::string_view text) const {
        return next().kind == Token::symbol && next().text == text;
    }
    bool is_word(std::string_view text, size_t ahead = 0) const {
        return next(ahead).kind == Token::name && next(ahead).text == text;
    }
    bool take_symbol(std::string_view text) {
        if (!is_symbol(text)) return false;
        ++at_;
        return true;
    }
    bool take_word(std::string_view text) {
        if (!is_word(text)) return false;
        ++at_;
        return true;
    }
    void want(std::string_view text) {
        if (next().text != text || next().kind == Token::string || next().kind == Token::data)
            refuse("wanted `", text, "`, found ", found());
        ++at_;
    }
    std::string want_name() {
        if (next().kind != Token::name) refuse("wanted a name, found ", found());
        return take().text;
    }
    std::string found() const {
        if (next().kind == Token::last) return "the end of the template";
        return next().kind == Token::data ? "text" : concat("`", printable(next().text), "`");
    }

    Node node(Node::Kind kind, std::vector<Node> children = {}, std::string text = "") const {
        Node made = node_at(next(), kind);
        if (!children.empty()) made = node_at(children.front(), kind);
        made.children = std::move(children);
        made.text = std::move(text);
        return made;
    }
    template <class Place>
    static Node node_at(const Place& at, Node::Kind kind) {
        Node made;
        made.kind = kind;
        made.line = at.line;
        made.column = at.column;
        return made;
    }

    // One more level inside; too many would not fit the stack.
    class Level {
      public:
        explicit Level(ExpressionParser& parser) : parser_(parser) {
            if (++parser.depth_ > kNesting) parser.refuse("more than ", kNesting, " levels");
        }
        ~Level() { --parser_.depth_; }

      private:
        ExpressionParser& parser_;
    };

    // Expressions, from what binds least: with commas, with `if`, with `or`.
    Node tuple_or_one();
    Node condition();
    Node either();

  private:
    static constexpr int kNesting = 100;  // levels of expressions and blocks

    Node both();
    Node negation();
    Node comparison();
    Node sum();
    Node joined();
    Node product();
    Node operand();
    Node sign(bool with_filters);
    Node primary();
    Node word();
    Node number();
    Node collection(Node::Kind kind, std::string_view close);
    Node behind(Node out);
    Node item(Node of);
    void arguments(Node& out);
    Node filters(Node out);
    Node test(Node subject);
    // Operands with operators between them.
    Node binary(std::initializer_list<std::string_view> operators,
                Node (ExpressionParser::*operand)());

    const std::vector<Token> tokens_;
    const std::string& name_;
    size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace fucina
