#include "mpi_ranks.h"

#include <unistd.h>

#include <cstdlib>

#include "kernels/error.h"

namespace fucina {

int run_under_mpirun(int ranks, const std::string& test, const std::string& environment) {
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) return -1;
    self[length] = 0;
    const std::string command = concat(
        "env -u GTEST_OUTPUT "  // the ranks would write one file at once
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
        "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none "
        "OMP_NUM_THREADS=1 ",
        environment, " timeout 60 mpirun --bind-to none -np ", ranks, " '", self,
        "' --gtest_filter=", test, " --gtest_also_run_disabled_tests > /dev/null 2>&1");
    return std::system(command.c_str());
}

}  // namespace fucina
