// The process among its ranks: whether MPI runs, who we are, how many threads are ours, and how a
// run ends.
#pragma once
#include <mpi.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>

#include "kernels/error.h"
#include "parallel/heartbeat.h"
#include "parallel/ledger_communicator.h"
#include "parallel/watchdog.h"

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

    // Collective. All ranks of the job, or this process alone; not to be used after `finish`.
    std::unique_ptr<LedgerCommunicator> make_communicator();

    // How long the ranks may make no progress before the job ends with exit code 12
    // (parallel/watchdog.h), 0: for ever; 60 s until somebody says otherwise. A process alone waits
    // for nobody and is not watched.
    void set_watchdog(double seconds);

    // Collective; fails (exit 2) unless all ranks run the same command of the same program.
    void require_same_command(const std::string& version, const std::string& command);

    // Ends the process's part in the job and returns its exit code. Ranks that fail together (every
    // rank arrives here within half a second) print one line on one rank, finalize and return the
    // same code; if some rank does not arrive, because it waits for us in a collective or computes,
    // the message is printed here and MPI_Abort ends the job.
    int finish(const Outcome& outcome);

    // The code with which a rank of this machine ends the job, 0 before. A signal handler may call
    // it, during and after `finish` too.
    int job_failed() const { return *failed_.load(); }

    bool with_mpi() const { return with_mpi_; }
    int rank() const { return rank_; }
    int size() const { return size_; }
    int local_size() const { return local_size_; }  // ranks on this machine

    // Threads of this rank: FUCINA_THREADS, else `requested` if > 0, else the cores of the affinity
    // mask and cgroup quota divided by the ranks that share them. Sets OpenMP's number too.
    int use_threads(int requested);

  private:
    void share_memory(MPI_Comm machine);
    void leave_shared_memory();
    void start_watchdog();
    void end_hung(const std::string& text);

    bool with_mpi_ = false;
    int rank_ = 0;
    int size_ = 1;
    int local_size_ = 1;
    int sharing_ = 1;                   // ranks here that may run on our cores, this one included
    MPI_Comm endings_ = MPI_COMM_NULL;  // only for finish, so that it meets no other collective
    MPI_Win window_ = MPI_WIN_NULL;     // of the shared memory
    std::atomic<int> own_failed_{0};
    std::atomic<std::atomic<int>*> failed_ = &own_failed_;  // shared by the ranks of a machine
    Heartbeat own_heartbeat_;
    std::span<Heartbeat> heartbeats_{&own_heartbeat_, 1};  // shared likewise
    Heartbeat* heartbeat_ = &own_heartbeat_;               // ours among them
    std::unique_ptr<Watchdog> watchdog_;
};

// The process's only handle.
Process& process();

}  // namespace fucina
