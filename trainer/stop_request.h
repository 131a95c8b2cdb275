// Requests that reach a run from outside: signals, and files SAVE and STOP in the run directory.
#pragma once

namespace fucina {

struct StopRequest {
    bool save = false;  // at the end of this step, and go on
    bool stop = false;  // save and end with exit code 15
};

// SIGUSR1 asks to save; SIGUSR2 to save and stop. With `interactive` (one process) SIGINT and
// SIGTERM do so too, and a second one ends the process at once. SIGXFSZ is ignored: a file that may
// not grow is a failed write, not a death.
void install_signal_handlers(bool interactive);

// What signals have asked for since the last call.
StopRequest take_signals();

}  // namespace fucina
