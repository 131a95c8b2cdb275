#include "launch/process.h"

#include <mpi.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string_view>
#include <thread>
#include <vector>

#include "data/file.h"
#include "launch/machine.h"
#include "parallel/agreement.h"
#include "parallel/mpi_communicator.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

// How long a failed rank waits for the others to fail too before it ends the job for all.
constexpr double kAgreementSeconds = 0.4;
// How long ranks may make no progress as long as no recipe says how long.
constexpr double kWatchdogSeconds = 60;
// At its start the memory that the ranks of a machine share holds the word of failure; their
// heartbeats follow.
constexpr MPI_Aint kHeartbeatsAt = 64;  // bytes

bool is_set(const char* name) {
    return std::getenv(name) != nullptr;
}

// A batch script under Slurm has SLURM_PROCID too, so the step must have several tasks.
bool under_launcher() {
    if (is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || is_set("PMI_RANK")) return true;
    const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
    return is_set("SLURM_PROCID") && tasks != nullptr && std::atoi(tasks) > 1;
}

void print_error(std::string_view prefix, const std::string& message) {
    std::fflush(stdout);
    std::fprintf(stderr, "error: %.*s%s\n", static_cast<int>(prefix.size()), prefix.data(),
                 message.c_str());
    std::fflush(stderr);
}

// Ranks of this machine that may run on one of `mine`, ourselves included.
int ranks_sharing(const std::vector<int>& mine, MPI_Comm machine, int ranks) {
    int widest = mine.empty() ? 0 : mine.back() + 1;
    MPI_Allreduce(MPI_IN_PLACE, &widest, 1, MPI_INT, MPI_MAX, machine);
    std::vector<unsigned char> mask(static_cast<size_t>(widest), 0);
    for (int cpu : mine) mask[static_cast<size_t>(cpu)] = 1;
    std::vector<unsigned char> all(mask.size() * static_cast<size_t>(ranks));
    MPI_Allgather(mask.data(), widest, MPI_UNSIGNED_CHAR, all.data(), widest, MPI_UNSIGNED_CHAR,
                  machine);
    int sharing = 0;
    for (int rank = 0; rank < ranks; ++rank) {
        const unsigned char* theirs = all.data() + static_cast<size_t>(rank) * mask.size();
        sharing += std::any_of(mine.begin(), mine.end(), [&](int cpu) { return theirs[cpu] != 0; });
    }
    return sharing;
}

// Waits for `request`; false if `seconds` pass first (0: no limit).
bool wait_for(MPI_Request* request, double seconds) {
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
        int done = 0;
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done != 0) return true;
        const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
        if (seconds > 0 && waited.count() > seconds) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace

Process& process() {
    static Process handle;
    return handle;
}

void Process::start(int* argc, char*** argv) {
    // A write beyond a limit on file sizes is an error like a full disk, not the end of us.
    std::signal(SIGXFSZ, SIG_IGN);
    if (!under_launcher()) return;
    int provided = 0;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
        print_error("", "MPI did not start");
        std::exit(static_cast<int>(ExitCode::usage));
    }
    with_mpi_ = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm machine = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &local_size_);
    sharing_ = std::max(1, ranks_sharing(affinity_cpus(), machine, local_size_));
    share_memory(machine);
    start_watchdog();
    MPI_Comm_free(&machine);
    MPI_Comm_dup(MPI_COMM_WORLD, &endings_);
}

// Where MPI has no memory for the ranks of this machine, each has its own.
void Process::share_memory(MPI_Comm machine) {
    int machine_rank = 0, unit = 0;
    MPI_Comm_rank(machine, &machine_rank);
    const auto ranks = static_cast<size_t>(local_size_);
    const auto all = kHeartbeatsAt + static_cast<MPI_Aint>(ranks * sizeof(Heartbeat));
    MPI_Aint bytes = machine_rank == 0 ? all : 0;
    void* base = nullptr;
    MPI_Comm_set_errhandler(machine, MPI_ERRORS_RETURN);
    if (MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, machine, &base, &window_) != MPI_SUCCESS) {
        window_ = MPI_WIN_NULL;
        return;
    }
    MPI_Win_shared_query(window_, 0, &bytes, &unit, &base);
    auto* beats = reinterpret_cast<Heartbeat*>(static_cast<std::byte*>(base) + kHeartbeatsAt);
    if (machine_rank == 0) {
        new (base) std::atomic<int>(0);
        for (size_t r = 0; r < ranks; ++r) new (beats + r) Heartbeat;
    }
    failed_ = static_cast<std::atomic<int>*>(base);
    MPI_Barrier(machine);
    heartbeats_ = {beats, ranks};
    heartbeat_ = beats + machine_rank;
}

