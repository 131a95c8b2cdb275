// What MPI says through its return codes, as Error. They come back only from communicators whose
// handler is MPI_ERRORS_RETURN; copies of a communicator inherit it.
#pragma once
#include <mpi.h>

#include <string>

namespace fucina {

// MPI's words for a code.
std::string mpi_text(int status);

// Throws Error(internal) with the call's name and MPI's text unless status is MPI_SUCCESS.
void check_mpi(int status, const char* call);

}  // namespace fucina
