// MpiCommunicator: the ranks that mpirun started. MPI itself stays inside the .cpp; launch
// initialises and finalises it.
#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace fucina {

// A duplicate of MPI_COMM_WORLD; MPI must be initialised, and outlive it. Messages above
// largest_message bytes travel in pieces (MPI counts are ints; tests lower it).
std::unique_ptr<Communicator> make_mpi_communicator(int64_t largest_message = int64_t{1} << 30);

}  // namespace fucina
