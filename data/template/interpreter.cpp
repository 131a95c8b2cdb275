#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/template/builtins.h"
#include "data/template/chat_template.h"
#include "data/template/syntax.h"
#include "data/tokenizer/unicode.h"
#include "kernels/error.h"

namespace fucina {

// Names of a block, and of what is around it.
class TemplateScope {
  public:
    explicit TemplateScope(std::shared_ptr<TemplateScope> outer = nullptr)
        : outer_(std::move(outer)) {}

    const TemplateValue* find(const std::string& name) const {
        for (const TemplateScope* scope = this; scope; scope = scope->outer_.get())
            if (const TemplateValue* own = scope->own(name)) return own;
        return nullptr;
    }
    void set(const std::string& name, TemplateValue value) {
        if (const TemplateValue* old = own(name)) {
            *const_cast<TemplateValue*>(old) = std::move(value);
        } else {
            names_.emplace_back(name, std::move(value));
        }
    }

  private:
    const TemplateValue* own(const std::string& name) const {
        for (const auto& [key, value] : names_)
            if (key == name) return &value;
        return nullptr;
    }

    std::shared_ptr<TemplateScope> outer_;
    std::vector<std::pair<std::string, TemplateValue>> names_;
};

namespace {

using Node = TemplateNode;
using Value = TemplateValue;
using Scope = std::shared_ptr<TemplateScope>;

constexpr int kLevels = 600;  // of evaluation, within each other

enum class Flow : uint8_t { on, leave, skip };

class Interpreter {
  public:
    explicit Interpreter(const nlohmann::ordered_json& variables)
        : root_(std::make_shared<TemplateScope>()) {
        for (const auto& [name, value] : variables.items()) root_->set(name, from_json(value));
    }

    std::string run(const Node& root) {
        std::string out;
        execute(root, root_, out);
        return out;
    }

    const Node* at() const { return at_; }

  private:
    // One more level inside; too many would not fit the stack.
    class Level {
      public:
        explicit Level(int& levels) : levels_(levels) {
            if (++levels_ > kLevels) throw TemplateProblem{"the template nests or recurs too deep"};
        }
        ~Level() { --levels_; }

      private:
        int& levels_;
    };

    void enter(const Node& node) {
        at_ = &node;
        meter_.take(1);
    }

    // ---- Statements

    void write(const std::string& text, std::string& out) {
        meter_.take_text(text.size());
        out += text;
    }

    Flow execute(const Node& node, const Scope& scope, std::string& out) {
        const Level level(levels_);
        enter(node);
        switch (node.kind) {
            case Node::nothing:
                return Flow::on;
            case Node::plain:
                write(node.text, out);
                return Flow::on;
            case Node::output:
                write_value(node, scope, out);
                return Flow::on;
            case Node::assign:
                assign(node, evaluate(node.children[0], scope), scope);
                return Flow::on;
            case Node::assign_block: {
                std::string text;
                execute(node.children[0], std::make_shared<TemplateScope>(scope), text);
                assign(node, make_text(std::move(text)), scope);
                return Flow::on;
            }
            case Node::choice:
                return execute(node.children[is_true(evaluate(node.children[0], scope)) ? 1 : 2],
                               scope, out);
            case Node::repeat:
                return repeat(node, scope, out);
            case Node::macro:
                scope->set(node.text, std::make_shared<TemplateMacro>(TemplateMacro{&node, scope}));
                return Flow::on;
            case Node::scope:
                return execute(node.children[0], std::make_shared<TemplateScope>(scope), out);
            case Node::leave:
                return Flow::leave;
            case Node::skip:
                return Flow::skip;
            default:
                break;
        }
        for (const Node& child : node.children)  // a block
            if (const Flow flow = execute(child, scope, out); flow != Flow::on) return flow;
        return Flow::on;
    }

    void write_value(const Node& node, const Scope& scope, std::string& out) {
        const Value value = evaluate(node.children[0], scope);
        at_ = &node;
        write(to_text(value), out);
    }

    void assign(const Node& node, Value value, const Scope& scope) {
        at_ = &node;
        if (!node.text.empty()) {
            const Value* space = scope->find(node.names[0]);
            const auto* dict = space ? std::get_if<std::shared_ptr<TemplateDict>>(space) : nullptr;
            if (!dict || !(*dict)->is_namespace)
                throw TemplateProblem{
                    concat(node.names[0], " is no namespace, so ", node.text, " cannot be set")};
            set_attribute(**dict, node.text, std::move(value));
        } else {
            bind(node.names, std::move(value), *scope);
        }
    }

