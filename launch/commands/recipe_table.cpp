// `fucina recipe-table`: the tables of docs/formats.md, made from the schema. Not in --help.
#include <iostream>

#include "launch/commands.h"
#include "launch/recipe.h"

namespace fucina {

void add_recipe_table_command(Command app) {
    Command command = app.subcommand("recipe-table", "Print the recipe's keys as Markdown");
    command.hidden();
    command.run([] { std::cout << recipe_table(); });
}

}  // namespace fucina
