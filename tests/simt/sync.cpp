// Barriers of a block and operations of a warp. Only barriers and __syncwarp order memory; shuffles
// and votes do not.
#include <algorithm>
#include <bit>

#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

constexpr const char* kWarpNames[] = {"__syncwarp",       "__shfl_sync",     "__shfl_up_sync",
                                      "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync"};

const char* name_of(WarpKind kind) {
    return kWarpNames[static_cast<int>(kind)];
}

std::string hex(uint32_t mask) {
    std::ostringstream out;
    out << "0x" << std::hex << mask;
    return out.str();
}

int barrier_result(const Barrier& barrier, int threads) {
    switch (barrier.kind) {
        case BarrierKind::all:
            return barrier.value == threads;
        case BarrierKind::any:
            return barrier.value != 0;
        default:
            return barrier.value;
    }
}

void open_barrier(Barrier& barrier, Thread& last, bool last_waits) {
    barrier.result = barrier_result(barrier, barrier.wanted);
    if (last_waits) acquire(last, barrier.clock);
    for (Thread* thread : barrier.waiting) {
        acquire(*thread, barrier.clock);
        thread->result = static_cast<uint64_t>(barrier.result);
        wake(*thread);
    }
    last.result = static_cast<uint64_t>(barrier.result);
    barrier = {};
}

// The lane whose value this lane's shuffle returns.
int source_lane(int lane, const WarpOperation& operation) {
    const int first = lane / operation.width * operation.width;
    const int last = first + operation.width - 1;
    const int wanted = operation.lane;
    switch (operation.kind) {
        case WarpKind::shuffle:
            return first + (wanted & (operation.width - 1));
        case WarpKind::shuffle_up:
            return lane - wanted >= first ? lane - wanted : lane;
        case WarpKind::shuffle_down:
            return lane + wanted <= last ? lane + wanted : lane;
        case WarpKind::shuffle_xor:
            return (lane ^ wanted) <= last ? lane ^ wanted : lane;
        default:
            return lane;
    }
}

Thread* lanes_of(const Thread& thread) {
    return &executor->block->threads[static_cast<size_t>(thread.id / 32 * 32)];
}

// The meeting that this thread's mask names, opened by the first lane to come.
Meeting& meeting_of(const Thread& thread, const WarpOperation& operation) {
    Block& block = *executor->block;
    std::vector<Meeting>& open = block.meetings[static_cast<size_t>(thread.id / 32)];
    for (Meeting& meeting : open) {
        if (meeting.mask != operation.mask) continue;
        if (meeting.kind == operation.kind && meeting.site == operation.site) return meeting;
        abandon("divergent warp: lane ", thread.id % 32, " is at ", name_of(operation.kind), " ",
                describe(operation.site), ", other lanes of mask ", hex(operation.mask), " are at ",
                name_of(meeting.kind), " ", describe(meeting.site));
    }
    const Thread* lanes = lanes_of(thread);
    for (int lane = 0; lane < 32; ++lane) {
        if ((operation.mask >> lane & 1u) == 0) continue;
        const bool exists = thread.id / 32 * 32 + lane < static_cast<int>(block.threads.size());
        if (!exists || lanes[lane].done)
            abandon(name_of(operation.kind), " ", describe(operation.site), " names lane ", lane,
                    ", which ", exists ? "has exited" : "does not exist");
    }
    return open.emplace_back(Meeting{operation.mask, 0, operation.kind, operation.site});
}

// All lanes have come: every one gets its result, and all but the last are woken.
void conclude(Thread& last, const Meeting& meeting) {
    Thread* lanes = lanes_of(last);
    uint32_t votes = 0;
    Clock clock;
    for (uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
        Thread& lane = lanes[std::countr_zero(rest)];
        if (lane.operation.value != 0) votes |= rest & ~(rest - 1);
        if (meeting.kind == WarpKind::sync) release(lane, clock);
    }
    for (uint32_t rest = meeting.mask; rest != 0; rest &= rest - 1) {
        const int index = std::countr_zero(rest);
        Thread& lane = lanes[index];
        const int source = source_lane(index, lane.operation);
        if ((meeting.mask >> source & 1u) == 0)
            abandon(name_of(meeting.kind), " ", describe(meeting.site), " reads lane ", source,
                    ", which is not in mask ", hex(meeting.mask));
        lane.result = meeting.kind == WarpKind::ballot ? votes : lanes[source].operation.value;
        if (meeting.kind == WarpKind::sync) acquire(lane, clock);
        if (&lane != &last) wake(lane);
    }
}

