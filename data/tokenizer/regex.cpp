// Runs a compiled pattern with an explicit stack of choices.
#include "data/tokenizer/regex.h"

#include <optional>

#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kMaxStack = 10'000'000;

class Matcher {
  public:
    Matcher(const std::vector<RegexStep>& steps, const std::vector<CodeSet>& sets,
            std::string_view text)
        : steps_(steps),
          sets_(sets),
          text_(text),
          budget_(50'000'000 + 300 * static_cast<int64_t>(text.size())) {}

    // The end of the match that begins at `at` with step `pc`; nothing if there is none.
    std::optional<size_t> run(int32_t pc, size_t at);

  private:
    // To resume at step `pc` with position `at`, and then, one code point back at a time, down to
    // `low`.
    struct Choice {
        int32_t pc;
        size_t at, low;
    };

    bool in_set(int32_t set, size_t at, size_t& length) const {
        if (at >= text_.size()) return false;
        return sets_[static_cast<size_t>(set)].contains(decode_utf8(text_, at, length));
    }
    bool loop(const RegexStep& step, int32_t pc, size_t& at);
    bool simple(const RegexStep& step, size_t& at) const;

    const std::vector<RegexStep>& steps_;
    const std::vector<CodeSet>& sets_;
    std::string_view text_;
    int64_t budget_;
    std::vector<Choice> choices_;
};

bool Matcher::loop(const RegexStep& step, int32_t pc, size_t& at) {
    size_t low = at, length = 0;
    uint32_t count = 0;
    for (; count < step.max && in_set(step.a, at, length); ++count) {
        at += length;
        if (count < step.min) low = at;
    }
    if (count < step.min) return false;
    budget_ -= count / 8;
    if (step.op == RegexStep::loop && at > low)
        choices_.push_back({pc + 1, previous_utf8(text_, at), low});
    return true;
}

// Steps that only look or take one code point.
bool Matcher::simple(const RegexStep& step, size_t& at) const {
    size_t length = 0;
    switch (step.op) {
        case RegexStep::set:
            if (!in_set(step.a, at, length)) return false;
            at += length;
            return true;
        case RegexStep::look_behind:
            return (at > 0 && in_set(step.a, previous_utf8(text_, at), length)) != step.negate;
        case RegexStep::text_begin:
            return at == 0;
        case RegexStep::text_end:
            return at == text_.size();
        case RegexStep::line_begin:
            return at == 0 || (text_[at - 1] == '\n' && at < text_.size());
        default:
            return at == text_.size() || text_[at] == '\n';  // line_end
    }
}

std::optional<size_t> Matcher::run(int32_t pc, size_t at) {
    const size_t base = choices_.size();
    for (;;) {
        const RegexStep& step = steps_[static_cast<size_t>(pc)];
        if (--budget_ < 0 || choices_.size() > kMaxStack) {
            fail(ExitCode::data, "a pre-tokenizer's pattern backtracks too much on this text");
        }
        bool ok = true;
        switch (step.op) {
            case RegexStep::accept:
                choices_.resize(base);
                return at;
            case RegexStep::split:
                choices_.push_back({step.b, at, at});
                pc = step.a;
                break;
            case RegexStep::jump:
                pc = step.a;
                break;
            case RegexStep::loop:
            case RegexStep::atomic_loop:
                ok = loop(step, pc, at);
                ++pc;
                break;
            case RegexStep::atomic:
            case RegexStep::look_ahead: {
                const std::optional<size_t> end = run(pc + 1, at);
                ok = end.has_value() != step.negate;
                if (ok && step.op == RegexStep::atomic) at = *end;
                pc = step.a;
                break;
            }
            default:
                ok = simple(step, at);
                ++pc;
        }
        if (ok) continue;
        if (choices_.size() == base) return std::nullopt;
        Choice& choice = choices_.back();
        pc = choice.pc;
        at = choice.at;
        if (choice.at > choice.low) {
            choice.at = previous_utf8(text_, choice.at);
        } else {
            choices_.pop_back();
        }
    }
}

}  // namespace

void Regex::find_all(std::string_view text, std::vector<Span>& matches) const {
    Matcher matcher(steps_, sets_, text);
    std::optional<size_t> last_end;
    size_t length = 0;
    for (size_t at = 0; at <= text.size();) {
        std::optional<size_t> end;
        if (!filter_ || (at < text.size() && first_.contains(decode_utf8(text, at, length)))) {
            end = matcher.run(0, at);
        }
        // An empty match right behind the last match does not count.
        if (end && !(*end == at && last_end == at)) {
            matches.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(*end)});
            last_end = *end;
            at = *end;
            continue;
        }
        if (at == text.size()) break;
        decode_utf8(text, at, length);
        at += length;
    }
}

}  // namespace fucina
