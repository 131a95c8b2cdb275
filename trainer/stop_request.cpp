#include "trainer/stop_request.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace fucina {
namespace {

std::atomic<bool> save_asked{false}, stop_asked{false};
std::atomic<int (*)()> failure{nullptr};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int (*)()>::is_always_lock_free,
              "a signal handler may touch nothing else");

void handle(int signal) {
    int (*const job_failed)() = failure;
    const int code = job_failed != nullptr ? job_failed() : 0;
    if (signal == SIGTERM && code != 0) _exit(code);
    if (signal == SIGUSR1) {
        save_asked = true;
    } else {
        stop_asked = true;
    }
}

// What was ignored when we began stays so: SIGHUP under nohup, SIGINT in a script's background.
void install(int signal, int flags) {
    struct sigaction action = {};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) return;
    action = {};
    action.sa_handler = handle;
    action.sa_flags = SA_RESTART | flags;
    sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers(int (*job_failed)()) {
    failure = job_failed;
    ::signal(SIGXFSZ, SIG_IGN);
    for (const int signal : {SIGUSR1, SIGUSR2, SIGPIPE}) install(signal, 0);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        install(signal, static_cast<int>(SA_RESETHAND));
    }
}

StopRequest take_signals() {
    return {save_asked.exchange(false), stop_asked.exchange(false)};
}

}  // namespace fucina
