// A recipe in TOML.
#include <google/protobuf/util/message_differencer.h>

#include "launch/recipe.h"
#include "tests/fuzz/fuzz.h"

FUZZ(input) {
    using namespace fucina;
    Recipe recipe;
    if (!fuzz::accepts([&] { recipe = parse_recipe(input, "recipe.toml", {}).recipe; })) return;
    const std::string toml = recipe_toml(recipe);
    const Recipe again = parse_recipe(toml, "again", {}).recipe;
    HOLDS(again.SerializeAsString() == recipe.SerializeAsString());
    HOLDS(recipe_toml(again) == toml);
}
