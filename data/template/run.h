// A parsed template is a tree of steps: closures that its parser makes, each of which knows its
// place in the source. A run goes through them. Private to data/template.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "data/template/builtins.h"

namespace fucina {

// Names of a block, and of what is around it.
struct TemplateScope {
    std::shared_ptr<TemplateScope> outer;
    TemplateNames names = {};

    const TemplateValue* find(std::string_view name) const {
        for (const TemplateScope* scope = this; scope; scope = scope->outer.get())
            if (const TemplateValue* found = scope->names.find(name)) return found;
        return nullptr;
    }
};

// One rendering. A TemplateProblem ends it, whatever state it leaves.
struct TemplateRun {
    TemplateMeter meter;
    int levels = 0;  // of steps, within each other
    std::shared_ptr<TemplateScope> scope = std::make_shared<TemplateScope>();
    std::string out;

    void write(const std::string& text) {
        meter.take_text(text.size());
        out += text;
    }
    // Does `work` in a scope inside of `outer`.
    template <class Work>
    auto within(const std::shared_ptr<TemplateScope>& outer, const Work& work) {
        const auto before =
            std::exchange(scope, std::make_shared<TemplateScope>(TemplateScope{outer}));
        auto result = work();
        scope = before;
        return result;
    }
    // What `body` writes.
    template <class Body>
    std::string text_of(const Body& body) {
        std::string before = std::exchange(out, {});
        body(*this);
        return std::exchange(out, std::move(before));
    }
};

template <class Result>
class TemplateStep {
  public:
    TemplateStep() = default;  // none
    template <class Work>
    TemplateStep(size_t at, Work work)
        : place(at), work_(std::make_shared<const Function>(std::move(work))) {}
    // On top of `first`, which it begins with.
    template <class Other, class Work>
    TemplateStep(const TemplateStep<Other>& first, Work work)
        : TemplateStep(first.place, std::move(work)) {
        height = first.height + 1;
        if (height > kHighest) throw TemplateProblem{"more than 500 operations in a row", place};
    }

    explicit operator bool() const { return work_ != nullptr; }
    // A problem gets the place of the innermost step that it leaves.
    Result operator()(TemplateRun& run) const {
        constexpr int kLevels = 600;  // more would not fit the stack
        try {
            if (++run.levels > kLevels) give_up("the template nests or recurs too deep");
            run.meter.take(1);
            Result result = (*work_)(run);
            --run.levels;
            return result;
        } catch (TemplateProblem& problem) {
            if (!problem.place) problem.place = place;
            throw;
        }
    }

    static constexpr int kHighest = 500;

    size_t place = 0;  // in the source
    int height = 1;    // of a chain of first steps

  private:
    using Function = std::function<Result(TemplateRun&)>;
    std::shared_ptr<const Function> work_;
};

enum class TemplateFlow : uint8_t { on, leave, skip };  // leave: a loop, by break
using TemplateExpression = TemplateStep<TemplateValue>;
using TemplateStatement = TemplateStep<TemplateFlow>;

}  // namespace fucina
