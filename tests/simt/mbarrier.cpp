// mbarriers, proxy fences and register budgets. An mbarrier's state is in a side table; its memory
// holds a mark that shows when something else was written there.
#include <algorithm>

#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

constexpr uint64_t kMark = 0x6d62617272696572;
constexpr int64_t kMostBytes = (1 << 20) - 1, kMostArrivals = (1 << 20) - 1;

MBarrier& find(uint32_t address, Site site) {
    Block& block = *executor->block;
    const auto found = block.mbarriers.find(address);
    if (found == block.mbarriers.end())
        abandon("no mbarrier was initialised at ", name_shared(block, address), ", used at ",
                describe(site));
    uint64_t content = 0;
    std::memcpy(&content, shared_pointer(address), sizeof content);
    if (content != (kMark ^ address))
        abandon("the mbarrier at ", name_shared(block, address), " was overwritten, used at ",
                describe(site));
    MBarrier& barrier = found->second;
    const int me = actor(this_thread());
    if (kRaceCheck && me != barrier.initialiser &&
        !executor->races.knows(me, barrier.initialiser, barrier.initialised))
        abandon("the mbarrier at ", name_shared(block, address), " is used at ", describe(site),
                " without a barrier after its initialisation by ",
                name_of_actor(barrier.initialiser));
    return barrier;
}

void end_phase_if_complete(MBarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    ++barrier.phase;
    barrier.pending = barrier.count;
    if (kRaceCheck) RaceDetector::merge(barrier.open, barrier.closed);
    barrier.open = {};
    for (Thread* thread : barrier.waiting) {
        acquire(*thread, barrier.closed);
        wake(*thread);
    }
    barrier.waiting.clear();
}

void arrive(uint32_t address, uint32_t expected_bytes, Site site) {
    MBarrier& barrier = find(address, site);
    if (barrier.pending == 0)
        abandon("the mbarrier at ", name_shared(*executor->block, address), " has had all ",
                barrier.count, " arrivals of this phase before the one at ", describe(site));
    barrier.bytes += expected_bytes;
    if (barrier.bytes > kMostBytes)
        abandon("the mbarrier at ", name_shared(*executor->block, address), " expects ",
                barrier.bytes, " bytes at ", describe(site), ", allowed are ", kMostBytes);
    release(this_thread(), barrier.open);
    --barrier.pending;
    end_phase_if_complete(barrier);
}

}  // namespace

void mbarrier_init(uint64_t* memory, uint32_t count, Site site) {
    const uint32_t address = shared_address(memory);
    Block& block = *executor->block;
    if (address % 8 != 0)
        abandon("the mbarrier at ", name_shared(block, address), " is not aligned to 8");
    if (count < 1 || count > kMostArrivals)
        abandon("mbarrier_init ", describe(site), " for ", count, " arrivals, allowed are 1 to ",
                kMostArrivals);
    if (block.mbarriers.count(address) != 0)
        abandon("the mbarrier at ", name_shared(block, address), " is initialised again at ",
                describe(site), " without mbarrier_inval");
    check_access(address, sizeof *memory, true);
    *memory = kMark ^ address;
    MBarrier& barrier = block.mbarriers[address];
    barrier.count = barrier.pending = count;
    barrier.initialiser = actor(this_thread());
    if (kRaceCheck) barrier.initialised = executor->races.time_of(barrier.initialiser);
}

void mbarrier_inval(uint64_t* memory, Site site) {
    const uint32_t address = shared_address(memory);
    if (!find(address, site).waiting.empty())
        abandon("mbarrier_inval ", describe(site), " of an mbarrier for which threads wait");
    check_access(address, sizeof *memory, true);
    executor->block->mbarriers.erase(address);
}

void fence_mbarrier_init() {
    for (auto& [address, barrier] : executor->block->mbarriers)
        if (barrier.initialiser == actor(this_thread())) barrier.fenced = true;
}

void mbarrier_arrive(uint64_t* memory, uint32_t expected_bytes, Site site) {
    arrive(shared_address(memory), expected_bytes, site);
}

void mbarrier_arrive_remote(uint64_t* memory, int rank, Site site) {
    const uint32_t address = shared_address(memory);
    Block& block = cluster_block(rank, site);
    const int me = actor(this_thread());
    if (kRaceCheck && &block != executor->block)
        block.from_outside[me] = executor->races.time_of(me);
    const BlockScope scope(block);
    arrive(address, 0, site);
}

void mbarrier_wait(uint64_t* memory, uint32_t parity, Site site) {
    const uint32_t address = shared_address(memory);
    Thread& thread = this_thread();
    MBarrier& barrier = find(address, site);
    if (parity > 1) abandon("mbarrier_wait ", describe(site), " for parity ", parity);
    if (barrier.phase % 2 != parity) return acquire(thread, barrier.closed);
    barrier.waiting.push_back(&thread);
    thread.waits_for = address;
    thread.parity = parity;
    thread.site = site;
    wait_until_woken(Thread::Wait::mbarrier);
}

void mbarrier_for_copy(uint32_t address, Site site) {
    if (!find(address, site).fenced)
        abandon("the mbarrier at ", name_shared(*executor->block, address), " serves a copy at ",
                describe(site), " without fence_mbarrier_init after its initialisation");
}

void deliver(uint32_t address, uint32_t bytes, const Operation& from) {
    MBarrier& barrier = executor->block->mbarriers.at(address);
    barrier.bytes -= bytes;
    if (barrier.bytes < -kMostBytes) abandon("an mbarrier was given ", -barrier.bytes, " bytes");
    if (kRaceCheck) executor->races.publish(from, barrier.open);
    end_phase_if_complete(barrier);
}

std::string describe_mbarrier_wait(const Block& block, const Thread& thread) {
    const MBarrier& barrier = block.mbarriers.at(thread.waits_for);
    return concat("at mbarrier_wait ", describe(thread.site), " for parity ", thread.parity, " of ",
                  name_shared(block, thread.waits_for), " (phase ", barrier.phase, ": ",
                  barrier.pending, " of ", barrier.count, " arrivals and ", barrier.bytes,
                  " bytes missing)");
}

void fence_proxy_async() {
    if (kRaceCheck) executor->races.fence(actor(this_thread()));
    fence_mbarrier_init();
}

void set_registers(int count, Site site) {
    const size_t last = (static_cast<size_t>(here->id) / 128 + 1) * 128;
    if (last > executor->block->threads.size())
        abandon("setmaxnreg ", count, " at ", describe(site), " in a warpgroup of less than 128");
    executor->block->warpgroups[last / 128 - 1].registers = count;
}

// What a warpgroup asks for it waits for until others have given it up: it must be there at the
// end.
void check_registers(const Block& block) {
    constexpr int kRegisters = 64 << 10;
    const int most = std::min(255, kRegisters / static_cast<int>(block.threads.size()) / 8 * 8);
    int total = 0;
    bool asked = false;
    for (const Warpgroup& group : block.warpgroups) {
        asked = asked || group.registers > 0;
        total += 128 * (group.registers > 0 ? group.registers : most);
    }
    if (asked && total > kRegisters)
        throw Error(concat("setmaxnreg: the warpgroups want ", total, " registers, the block has ",
                           kRegisters, ": one waits for ever"));
}

}  // namespace fucina::simt
