// The commands of the program. Each launch/commands/<name>.cpp defines add_<name>_command, which
// adds one subcommand with its options and a callback. Callbacks throw Error; run_program turns
// that into one line and an exit code.
#pragma once

namespace CLI {
class App;
}

namespace fucina {

// In the order of --help, here and in main.cpp.
void add_train_command(CLI::App& app);
void add_resume_command(CLI::App& app);
void add_checkpoint_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_tokenizer_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_recipe_table_command(CLI::App& app);

}  // namespace fucina
