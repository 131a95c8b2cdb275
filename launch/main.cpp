// The program: its list of commands. Parsing, MPI and errors are in launch/program.cpp.
#include "launch/commands.h"
#include "launch/program.h"

int main(int argc, char** argv) {
    return fucina::run_program(argc, argv, [](fucina::Command app) {
        using namespace fucina;
        add_train_command(app);
        add_resume_command(app);
        add_checkpoint_command(app);
        add_import_command(app);
        add_export_command(app);
        add_eval_command(app);
        add_generate_command(app);
        add_data_command(app);
        add_tokenizer_command(app);
        add_report_command(app);
        add_doctor_command(app);
        add_recipe_table_command(app);
    });
}
