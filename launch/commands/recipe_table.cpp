// `fucina recipe-table`: the tables of docs/formats.md, made from the schema. Not in --help.
#include <CLI/CLI.hpp>
#include <iostream>

#include "launch/commands.h"
#include "launch/recipe.h"

namespace fucina {

void add_recipe_table_command(CLI::App& app) {
    CLI::App* command = app.add_subcommand("recipe-table", "Print the recipe's keys as Markdown");
    command->group("");
    command->callback([] { std::cout << recipe_table(); });
}

}  // namespace fucina
