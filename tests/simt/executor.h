// The state of a running grid, shared by the executor's source files. Clusters (mostly of one
// block) run one after the other, the blocks of one together; the threads of a block are fibers
// that run until they wait, so a kernel's code between two waits is never interleaved. A thread
// that breaks a rule is abandoned, and the launch throws.
#pragma once
#include <array>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/error.h"
#include "tests/simt/async_state.h"
#include "tests/simt/context.h"

namespace fucina::simt {

constexpr uint32_t kArenaBase = 1024;                // the hardware reserves the first 1,024 bytes
constexpr uint32_t kArenaEnd = kArenaBase + 232448;  // 227 KB a block on sm_90
constexpr uint32_t kStaticLimit = 48 << 10;
// Red zones are not memory that the kernel asked for: they may lie beyond the hardware's end.
constexpr uint32_t kArenaBytes = kArenaEnd + (16 << 10);
constexpr uint32_t kRedZone = 64;
// Whether the kernels report every access (hooks.cpp) and it is checked; FUCINA_SIMT_RACES=0 in the
// environment goes without, in half the time.
#if defined(FUCINA_SIMT_RACE)
inline const bool kRaceCheck = [] {
    const char* const asked = std::getenv("FUCINA_SIMT_RACES");
    return asked == nullptr || std::string(asked) != "0";
}();
#else
constexpr bool kRaceCheck = false;
#endif

struct Block;

struct Thread : Place {
    Block* owner = nullptr;
    Context context;
    bool done = false;
    enum class Wait { none, barrier, warp, mbarrier, wgmma, cluster } wait = Wait::none;
    WarpOperation operation;  // of the warp operation that it has reached
    uint32_t waits_for = 0;   // the barrier's id, or the mbarrier's address
    uint32_t parity = 0;
    Site site;
    uint64_t result = 0;
    ThreadQueues queues;
};

struct SharedVariable {
    const void* declaration = nullptr;
    std::string name;
    uint32_t begin = 0, end = 0;
};

struct Barrier {
    int arrived = 0, wanted = 0, value = 0, result = 0;
    BarrierKind kind = BarrierKind::sync;
    Site site;
    int first = 0;  // the thread that came first
    std::vector<Thread*> waiting;
    Clock clock;
};

struct Meeting {  // of the lanes that one warp operation names
    uint32_t mask = 0, arrived = 0;
    WarpKind kind = WarpKind::sync;
    Site site;
};

struct Block {
    LaunchShape shape;
    uint3 at{};
    int rank = 0;  // in its cluster
    std::unique_ptr<char, void (*)(void*)> arena{nullptr, std::free};
    std::vector<Thread> threads;
    int live = 0;
    std::array<Barrier, 16> barriers;        // 0 is __syncthreads
    std::map<uint32_t, MBarrier> mbarriers;  // by address
    std::vector<Warpgroup> warpgroups;
    std::vector<std::vector<Meeting>> meetings;  // [warps] those under way
    std::vector<SharedVariable> variables;
    std::vector<int16_t> owner;  // [arena bytes] index of the variable, -1 for none
    uint32_t used = kArenaBase, static_bytes = 0;
    int dynamic = -1;  // index of the dynamic variable
    // The latest that each actor of another block did to this one's memory: (actor, time).
    std::map<int, uint32_t> from_outside;
};

// What happens later, on no thread.
struct Deferred {
    Block* block = nullptr;
    std::function<void()> run;
};

struct Executor {
    std::vector<std::unique_ptr<Block>> blocks;  // of the running cluster
    Block* block = nullptr;                      // whose code runs, or whose memory is meant
    Barrier cluster_barrier;
    RaceDetector races;  // threads and addresses of block after block
    std::deque<Thread*> ready;
    std::deque<Deferred> deferred;
    Context scheduler;
    std::mt19937 random;
    const std::function<void()>* kernel = nullptr;
    std::string error;  // the first one
};
inline thread_local Executor* executor = nullptr;  // of the running grid

// Makes another block of the cluster the one whose memory is meant.
class BlockScope {
  public:
    explicit BlockScope(Block& block) : before_(executor->block) { executor->block = &block; }
    ~BlockScope() { executor->block = before_; }
    BlockScope(const BlockScope&) = delete;
    BlockScope& operator=(const BlockScope&) = delete;

  private:
    Block* before_;
};
Block& cluster_block(int rank, Site site);  // abandons if there is none, or it has ended

// For code that runs on a fiber, or deferred. abandon() records the launch's error and throws
// Abandoned, which ends the thread.
struct Abandoned {};
[[noreturn]] void leave_for_good();
Thread& this_thread();
void wait_until_woken(Thread::Wait reason);
void wake(Thread& thread);
[[noreturn]] void abandon_thread(const std::string& message);
template <class... Parts>
[[noreturn]] void abandon(const Parts&... parts) {
    abandon_thread(concat(parts...));
}

// In the race build: what the thread has done becomes known through a clock, and to it.
void release(const Thread& thread, Clock& into);
void acquire(const Thread& thread, const Clock& from);
int actor(const Thread& thread);     // the race detector's number of it
std::string name_of_actor(int who);  // "thread 3", or of which block too in a cluster
void open_cluster_barrier_if_complete();
void check_registers(const Block& block);     // throws Error
void check_from_outside(const Block& block);  // throws Error: the block may end before others know

// Asynchronous work: runs when options.lateness says so, at the latest when no thread can go on.
void defer(std::function<void()> run);
void deliver(uint32_t barrier, uint32_t bytes, const Operation& from);
void mbarrier_for_copy(uint32_t barrier, Site site);
void check_finished(const Thread& thread);  // abandons a thread that ends with work under way

// Shared memory (shared_memory.cpp).
void reset_shared_memory(Block& block);
void check_red_zones(const Block& block);  // throws Error
char* shared_pointer(uint32_t address);
std::string name_shared(const Block& block, uint32_t address);  // "byte 8 of shared tiles"
// An access by the thread, or by the operation if there is one; abandons on an error.
void check_access(uint32_t address, size_t bytes, bool write, const Operation* by = nullptr);

// For messages.
std::string describe(Site site);  // "norm.cu:31"
std::string describe_mbarrier_wait(const Block& block, const Thread& thread);
std::string describe_wait(const Block& block, const Thread& thread);
std::string list_threads(const std::vector<int>& ids);  // "threads 0-31,40"

}  // namespace fucina::simt
