// From the command line to an exit code: the one place where errors are caught.
#pragma once
#include <functional>

#include "launch/command_line.h"

namespace fucina {

// Starts MPI where a launcher asks for it, parses the arguments, runs the chosen command's body and
// returns the exit code. A failure prints exactly one line, `error: ...`, to standard error, on one
// rank.
int run_program(int argc, char** argv, const std::function<void(Command)>& add_commands);

}  // namespace fucina
