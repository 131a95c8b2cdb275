// The process among its ranks: whether MPI runs, who we are, how many threads are ours, and how a
// run ends.
#pragma once
#include <mpi.h>

#include <string>

#include "kernels/error.h"

namespace fucina {

// How a rank's command ended.
struct Outcome {
    ExitCode code = ExitCode::ok;
    std::string message;  // one line, empty when ok
};

class Process {
  public:
    // MPI_Init, but only under a launcher (Open MPI, PMIx, MPICH, Slurm), so that a single process
    // needs no MPI.
    void start(int* argc, char*** argv);

    // Ends the process's part in the job and returns its exit code. Ranks that fail together (every
    // rank arrives here within a few seconds) print one line on one rank, finalize and return the
    // same code; if some rank never arrives, because it waits for us in a collective, the message
    // is printed here and MPI_Abort ends the job.
    int finish(const Outcome& outcome);

    bool with_mpi() const { return with_mpi_; }
    int rank() const { return rank_; }
    int size() const { return size_; }
    int local_size() const { return local_size_; }  // ranks on this machine

    // Threads of this rank: FUCINA_THREADS, else `requested` if > 0, else the cores of the affinity
    // mask and cgroup quota divided by the ranks that share them. Sets OpenMP's number too.
    int use_threads(int requested);

  private:
    bool with_mpi_ = false;
    int rank_ = 0;
    int size_ = 1;
    int local_size_ = 1;
    int sharing_ = 1;                   // ranks here that may run on our cores, this one included
    MPI_Comm endings_ = MPI_COMM_NULL;  // only for finish, so that it meets no other collective
};

// The process's only handle.
Process& process();

}  // namespace fucina
