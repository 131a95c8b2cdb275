// Clusters: blocks that run together, their barrier and their ranks.
#include "tests/simt/executor.h"

namespace fucina::simt {

int cluster_rank() {
    return executor->block->rank;
}

Block& cluster_block(int rank, Site site) {
    if (rank < 0 || rank >= static_cast<int>(executor->blocks.size()))
        abandon("block ", rank, " of the cluster at ", describe(site), ", which has ",
                executor->blocks.size());
    Block& block = *executor->blocks[static_cast<size_t>(rank)];
    if (block.live == 0)
        abandon("block ", rank, " of the cluster has ended, and is wanted at ", describe(site));
    return block;
}

void cluster_barrier(Site site) {
    Thread& thread = this_thread();
    Barrier& barrier = executor->cluster_barrier;
    release(thread, barrier.clock);
    ++barrier.arrived;
    barrier.waiting.push_back(&thread);
    thread.site = site;
    open_cluster_barrier_if_complete();
    wait_until_woken(Thread::Wait::cluster);
}

// Threads that have exited count as come, but tell nothing.
void open_cluster_barrier_if_complete() {
    Barrier& barrier = executor->cluster_barrier;
    int live = 0;
    for (const auto& block : executor->blocks) live += block->live;
    if (barrier.arrived == 0 || barrier.arrived < live) return;
    for (Thread* thread : barrier.waiting) {
        acquire(*thread, barrier.clock);
        wake(*thread);
    }
    barrier = {};
}

// The block's end is known to come after what some thread of it knows.
void check_from_outside(const Block& block) {
    for (const auto& [who, time] : block.from_outside) {
        bool known = false;
        for (const Thread& thread : block.threads)
            known = known || executor->races.knows(actor(thread), who, time);
        if (!known)
            throw Error(concat("the block may have ended before ", name_of_actor(who),
                               " reaches into it: cluster_sync before the end"));
    }
}

int actor(const Thread& thread) {
    return thread.owner->rank * static_cast<int>(thread.owner->threads.size()) + thread.id;
}

std::string name_of_actor(int who) {
    const int threads = static_cast<int>(executor->block->threads.size());
    const int blocks = static_cast<int>(executor->blocks.size());
    if (blocks == 1 || who >= threads * blocks) return executor->races.name_of(who);
    return concat("thread ", who % threads, " of block ", who / threads, " of the cluster");
}

}  // namespace fucina::simt
