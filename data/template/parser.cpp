// The statements of a chat template. What is Jinja2's but not here is refused by name, with its
// place.
#include "data/file.h"
#include "data/template/expression_parser.h"

namespace fucina {
namespace {

using Flow = TemplateFlow;
using Names = std::vector<std::string>;
using Run = TemplateRun;
using Scope = std::shared_ptr<TemplateScope>;
using Statement = TemplateStatement;
using Value = TemplateValue;

void bind(const Names& names, Value value, TemplateScope& scope) {
    if (names.size() == 1) return scope.names.put(names[0], std::move(value));
    TemplateValues parts = items_of(value);
    if (parts.size() != names.size()) give_up(parts.size(), " values for ", names.size(), " names");
    for (size_t i = 0; i < names.size(); ++i) scope.names.put(names[i], std::move(parts[i]));
}

void set_in_namespace(const std::string& space, const std::string& name, Value value,
                      const TemplateScope& scope) {
    const Value* found = scope.find(space);
    const auto* dict = found ? std::get_if<std::shared_ptr<TemplateDict>>(found) : nullptr;
    if (!dict || !(*dict)->is_namespace)
        give_up(space, " is no namespace, so ", name, " cannot be set");
    set_attribute(**dict, name, std::move(value));
}

struct Macro {
    std::string name;
    Names parameters;
    std::vector<TemplateExpression> defaults;  // of the last parameters
    Statement body;

    Value operator()(const TemplateArguments& arguments, Run& run) const {
        const auto given = bind_arguments("the macro " + name,
                                          {parameters.begin(), parameters.end()}, 0, arguments);
        const size_t required = parameters.size() - defaults.size();
        for (size_t i = 0; i < parameters.size(); ++i) {
            Value value = given[i]        ? *given[i]
                          : i >= required ? defaults[i - required](run)
                                          : Undefined{parameters[i]};
            run.scope->names.put(parameters[i], std::move(value));
        }
        return make_text(run.text_of(body));
    }
};

struct Loop {
    Names names;
    TemplateExpression whole, condition;
    Statement body, otherwise;

    Flow operator()(Run& run) const {
        const Scope outer = run.scope;
        auto loop = std::make_shared<TemplateLoop>();
        for (Value& item : items_of(whole(run))) {
            run.meter.take(1);
            const bool goes = !condition || run.within(outer, [&] {
                bind(names, item, *run.scope);
                return is_true(condition(run));
            });
            if (goes) loop->items.push_back(std::move(item));
        }
        const auto pass = [&] {
            bind(names, loop->items[static_cast<size_t>(loop->index0)], *run.scope);
            run.scope->names.put("loop", loop);
            return body(run);
        };
        for (; loop->index0 < std::ssize(loop->items); ++loop->index0)
            if (run.within(outer, pass) == Flow::leave) break;
        if (!loop->items.empty() || !otherwise) return Flow::on;
        return run.within(outer, [&] { return otherwise(run); });
    }
};

class Parser : private ExpressionParser {
  public:
    using ExpressionParser::ExpressionParser;

    Statement parse() {
        const Statement root = body({});
        if (next().kind != Token::last) refuse("{% ", next().text, " %} without its beginning");
        return root;
    }

  private:
    // Up to a tag that begins with one of `ends`, of which {% is taken.
    Statement body(const std::vector<std::string_view>& ends) {
        const Level level(*this);
        const size_t place = here();
        std::vector<Statement> parts;
        while (next().kind != Token::last) {
            const Token token = take();
            if (token.kind == Token::data) {
                parts.push_back(plain(token));
                continue;
            }
            if (token.text == "{{") {
                parts.push_back(output());
                continue;
            }
            if (next().kind != Token::name) refuse("wanted the name of a tag, found ", found());
            const bool ended = std::ranges::find(ends, next().text) != ends.end();
            if (ended || (ends.empty() && next().text.starts_with("end")))
                return sequence(place, parts);
            parts.push_back(statement());
        }
        if (!ends.empty()) refuse("the template ends before {% ", ends.back(), " %}");
        return sequence(place, parts);
    }

    static Statement sequence(size_t place, const std::vector<Statement>& parts) {
        return {place, [=](Run& run) {
                    for (const Statement& part : parts)
                        if (const Flow flow = part(run); flow != Flow::on) return flow;
                    return Flow::on;
                }};
    }

    static Statement plain(const Token& token) {
        return {token.place, [text = token.text](Run& run) { return run.write(text), Flow::on; }};
    }

    Statement output() {
        const Expression value = tuple_or_one();
        want("}}");
        return {value.place, [=](Run& run) { return run.write(to_text(value(run))), Flow::on; }};
    }

