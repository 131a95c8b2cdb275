// The expressions of a chat template, for the parser of its statements. Private to data/template.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/template/syntax.h"

namespace fucina {

class ExpressionParser {
  public:
    explicit ExpressionParser(std::string_view source) : tokens_(read_tokens(source)) {}

  protected:
    using Expression = TemplateExpression;
    using Run = TemplateRun;
    using Token = TemplateToken;

    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... what) const {
        refuse_at(next().place, what...);
    }
    template <class... Parts>
    [[noreturn]] static void refuse_at(size_t at, const Parts&... what) {
        throw TemplateProblem{concat(what...), at};
    }

    const Token& next(size_t ahead = 0) const {
        return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
    }
    size_t here() const { return next().place; }
    Token take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
    bool is_symbol(std::string_view text, size_t ahead = 0) const {
        return next(ahead).kind == Token::symbol && next(ahead).text == text;
    }
    bool is_word(std::string_view text, size_t ahead = 0) const {
        return next(ahead).kind == Token::name && next(ahead).text == text;
    }
    // Whether the next token is a symbol out of `all`, with a space on either side of each.
    bool is_one_of(std::string_view all) const {
        return next().kind == Token::symbol && all.find(" " + next().text + " ") != all.npos;
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
    std::string found() const;

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

    // Expressions, from what binds least: with commas, with `if`, with `or` (or with `and`).
    Expression tuple_or_one();
    Expression condition();
    Expression logical(bool is_or = true);

  private:
    static constexpr int kNesting = 100;  // levels of expressions and blocks

    struct Arguments {
        std::vector<Expression> positional;
        std::vector<std::pair<std::string, Expression>> named;
        TemplateArguments operator()(Run& run) const;
    };

    Expression negation();
    Expression comparison();
    Expression arithmetic(size_t level);
    Expression operand(bool with_filters);
    Expression primary();
    Expression word();
    Expression number();
    Expression list();
    Expression dict();
    Expression behind(Expression out, bool is_plain, bool with_filters);
    Expression item(const Expression& of);
    Arguments arguments();
    Expression filter(const Expression& input);
    Expression test(const Expression& subject);

    const std::vector<Token> tokens_;
    size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace fucina
