// Paths as a shell would take them, where no shell has seen them: in recipes and in --set.
#pragma once
#include <string>

namespace fucina {

// "~" and "~/..." with the home directory in place of the tilde; other paths as they are.
// Error(usage) for "~name", which is not looked up, and where there is no home directory.
std::string expand_home(const std::string& path);

}  // namespace fucina
