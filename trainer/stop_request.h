// Requests that reach a run from outside: signals, and files SAVE and STOP in the run directory.
#pragma once

namespace fucina {

struct StopRequest {
    bool save = false;  // at the end of this step, and go on
    bool stop = false;  // save and end with exit code 15
};

// SIGUSR1 asks to save. SIGUSR2, SIGINT, SIGTERM, SIGHUP (a terminal that closes) and SIGPIPE
// (nobody reads our output any more) ask to save and stop; a second SIGINT, SIGTERM or SIGHUP ends
// the process at once. One rank's signal counts for all. SIGXFSZ is ignored: a file that may not
// grow is a failed write, not a death. job_failed: null, or what tells another rank's exit code
// once the job has failed, and 0 before; then nothing can be saved, and SIGTERM ends the process
// with that code. It is called in a signal handler.
void install_signal_handlers(int (*job_failed)() = nullptr);

// What signals have asked for since the last call.
StopRequest take_signals();

}  // namespace fucina