    static void bind(const std::vector<std::string>& names, Value value, TemplateScope& scope) {
        if (names.size() == 1) return scope.set(names[0], std::move(value));
        TemplateValues parts = items_of(value);
        if (parts.size() != names.size())
            throw TemplateProblem{concat(parts.size(), " values for ", names.size(), " names")};
        for (size_t i = 0; i < names.size(); ++i) scope.set(names[i], std::move(parts[i]));
    }

    Flow repeat(const Node& node, const Scope& scope, std::string& out) {
        const Value whole = evaluate(node.children[0], scope);
        at_ = &node;
        auto loop = std::make_shared<TemplateLoop>();
        for (Value& item : items_of(whole)) {
            meter_.take(1);
            if (node.children[1].kind != Node::nothing) {
                auto inner = std::make_shared<TemplateScope>(scope);
                bind(node.names, item, *inner);
                if (!is_true(evaluate(node.children[1], inner))) continue;
            }
            loop->items.push_back(std::move(item));
        }
        const auto count = static_cast<int64_t>(loop->items.size());
        for (; loop->index0 < count; ++loop->index0) {
            auto inner = std::make_shared<TemplateScope>(scope);
            at_ = &node;
            bind(node.names, loop->items[static_cast<size_t>(loop->index0)], *inner);
            inner->set("loop", loop);
            if (execute(node.children[2], inner, out) == Flow::leave) break;
        }
        if (count > 0) return Flow::on;
        return execute(node.children[3], std::make_shared<TemplateScope>(scope), out);
    }

    // ---- Expressions

    Value evaluate(const Node& node, const Scope& scope) {
        const Level level(levels_);
        enter(node);
        switch (node.kind) {
            case Node::nothing:
                return None{};
            case Node::constant:
                return node.value;
            case Node::name:
                return named(node.text, scope);
            case Node::list:
            case Node::tuple:
                return collection(node, scope);
            case Node::dict:
                return dictionary(node, scope);
            case Node::logical_not:
                return !is_true(evaluate(node.children[0], scope));
            case Node::logical_and:
            case Node::logical_or: {
                Value first = evaluate(node.children[0], scope);
                if (is_true(first) == (node.kind == Node::logical_or)) return first;
                return evaluate(node.children[1], scope);
            }
            case Node::conditional:
                if (is_true(evaluate(node.children[0], scope)))
                    return evaluate(node.children[1], scope);
                if (node.children[2].kind == Node::nothing)
                    return Undefined{"an `if` without else"};
                return evaluate(node.children[2], scope);
            case Node::compare:
                return comparison(node, scope);
            default:
                return operation(node, scope);
        }
    }

    Value operation(const Node& node, const Scope& scope) {
        const Value first = evaluate(node.children[0], scope);
        if (node.kind == Node::attribute) return at_ = &node, attribute_of(first, node.text);
        if (node.kind == Node::slice) {
            const Value begin = evaluate(node.children[1], scope),
                        end = evaluate(node.children[2], scope);
            const Value step = evaluate(node.children[3], scope);
            at_ = &node;
            meter_.take(length_of(first));
            return slice_of(first, begin, end, step);
        }
        if (node.kind == Node::negate) return at_ = &node, calculate(node.text, int64_t{0}, first);
        if (node.kind == Node::item || node.kind == Node::arithmetic) {
            const Value second = evaluate(node.children[1], scope);
            at_ = &node;
            if (node.kind == Node::item) return item_of(first, second);
            Value out = calculate(node.text, first, second);
            if (const std::string* text = text_in(out)) meter_.take_text(text->size());
            if (const TemplateList* list = list_in(out))
                meter_.take(static_cast<int64_t>(list->items.size()));
            return out;
        }
        TemplateArguments arguments;
        const size_t plain = node.children.size() - node.names.size();
        for (size_t i = 1; i < node.children.size(); ++i) {
            Value value = evaluate(node.children[i], scope);
            if (i < plain)
                arguments.positional.push_back(std::move(value));
            else
                arguments.named.emplace_back(node.names[i - plain], std::move(value));
        }
        at_ = &node;
        if (node.kind == Node::filter) return apply_filter(node.text, first, arguments, meter_);
        if (node.kind == Node::test) return apply_test(node.text, first, arguments);
        return call(first, std::move(arguments));
    }

