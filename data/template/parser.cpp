// The statements of a chat template. What is Jinja2's but not here is refused by name, with its
// place.
#include "data/template/expression_parser.h"

namespace fucina {
namespace {

class Parser : private ExpressionParser {
  public:
    using ExpressionParser::ExpressionParser;

    Node parse() {
        Node root = body({});
        if (next().kind != Token::last) refuse("{% ", next().text, " %} without its beginning");
        return root;
    }

  private:
    // Up to a tag that begins with one of `ends`, of which {% is taken.
    Node body(const std::vector<std::string_view>& ends) {
        const Level level(*this);
        Node out = node(Node::block);
        for (;;) {
            const Token token = next();
            if (token.kind == Token::data) {
                out.children.push_back(node(Node::plain, {}, take().text));
            } else if (token.kind == Token::begin && token.text == "{{") {
                take();
                out.children.push_back(node(Node::output, {tuple_or_one()}));
                want("}}");
            } else if (token.kind == Token::begin) {
                take();
                if (next().kind != Token::name) refuse("wanted the name of a tag, found ", found());
                if (std::ranges::find(ends, next().text) != ends.end()) return out;
                if (ends.empty() && next().text.starts_with("end")) return out;
                out.children.push_back(statement());
            } else {
                if (!ends.empty()) refuse("the template ends before {% ", ends.back(), " %}");
                return out;
            }
        }
    }

    Node closed(Node made, std::string_view end) {
        want(end);
        want("%}");
        return made;
    }

    Node statement() {
        const Token tag = take();
        if (tag.text == "if") return choice();
        if (tag.text == "for") return repeat();
        if (tag.text == "set") return assign();
        if (tag.text == "macro") return macro();
        if (tag.text == "generation") {
            want("%}");
            return closed(node(Node::scope, {body({"endgeneration"})}), "endgeneration");
        }
        if (tag.text == "break" || tag.text == "continue") {
            want("%}");
            if (loops_ == 0) refuse_at(tag, "{% ", tag.text, " %} outside of a loop");
            return node_at(tag, tag.text == "break" ? Node::leave : Node::skip);
        }
        if (tag.text == "else" || tag.text == "elif")
            refuse_at(tag, "{% ", tag.text, " %} without {% if %}");
        refuse_at(tag, "the tag {% ", printable(tag.text), " %} is not supported");
    }

    Node choice() {
        Node out = node(Node::choice);
        out.children.push_back(condition());
        want("%}");
        out.children.push_back(body({"elif", "else", "endif"}));
        if (take_word("elif")) {
            const Level level(*this);
            out.children.push_back(choice());
            return out;
        }
        out.children.push_back(otherwise("endif"));
        return closed(std::move(out), "endif");
    }

    Node otherwise(std::string_view end) {
        if (!take_word("else")) return {};
        want("%}");
        return body({end});
    }

    std::vector<std::string> targets() {
        const bool enclosed = take_symbol("(");
        std::vector<std::string> names;
        do {
            names.push_back(want_name());
        } while (take_symbol(","));
        if (enclosed) want(")");
        return names;
    }

    Node repeat() {
        Node out = node(Node::repeat);
        out.names = targets();
        want("in");
        out.children.push_back(either());
        if (is_symbol(",")) refuse("a list without brackets is not supported here");
        out.children.push_back(take_word("if") ? condition() : Node());
        if (is_word("recursive")) refuse("`recursive` is not supported");
        want("%}");
        ++loops_;
        out.children.push_back(body({"else", "endfor"}));
        --loops_;
        out.children.push_back(otherwise("endfor"));
        return closed(std::move(out), "endfor");
    }

    Node assign() {
        Node out = node(Node::assign);
        if (next(1).text == "." && next(1).kind == Token::symbol) {
            out.names = {want_name()};
            want(".");
            out.text = want_name();
        } else {
            out.names = targets();
        }
        if (take_symbol("=")) {
            out.children = {tuple_or_one()};
            want("%}");
            return out;
        }
        if (is_symbol("|")) refuse("{% set %} with a filter is not supported");
        want("%}");
        out.kind = Node::assign_block;
        out.children = {body({"endset"})};
        return closed(std::move(out), "endset");
    }

    Node macro() {
        Node out = node(Node::macro);
        out.text = want_name();
        want("(");
        std::vector<Node> defaults;
        while (!is_symbol(")")) {
            if (!out.names.empty()) want(",");
            out.names.push_back(want_name());
            if (take_symbol("="))
                defaults.push_back(condition());
            else if (!defaults.empty())
                refuse("a parameter without a default behind one that has one");
        }
        want(")");
        want("%}");
        const int loops = std::exchange(loops_, 0);
        out.children.push_back(body({"endmacro"}));
        loops_ = loops;
        std::ranges::move(defaults, std::back_inserter(out.children));
        return closed(std::move(out), "endmacro");
    }

    int loops_ = 0;
};

}  // namespace

TemplateNode parse_template(std::string_view source, const std::string& name) {
    return Parser(read_tokens(source, name), name).parse();
}

}  // namespace fucina
