// The commands of the program. Each launch/commands/<name>.cpp defines add_<name>_command, which
// adds one subcommand with its options and its body. Bodies throw Error; run_program turns that
// into one line and an exit code.
#pragma once

#include "launch/command_line.h"

namespace fucina {

// In the order of --help, here and in main.cpp.
void add_train_command(Command app);
void add_resume_command(Command app);
void add_checkpoint_command(Command app);
void add_import_command(Command app);
void add_export_command(Command app);
void add_eval_command(Command app);
void add_generate_command(Command app);
void add_data_command(Command app);
void add_preview_command(Command data);  // of the command data
void add_tokenizer_command(Command app);
void add_report_command(Command app);
void add_doctor_command(Command app);
void add_recipe_table_command(Command app);

}  // namespace fucina
