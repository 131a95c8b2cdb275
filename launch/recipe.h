// Recipes: TOML, mapped by reflection onto configs/recipe.proto. Mistakes throw Error(usage) with
// one line that says where (file:line:col, or the --set option), what was found and what is legal.
#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/recipe.pb.h"

namespace fucina {

// A recipe with every default filled in, and where each value came from.
struct ResolvedRecipe {
    Recipe recipe;
    // By dotted path ("train.steps"; a list counts as one value): "default", "file", "--set", or
    // the rule that a default follows ("as model.from is set").
    std::map<std::string, std::string> origins;
};

// Reads a recipe file; overrides are `path=value` as given to --set, the value in TOML, where a
// string may go without quotes. Later ones win.
ResolvedRecipe load_recipe(const std::string& path, const std::vector<std::string>& overrides);

// The same from a text; `name` is what messages call it.
ResolvedRecipe parse_recipe(std::string_view text, const std::string& name,
                            const std::vector<std::string>& overrides);

// The recipe as TOML that parse_recipe reads back to an equal recipe, floats bit for bit.
std::string recipe_toml(const Recipe& recipe);

// One line a value, for the screen: path, value, origin.
std::string recipe_listing(const ResolvedRecipe& resolved);

// Every value that is set, as (path, TOML).
std::vector<std::pair<std::string, std::string>> recipe_values(const Recipe& recipe);

// The model section under config.json's names (a q_lora_rank of 0 becomes null), for ModelSpec.
// Needs a recipe without model.from.
nlohmann::json model_json(const Recipe& recipe);

// The Markdown tables of all keys, as they stand in docs/formats.md.
std::string recipe_table();

}  // namespace fucina
