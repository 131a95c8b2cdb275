// `fucina report RUN_DIR`: writes RUN_DIR/report.html.
#include "trainer/report.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "launch/commands.h"
#include "launch/process.h"

namespace fucina {

void add_report_command(CLI::App& app) {
    CLI::App* command = app.add_subcommand("report", "Write a run's report.html");
    const auto run_dir = std::make_shared<std::string>();
    command->add_option("RUN_DIR", *run_dir, "the run directory")->required();
    command->callback([run_dir] {
        if (process().rank() != 0) return;
        std::cout << write_report(*run_dir) << "\n";
    });
}

}  // namespace fucina