    void close(std::string_view end) {
        want(end);
        want("%}");
    }

    Statement statement() {
        const Token tag = take();
        if (tag.text == "if") return choice();
        if (tag.text == "for") return repeat();
        if (tag.text == "set") return assign();
        if (tag.text == "macro") return macro();
        if (tag.text == "generation") return generation();
        if (tag.text == "break" || tag.text == "continue") {
            want("%}");
            if (loops_ == 0) refuse_at(tag.place, "{% ", tag.text, " %} outside of a loop");
            const Flow flow = tag.text == "break" ? Flow::leave : Flow::skip;
            return {tag.place, [flow](Run&) { return flow; }};
        }
        if (tag.text == "else" || tag.text == "elif")
            refuse_at(tag.place, "{% ", tag.text, " %} without {% if %}");
        refuse_at(tag.place, "the tag {% ", printable(tag.text), " %} is not supported");
    }

    Statement choice() {
        const Expression test = condition();
        want("%}");
        const Statement then = body({"elif", "else", "endif"});
        Statement other;
        if (take_word("elif")) {
            const Level level(*this);
            other = choice();
        } else {
            other = otherwise("endif");
        }
        return {test.place, [=](Run& run) {
                    if (is_true(test(run))) return then(run);
                    return other ? other(run) : Flow::on;
                }};
    }

    // {% else %}, or nothing, up to the end.
    Statement otherwise(std::string_view end) {
        Statement out;
        if (take_word("else")) {
            want("%}");
            out = body({end});
        }
        close(end);
        return out;
    }

    Statement generation() {
        const size_t place = here();
        want("%}");
        const Statement inside = body({"endgeneration"});
        close("endgeneration");
        return {place,
                [=](Run& run) { return run.within(run.scope, [&] { return inside(run); }); }};
    }

    Names targets() {
        const bool enclosed = take_symbol("(");
        Names names;
        do {
            names.push_back(want_name());
        } while (take_symbol(","));
        if (enclosed) want(")");
        return names;
    }

    Statement repeat() {
        const size_t place = here();
        Loop loop{.names = targets()};
        want("in");
        loop.whole = logical();
        if (is_symbol(",")) refuse("a list without brackets is not supported here");
        if (take_word("if")) loop.condition = condition();
        if (is_word("recursive")) refuse("`recursive` is not supported");
        want("%}");
        ++loops_;
        loop.body = body({"else", "endfor"});
        --loops_;
        loop.otherwise = otherwise("endfor");
        return {place, std::move(loop)};
    }

    Statement assign() {
        const size_t place = here();
        std::string attribute;
        Names names;
        if (is_symbol(".", 1)) {
            names = {want_name()};
            want(".");
            attribute = want_name();
        } else {
            names = targets();
        }
        const Expression value = take_symbol("=") ? tuple_or_one() : Expression();
        if (is_symbol("|")) refuse("{% set %} with a filter is not supported");
        want("%}");
        Statement block;
        if (!value) {
            block = body({"endset"});
            close("endset");
        }
        return {place, [=](Run& run) {
                    const auto written = [&] { return make_text(run.text_of(block)); };
                    Value made = value ? value(run) : run.within(run.scope, written);
                    if (attribute.empty())
                        bind(names, std::move(made), *run.scope);
                    else
                        set_in_namespace(names[0], attribute, std::move(made), *run.scope);
                    return Flow::on;
                }};
    }

    Statement macro() {
        const size_t place = here();
        Macro out{.name = want_name()};
        want("(");
        while (!is_symbol(")")) {
            if (!out.parameters.empty()) want(",");
            out.parameters.push_back(want_name());
            if (take_symbol("="))
                out.defaults.push_back(condition());
            else if (!out.defaults.empty())
                refuse("a parameter without a default behind one that has one");
        }
        want(")");
        want("%}");
        const int loops = std::exchange(loops_, 0);
        out.body = body({"endmacro"});
        loops_ = loops;
        close("endmacro");
        return {place, [macro = std::make_shared<const Macro>(std::move(out))](Run& run) {
                    const auto call = [macro, scope = std::weak_ptr(run.scope)](
                                          const TemplateArguments& arguments, Run& inner) {
                        const Scope outer = scope.lock();
                        if (!outer)
                            give_up("the macro ", macro->name, " is called outside of its block");
                        return inner.within(outer, [&] { return (*macro)(arguments, inner); });
                    };
                    run.scope->names.put(macro->name, std::make_shared<TemplateCallable>(
                                                          TemplateCallable{"macro", call}));
                    return Flow::on;
                }};
    }

    int loops_ = 0;
};

}  // namespace

TemplateStatement parse_template(std::string_view source) {
    return Parser(source).parse();
}

}  // namespace fucina
