// Tests that run as MPI ranks: a test starts its own program under mpirun for one disabled test.
#pragma once
#include <string>

namespace fucina {

// What std::system returns for `ranks` processes that run the one disabled test named, with
// "NAME=VALUE" in their environment.
int run_under_mpirun(int ranks, const std::string& test, const std::string& environment = "");

}  // namespace fucina
