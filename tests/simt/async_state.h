// What the executor remembers of Hopper's asynchronous instructions: mbarriers, copies under way,
// wgmma under way.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tests/simt/race_detector.h"
#include "tests/simt/simt.h"

namespace fucina::simt {

struct Thread;

// In a side table; its 8 bytes of shared memory hold a mark that shows overwriting.
struct MBarrier {
    uint32_t count = 0, pending = 0;  // arrivals that a phase wants, and still misses
    int64_t bytes = 0;                // still to come in this phase
    uint64_t phase = 0;
    int initialiser = 0;  // the thread, and its time
    uint32_t initialised = 0;
    bool fenced = false;  // fence_mbarrier_init has followed
    std::vector<Thread*> waiting;
    Clock open, closed;  // of this phase's arrivals, of all phases' before
};

// A run of bytes that moves between shared and global memory; zeros come from nowhere.
struct Piece {
    uint32_t shared = 0, bytes = 0;
    char* global = nullptr;
};
using Pieces = std::vector<Piece>;

struct BulkStore {
    Pieces pieces;
    Operation operation;
    std::vector<char> content;  // once read
    bool read = false, written = false;
};
using StoreGroup = std::vector<std::shared_ptr<BulkStore>>;

// The 64 x n accumulators of a warpgroup, which successive instructions share.
struct Accumulator {
    std::vector<float> values;
    float* registers[128] = {};
};

struct Wgmma {
    WgmmaShape shape;
    std::shared_ptr<Accumulator> accumulator;
    int issued = 0, retired = 0;  // threads
    Clock before[4];              // what each warp knows
    Operation operation;
    bool done = false;
};

struct Warpgroup {
    std::deque<Wgmma> under_way;
    uint64_t first = 0;  // number of under_way's first
    std::vector<Thread*> waiting;
    int registers = 0;  // of each thread, once setmaxnreg has said
};

// A thread's own queues.
struct ThreadQueues {
    std::deque<Pieces> copies;  // cp.async: groups
    Pieces open_copies;
    std::deque<StoreGroup> stores;
    StoreGroup open_stores;
    uint64_t wgmmas = 0, wgmmas_done = 0;  // issued so far, and waited for
    std::deque<uint64_t> commits;          // wgmmas issued when each pending group was committed
    bool wgmma_fenced = false;
};

}  // namespace fucina::simt