// The thread has come to barrier `id`, and waits there unless it is the last or need not.
void arrive(int id, bool waits) {
    Thread& thread = this_thread();
    Barrier& barrier = executor->block->barriers[static_cast<size_t>(id)];
    release(thread, barrier.clock);
    if (++barrier.arrived == barrier.wanted) {
        open_barrier(barrier, thread, waits);
    } else if (waits) {
        barrier.waiting.push_back(&thread);
        thread.waits_for = static_cast<uint32_t>(id);
        wait_until_woken(Thread::Wait::barrier);
    }
}

}  // namespace

void release(const Thread& thread, Clock& into) {
    if (kRaceCheck) executor->races.release(actor(thread), into);
}

void acquire(const Thread& thread, const Clock& from) {
    if (kRaceCheck) executor->races.acquire(actor(thread), from);
}

int block_barrier(BarrierKind kind, int value, Site site) {
    Block& block = *executor->block;
    Barrier& barrier = block.barriers[0];
    const int threads = static_cast<int>(block.threads.size());
    if (block.live != threads)
        abandon("waits at the barrier of ", describe(site), " after ", threads - block.live,
                " threads of its block have exited");
    if (barrier.arrived == 0) {
        barrier.site = site;
        barrier.kind = kind;
        barrier.wanted = threads;
        barrier.first = here->id;
    } else if (barrier.site != site) {
        abandon("divergent barriers: it is at ", describe(site), ", thread ", barrier.first,
                " waits at ", describe(barrier.site));
    }
    barrier.value += value != 0;
    arrive(0, true);
    return static_cast<int>(this_thread().result);
}

void named_barrier(int id, int threads, bool wait, Site site) {
    Block& block = *executor->block;
    if (id < 1 || id > 15) abandon("named barrier ", id, ", allowed are 1 to 15");
    if (threads > static_cast<int>(block.threads.size()))
        abandon("named barrier ", id, " for ", threads, " threads of ", block.threads.size());
    Barrier& barrier = block.barriers[static_cast<size_t>(id)];
    if (barrier.arrived > 0 && barrier.wanted != threads)
        abandon("named barrier ", id, " at ", describe(site), " for ", threads,
                " threads, others came for ", barrier.wanted);
    barrier.wanted = threads;
    barrier.site = site;
    arrive(id, wait);
}

uint64_t warp_operation(const WarpOperation& operation) {
    Thread& thread = this_thread();
    const int lane = thread.id % 32;
    if ((operation.mask >> lane & 1u) == 0)
        abandon(name_of(operation.kind), " ", describe(operation.site), " by lane ", lane,
                ", which is not in mask ", hex(operation.mask));
    thread.operation = operation;
    Meeting& meeting = meeting_of(thread, operation);
    meeting.arrived |= 1u << lane;
    if (meeting.arrived != meeting.mask) {
        wait_until_woken(Thread::Wait::warp);
        return thread.result;
    }
    const Meeting complete = meeting;
    std::vector<Meeting>& open = executor->block->meetings[static_cast<size_t>(thread.id / 32)];
    open.erase(open.begin() + (&meeting - open.data()));
    conclude(thread, complete);
    return thread.result;
}

std::string describe(Site site) {
    const std::string path = site.file;
    const size_t slash = path.rfind('/');
    return concat(slash == std::string::npos ? path : path.substr(slash + 1), ":", site.line);
}

std::string describe_wait(const Block& block, const Thread& thread) {
    if (thread.wait == Thread::Wait::mbarrier) return describe_mbarrier_wait(block, thread);
    if (thread.wait == Thread::Wait::cluster)
        return concat("at the cluster's barrier of ", describe(thread.site), " (",
                      executor->cluster_barrier.arrived, " threads arrived)");
    if (thread.wait == Thread::Wait::wgmma)
        return "at wgmma_wait (not all 128 threads of its warpgroup have issued the wgmma)";
    if (thread.wait == Thread::Wait::barrier) {
        const Barrier& barrier = block.barriers[thread.waits_for];
        return concat("at ", thread.waits_for == 0 ? "the" : "a named", " barrier of ",
                      describe(barrier.site), " (", barrier.arrived, " of ", barrier.wanted,
                      " arrived)");
    }
    for (const Meeting& meeting : block.meetings[static_cast<size_t>(thread.id / 32)])
        if (meeting.mask == thread.operation.mask)
            return concat("at ", name_of(meeting.kind), " ", describe(meeting.site), " (lanes ",
                          hex(meeting.arrived), " of ", hex(meeting.mask), " arrived)");
    return "running";
}

}  // namespace fucina::simt
