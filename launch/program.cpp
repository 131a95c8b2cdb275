#include "launch/program.h"

#include <string>

#include "kernels/error.h"
#include "launch/process.h"

namespace fucina {
namespace {

constexpr const char* kVersion = "fucina 0.1.0";

Outcome parse_and_run(CommandLine& line, int argc, char** argv) {
    try {
        process().require_same_command(kVersion, argc > 1 ? argv[1] : "");
        line.parse(argc, argv, process().rank() == 0);
        return {};
    } catch (...) {
        const Error error = current_error();
        return {error.code(), error.what()};
    }
}

}  // namespace

int run_program(int argc, char** argv, const std::function<void(Command)>& add_commands) {
    Process& self = process();
    self.start(&argc, &argv);
    CommandLine line("fucina",
                     "Fucina trains mixture-of-experts language models on CPUs and clusters.",
                     kVersion);
    add_commands(line.root());
    return self.finish(parse_and_run(line, argc, argv));
}

}  // namespace fucina
