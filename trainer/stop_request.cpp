#include "trainer/stop_request.h"

#include <signal.h>

#include <atomic>

namespace fucina {
namespace {

std::atomic<bool> save_asked{false}, stop_asked{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch nothing else");

void handle(int signal) {
    if (signal == SIGUSR1) {
        save_asked = true;
    } else {
        stop_asked = true;
    }
}

void install(int signal, int flags) {
    struct sigaction action = {};
    action.sa_handler = handle;
    action.sa_flags = SA_RESTART | flags;
    sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers(bool interactive) {
    ::signal(SIGXFSZ, SIG_IGN);
    install(SIGUSR1, 0);
    install(SIGUSR2, 0);
    if (interactive) {
        install(SIGINT, static_cast<int>(SA_RESETHAND));
        install(SIGTERM, static_cast<int>(SA_RESETHAND));
    }
}

StopRequest take_signals() {
    return {save_asked.exchange(false), stop_asked.exchange(false)};
}

}  // namespace fucina