    static Value named(const std::string& name, const Scope& scope) {
        if (const Value* found = scope->find(name)) return *found;
        if (is_function(name)) return TemplateFunction{name};
        return Undefined{name};
    }

    Value collection(const Node& node, const Scope& scope) {
        TemplateValues items;
        for (const Node& child : node.children) items.push_back(evaluate(child, scope));
        at_ = &node;
        return make_list(std::move(items),
                         node.kind == Node::list ? TemplateList::list : TemplateList::tuple);
    }

    Value dictionary(const Node& node, const Scope& scope) {
        auto dict = std::make_shared<TemplateDict>();
        for (size_t i = 0; i < node.children.size(); i += 2) {
            const Value key = evaluate(node.children[i], scope);
            Value value = evaluate(node.children[i + 1], scope);
            at_ = &node;
            dict->set(want_text(key, "a key"), std::move(value));
        }
        return dict;
    }

    Value comparison(const Node& node, const Scope& scope) {
        Value left = evaluate(node.children[0], scope);
        for (size_t i = 0; i < node.names.size(); ++i) {
            Value right = evaluate(node.children[i + 1], scope);
            at_ = &node;
            const std::string& sign = node.names[i];
            bool holds = false;
            if (sign == "==" || sign == "!=")
                holds = are_equal(left, right) == (sign == "==");
            else if (sign == "in" || sign == "not in")
                holds = contains(right, left) == (sign == "in");
            else if (const int order = compare(left, right); sign[0] == '<')
                holds = sign == "<=" ? order <= 0 : order < 0;
            else
                holds = sign == ">=" ? order >= 0 : order > 0;
            if (!holds) return false;
            left = std::move(right);
        }
        return true;
    }

    // ---- Calls

    Value call(const Value& what, TemplateArguments arguments) {
        if (const auto* method = std::get_if<std::shared_ptr<TemplateMethod>>(&what))
            return call_method(**method, arguments, meter_);
        if (const auto* macro = std::get_if<std::shared_ptr<TemplateMacro>>(&what))
            return call_macro(**macro, std::move(arguments));
        if (const auto* function = std::get_if<TemplateFunction>(&what))
            return call_function(function->name, arguments, meter_);
        throw TemplateProblem{concat("a ", kind_of(what), " cannot be called")};
    }

    Value call_macro(const TemplateMacro& macro, TemplateArguments arguments) {
        const Node& node = *macro.node;
        const Scope outer = macro.scope.lock();
        if (!outer)
            throw TemplateProblem{
                concat("the macro ", node.text, " is called outside of its block")};
        if (arguments.positional.size() > node.names.size())
            throw TemplateProblem{concat("the macro ", node.text, " takes ", node.names.size(),
                                         " arguments, not ", arguments.positional.size())};
        auto scope = std::make_shared<TemplateScope>(outer);
        const size_t required = node.names.size() - (node.children.size() - 1);
        for (size_t i = 0; i < node.names.size(); ++i) {
            const Value* given = arguments.find(i, node.names[i]);
            if (given)
                scope->set(node.names[i], *given);
            else if (i >= required)
                scope->set(node.names[i], evaluate(node.children[1 + i - required], scope));
            else
                scope->set(node.names[i], Undefined{node.names[i]});
        }
        for (const auto& [name, value] : arguments.named) {
            const auto place = std::ranges::find(node.names, name) - node.names.begin();
            if (place < static_cast<int64_t>(arguments.positional.size()) ||
                place == static_cast<int64_t>(node.names.size()))
                throw TemplateProblem{
                    concat("the macro ", node.text, " has no use for the argument ", name)};
        }
        std::string out;
        execute(node.children[0], scope, out);
        return make_text(std::move(out));
    }

    const Scope root_;
    const Node* at_ = nullptr;
    int levels_ = 0;
    TemplateMeter meter_;
};

}  // namespace

ChatTemplate ChatTemplate::parse(std::string_view source, std::string name) {
    ChatTemplate out;
    out.root_ = std::make_shared<TemplateNode>(parse_template(source, name));
    out.name_ = std::move(name);
    return out;
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
    const TemplateNode* at = root_.get();
    std::optional<Interpreter> interpreter;
    try {
        interpreter.emplace(variables);
        return interpreter->run(*root_);
    } catch (const TemplateProblem& problem) {
        if (interpreter && interpreter->at()) at = interpreter->at();
        fail(ExitCode::data, name_, ":", at->line, ":", at->column, ": ",
             one_line(problem.what, 400));
    }
}

}  // namespace fucina
