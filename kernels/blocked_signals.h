// While this lives, the calling thread takes no signals, nor do threads that it makes: they belong
// to the main thread, whose calls they interrupt.
#pragma once
#include <pthread.h>
#include <signal.h>

namespace fucina {

class BlockedSignals {
  public:
    BlockedSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

  private:
    sigset_t before_;
};

}  // namespace fucina
