// Errors: one exception type that carries the process exit code, and the check that throws it.
// A message is one line: where (file:line:col, or the tensor's name), what was found and what was
// expected, what to do.
#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace fucina {

// Exit codes of the program (docs/design.md, "Exit codes").
enum class ExitCode : int {
    ok = 0,
    internal = 1,           // a defect in Fucina
    usage = 2,              // command line, recipe, config.json, illegal layout or MPI size
    data = 3,               // missing or corrupt data, weights or tokenizer
    no_checkpoint = 10,     // no valid checkpoint to resume from
    storage = 11,           // disk full, write failed
    timeout = 12,           // a collective did not finish
    non_finite = 13,        // loss or gradients stayed NaN or infinite
    replica_mismatch = 14,  // data-parallel replicas differ
    stopped = 15,           // stopped on request, after a save
};

// `text`, which may quote what a user or a library wrote, as one line of at most `most` bytes:
// control bytes are spaces, none stands at the end, and what is too long loses its middle.
std::string one_line(std::string text, size_t most = 1000);

// `text`, or where it is longer than `longest` its first and last `kept` bytes or a little less, as
// no character of UTF-8 is cut, around " [...] ".
std::string without_middle(std::string text, size_t longest, size_t kept);

class Error : public std::runtime_error {
  public:
    Error(ExitCode code, std::string message)
        : std::runtime_error(one_line(std::move(message))), code_(code) {}
    ExitCode code() const { return code_; }

  private:
    ExitCode code_;
};

// For catch (...): what is being handled, as an Error. Failures of std::filesystem are storage, a
// want of memory and whatever else are internal.
Error current_error();

// All arguments written one after the other, as operator<< writes them.
template <class... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

template <class... Parts>
[[noreturn]] void fail(ExitCode code, const Parts&... parts) {
    throw Error(code, concat(parts...));
}

}  // namespace fucina

// For conditions that only a defect can break; a user's mistake is reported with
// fail(ExitCode::usage or data, ...).
#define FUCINA_CHECK(condition, ...)                                                           \
    do {                                                                                       \
        if (!(condition))                                                                      \
            ::fucina::fail(::fucina::ExitCode::internal, __FILE__, ":", __LINE__, ": check `", \
                           #condition, "` failed: ", __VA_ARGS__);                             \
    } while (false)
