#include "data/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "data/file_descriptor.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// So that a file that was made to crash the child leaves nothing else behind.
void limit(const ChildLimits& limits) {
    for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) signal(number, SIG_DFL);
    const auto set = [](auto which, uint64_t most) {
        const rlimit both{most, most};
        setrlimit(which, &both);
    };
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    set(RLIMIT_AS, static_cast<uint64_t>(pages * sysconf(_SC_PAGESIZE) + limits.bytes));
    set(RLIMIT_CPU, static_cast<uint64_t>(limits.seconds));
    set(RLIMIT_CORE, 0);
}

// The exit code of an Error, or 0 and the result.
[[noreturn]] void answer(int to, const std::function<std::string()>& body) {
    std::string text(1, '\0');
    try {
        text += body();
    } catch (...) {
        const Error error = current_error();
        text = static_cast<char>(error.code()) + std::string(error.what());
    }
    for (size_t done = 0; done < text.size();) {
        const ssize_t count = ::write(to, text.data() + done, text.size() - done);
        if (count <= 0) _exit(1);
        done += static_cast<size_t>(count);
    }
    _exit(0);
}

// Until the child ends or the time is over, when it is killed.
std::string read_answer(int from, pid_t child, int milliseconds) {
    std::string text;
    char piece[4096];
    for (;;) {
        pollfd ready{from, POLLIN, 0};
        const int count = poll(&ready, 1, milliseconds);
        if (count < 0 && errno == EINTR) continue;
        const ssize_t got = count > 0 ? ::read(from, piece, sizeof piece) : 0;
        if (count == 0) kill(child, SIGKILL);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return text;
        text.append(piece, static_cast<size_t>(got));
    }
}

}  // namespace

std::string in_child(const std::string& name, const std::function<std::string()>& body,
                     const ChildLimits& limits) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail(ExitCode::storage, name, ": ", std::strerror(errno));
    const FileDescriptor from(ends[0]);
    FileDescriptor to(ends[1]);
    const pid_t child = fork();
    if (child < 0)
        fail(ExitCode::storage, name, ": no process to read it in: ", std::strerror(errno));
    if (child == 0) {
        limit(limits);
        answer(to.get(), body);
    }
    to.close();
    const std::string text = read_answer(from.get(), child, 3000 * limits.seconds);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status))
        fail(ExitCode::data, name, ": reading it ended with signal ", WTERMSIG(status), " (",
             strsignal(WTERMSIG(status)), "): the file is damaged or made to do harm");
    if (status != 0 || text.empty())
        fail(ExitCode::data, name, ": reading it failed: the file is damaged or made to do harm");
    if (text[0] != '\0') fail(static_cast<ExitCode>(text[0]), text.substr(1));
    return text.substr(1);
}

}  // namespace fucina