// From here on all of it is ours alone: a rank that is ahead of us may have ended, and mpirun's
// SIGTERM for the others finds a word to read also when the shared memory is gone.
void Process::leave_shared_memory() {
    if (window_ == MPI_WIN_NULL) return;
    own_failed_ = job_failed();
    failed_ = &own_failed_;
    heartbeats_ = {&own_heartbeat_, 1};
    heartbeat_ = &own_heartbeat_;
    MPI_Win_free(&window_);
}

void Process::start_watchdog() {
    heartbeat_->process = static_cast<int>(getpid());
    heartbeat_->beat_at = monotonic_ns();
    heartbeat_->rank = rank_;
    if (size_ == 1) return;
    watchdog_ = std::make_unique<Watchdog>(
        Watchdog::Options{.records = heartbeats_,
                          .own = *heartbeat_,
                          .ranks = size_,
                          .seconds = kWatchdogSeconds,
                          .hung = [this](const std::string& text) { end_hung(text); }});
}

void Process::set_watchdog(double seconds) {
    if (watchdog_) watchdog_->set_seconds(seconds);
}

// On the watchdog's thread, where neither MPI nor a lock of stdio may be touched. A launcher ends
// the job when one of its processes exits like this. The others leave the speaker time to speak.
void Process::end_hung(const std::string& text) {
    int none = 0;
    if (failed_.load()->compare_exchange_strong(none, static_cast<int>(ExitCode::timeout))) {
        const std::string all = "error: " + text + "\n";
        (void)!write(STDERR_FILENO, all.data(), all.size());
    } else {
        std::this_thread::sleep_for(std::chrono::seconds(2));
    }
    _exit(static_cast<int>(ExitCode::timeout));
}

std::unique_ptr<LedgerCommunicator> Process::make_communicator() {
    return std::make_unique<LedgerCommunicator>(
        with_mpi_ ? make_mpi_communicator() : make_self_communicator(), heartbeat_);
}

void Process::require_same_command(const std::string& version, const std::string& command) {
    if (size_ == 1) return;
    const InputFile program("/proc/self/exe");
    std::string bytes(static_cast<size_t>(program.size()), '\0');
    program.read(0, std::as_writable_bytes(std::span(bytes)));
    const auto communicator = make_communicator();
    require_same(*communicator,
                 {{"the command", command},
                  {"the program", concat(version, " with hash ", content_hash(bytes))}},
                 ExitCode::usage, "start the same on every rank");
}

int Process::finish(const Outcome& outcome) {
    std::fflush(stdout);
    const int code = static_cast<int>(outcome.code);
    if (!with_mpi_) {
        if (code != 0) print_error("", outcome.message);
        return code;
    }
    heartbeat_->phase = Phase::finish;
    heartbeat_->call = Call::finish;
    heartbeat_->bytes = 0;
    heartbeat_->inside = true;
    heartbeat_->beat_at = monotonic_ns();
    // A rank that ended well has nothing to hurry for; one that failed must not wait for ever.
    const bool failed = code != 0;
    std::vector<int> codes(static_cast<size_t>(size_), 0);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallgather(&code, 1, MPI_INT, codes.data(), 1, MPI_INT, endings_, &request);
    const auto speak = [&](bool with_rank) {
        int none = 0;
        if (!failed_.load()->compare_exchange_strong(none, code)) return;
        print_error(with_rank ? concat("rank ", rank_, ": ") : "", outcome.message);
    };
    if (!wait_for(&request, failed ? kAgreementSeconds : 0)) {
        speak(true);
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    const auto first = std::find_if(codes.begin(), codes.end(), [](int c) { return c != 0; });
    const int speaker = static_cast<int>(first - codes.begin());
    if (failed && rank_ == speaker) speak(speaker > 0);
    watchdog_.reset();
    leave_shared_memory();
    MPI_Finalize();
    return first == codes.end() ? 0 : *first;
}

int Process::use_threads(int requested) {
    const std::vector<int> cpus = affinity_cpus();
    int threads = static_cast<int>(cpus.size()) / sharing_;
    const double quota = cgroup_cpu_quota();
    if (quota > 0) threads = std::min(threads, static_cast<int>(std::lround(quota / local_size_)));
    if (requested > 0) threads = requested;
    if (const char* text = std::getenv("FUCINA_THREADS"); text != nullptr && *text != '\0') {
        char* end = nullptr;
        const long value = std::strtol(text, &end, 10);
        if (*end != '\0' || value < 1 || value > 4096) {
            fail(ExitCode::usage, "FUCINA_THREADS=\"", text,
                 "\": expected a number from 1 to 4096");
        }
        threads = static_cast<int>(value);
    }
    threads = std::max(1, threads);
    omp_set_num_threads(threads);
    return threads;
}

}  // namespace fucina
