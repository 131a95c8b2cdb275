// PCRE2 never sees a character: the sets of a pattern cut all code points into kinds, and the
// search runs over one byte a character, its kind. So what a class holds depends on our tables
// alone (PCRE2's may be of another Unicode version), and every class is a bitmap to it.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <optional>
#include <string>

#include "data/tokenizer/regex_syntax.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Kind = uint8_t;
constexpr Kind kNoCharacter = 0xFF;

// The kind of every code point: two have the same where no set tells them apart.
std::vector<Kind> kinds_of(const std::vector<CodeSet>& sets) {
    std::vector<Kind> kinds(kCodePoints);
    Kind used = 1;
    for (CodeSet set : sets) {
        if (set.contains(kCodePoints - 1)) set.complement();  // the smaller part, mostly
        std::array<Kind, 256> inside{};
        set.for_each([&](uint32_t code) {
            Kind& kind = inside[kinds[code]];
            if (kind == 0) {
                if (used == kNoCharacter)
                    fail(ExitCode::data, "the pattern tells too many kinds of characters apart");
                kind = used++;
            }
            kinds[code] = kind;
        });
    }
    return kinds;
}

// Puts classes of kinds in the place of sets.
std::string in_kinds(const RegexSource& source, const std::vector<Kind>& kinds) {
    std::array<uint32_t, 256> member;  // a code point of each kind
    member.fill(kCodePoints);
    for (uint32_t code = 0; code < kCodePoints; ++code) member[kinds[code]] = code;
    std::string out;
    for (const char c : source.pattern) {
        if (static_cast<uint8_t>(c) < kFirstRegexSet) {
            out += c;
            continue;
        }
        const CodeSet& set = source.sets[static_cast<uint8_t>(c) - kFirstRegexSet];
        std::string one;
        int count = 0;
        for (uint32_t kind = 0; kind < kNoCharacter; ++kind) {
            if (member[kind] == kCodePoints || !set.contains(member[kind])) continue;
            one += fmt::format("\\x{:02X}", kind);
            ++count;
        }
        if (count == 0) one = fmt::format("\\x{:02X}", kNoCharacter);
        out += count > 1 ? '[' + one + ']' : one;
    }
    return out;
}

template <auto free>
struct Free {
    void operator()(auto* p) const { free(p); }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;

Code compile(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE where = 0;
    Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            PCRE2_USE_OFFSET_LIMIT, &error, &where, nullptr));
    if (!code) {
        std::array<PCRE2_UCHAR, 200> message{};
        pcre2_get_error_message(error, message.data(), message.size());
        fail(ExitCode::data, "PCRE2: ", reinterpret_cast<const char*>(message.data()));
    }
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where it may not, PCRE2 interprets
    return code;
}

// What a thread needs to search, whatever the pattern.
struct Scratch {
    std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> found{
        pcre2_match_data_create(1, nullptr)};
    std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context{
        pcre2_match_context_create(nullptr)};
    std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack{
        pcre2_jit_stack_create(size_t{32} << 10, size_t{64} << 20, nullptr)};
    std::vector<Kind> subject;

    Scratch() {
        FUCINA_CHECK(found && context && stack, "PCRE2: no memory");
        pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
        pcre2_set_heap_limit(context.get(), 256U << 10);  // KiB
    }
};

// Searches Scratch::subject. PCRE2 limits the backtracking of one beginning of a match alone, so
// this also limits the CPU time of a text, to some hundred times of what any pattern needs that is
// in use.
class Search {
  public:
    Search(const pcre2_code* code, Scratch& scratch) : code_(code), scratch_(scratch) {
        pcre2_set_match_limit(scratch.context.get(),
                              static_cast<uint32_t>(std::min(size() + 100'000, size_t{1} << 30)));
    }

    // The first match at or behind `at`: true and its ends in begin() and end().
    bool find(size_t at) {
        for (;; at += window_, window_ = std::min(2 * window_, size_t{4096})) {
            pcre2_set_offset_limit(scratch_.context.get(), at + window_ - 1);
            const int result = pcre2_match(code_, scratch_.subject.data(), size(), at, 0,
                                           scratch_.found.get(), scratch_.context.get());
            const bool found = result > 0;
            if (!found && result != PCRE2_ERROR_NOMATCH) refuse();
            const bool done = found || at + window_ > size();
            // A look at the clock takes longer than a word.
            if (found ? ++found_ % 256 == 0 : !done) check_time();
            if (done) return found;
        }
    }
    size_t begin() const { return pcre2_get_ovector_pointer(scratch_.found.get())[0]; }
    size_t end() const { return pcre2_get_ovector_pointer(scratch_.found.get())[1]; }

  private:
    size_t size() const { return scratch_.subject.size(); }
    [[noreturn]] static void refuse() {
        fail(ExitCode::data, "a pre-tokenizer's pattern backtracks too much on this text");
    }
    void check_time() {
        timespec time{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        const double now =
            static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
        if (end_ == 0) end_ = now + 2 + 1e-5 * static_cast<double>(size());
        if (now > end_) refuse();
    }

    const pcre2_code* code_;
    Scratch& scratch_;
    double end_ = 0;  // of the CPU time, in seconds; 0 before the first look at the clock
    size_t window_ = 16, found_ = 0;
};

}  // namespace

struct Regex::Program {
    std::vector<Kind> kinds;
    Code code;
};

Regex::Regex(const RegexSource& source) {
    std::vector<Kind> kinds = kinds_of(source.sets);
    Code code = compile(in_kinds(source, kinds));
    program_ = std::make_shared<Program>(Program{std::move(kinds), std::move(code)});
}

Regex::Regex(std::string_view pattern) : Regex(parse_regex(pattern)) {}

Regex Regex::literal(std::string_view text) {
    std::string pattern;
    for (const char c : text) {
        if (c > 0 && std::ispunct(c)) pattern += '\\';
        pattern += c;
    }
    return Regex(pattern);
}

Regex Regex::of_set(CodeSet set) {
    return Regex(RegexSource{std::string(1, static_cast<char>(kFirstRegexSet)), {std::move(set)}});
}

void Regex::find_all(std::string_view text, std::vector<Span>& matches) const {
    thread_local Scratch scratch;
    scratch.subject.resize(text.size());
    size_t size = 0, length = 0;
    for (size_t at = 0; at < text.size(); at += length)
        scratch.subject[size++] = program_->kinds[decode_utf8(text, at, length)];
    scratch.subject.resize(size);
    Search search(program_->code.get(), scratch);
    size_t character = 0, byte = 0;
    const auto byte_of = [&](size_t of) {  // forwards only
        for (; character < of; ++character, byte += length) decode_utf8(text, byte, length);
        return static_cast<uint32_t>(byte);
    };
    std::optional<size_t> last_end;
    for (size_t at = 0; at <= size && search.find(at);) {
        // An empty match right behind the last match does not count.
        if (search.end() == last_end) {
            ++at;
            continue;
        }
        const uint32_t begin = byte_of(search.begin());
        matches.push_back({begin, byte_of(search.end())});
        last_end = at = search.end();
    }
}

}  // namespace fucina
