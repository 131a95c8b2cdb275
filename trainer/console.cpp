#include "trainer/console.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels/error.h"

namespace fucina {
namespace {

// Open MPI gives its ranks a terminal of their own, wherever its own output goes, so under a
// launcher only launch/mpirun.sh knows; it says so in FUCINA_TERMINAL.
bool on_terminal() {
    if (const char* told = std::getenv("FUCINA_TERMINAL")) return std::string_view(told) == "1";
    if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return false;
    return isatty(STDOUT_FILENO) == 1;
}

}  // namespace

Console::Console(bool speaks) : speaks_(speaks), terminal_(on_terminal()) {}

Console::~Console() {
    if (redraws_) std::fputc('\n', stdout);
    if (log_ != nullptr) std::fclose(log_);
}

void Console::open_log(const std::string& path) {
    if (!speaks_) return;
    log_ = std::fopen(path.c_str(), "a");
    keeps_ = false;
    log(unlogged_);
    unlogged_.clear();
    if (log_ == nullptr)
        line(concat("WARNING: ", path, ": cannot open: ", std::strerror(errno),
                    "; nothing is logged"));
}

void Console::line(const std::string& text, const std::string& colours) {
    if (!speaks_) return;
    clear_progress();
    std::fprintf(stdout, "%s\n", (terminal_ ? colours : text).c_str());
    std::fflush(stdout);
    log(text + "\n");
}

void Console::progress(const std::string& text) {
    if (!speaks_) return;
    if (!terminal_) return line(text);
    std::fprintf(stdout, "\r%s\x1b[K", text.c_str());
    std::fflush(stdout);
    redraws_ = true;
    log(text + "\n");
}

void Console::clear_progress() {
    if (!redraws_) return;
    std::fputc('\n', stdout);  // the last one stays readable
    redraws_ = false;
}

void Console::log(const std::string& text) {
    if (keeps_) unlogged_ += text;
    if (log_ == nullptr) return;
    std::fwrite(text.data(), 1, text.size(), log_);
    std::fflush(log_);
}

}  // namespace fucina
