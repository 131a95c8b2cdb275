// "Did you mean": the nearest of some names to a misspelt one.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fucina {

// `; did you mean "x"?` for the nearest candidate within a third of the word's length in edits,
// else an empty string.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace fucina
