#include "parallel/mpi_check.h"

#include "kernels/error.h"

namespace fucina {

std::string mpi_text(int status) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(status, text, &length) != MPI_SUCCESS) return concat("error ", status);
    return std::string(text, static_cast<size_t>(length));
}

void check_mpi(int status, const char* call) {
    if (status != MPI_SUCCESS) fail(ExitCode::internal, call, ": ", mpi_text(status));
}

}  // namespace fucina
