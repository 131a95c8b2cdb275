// The commands of the program. Each launch/commands/<name>.cpp defines add_<name>_command, which adds one subcommand
// with its options and a callback. Callbacks throw Error; run_program turns that into one line and an exit code.
#pragma once

namespace CLI {
class App;
}

namespace fucina {

// Keep both this list and the one in main.cpp in the order of --help.

}  // namespace fucina
