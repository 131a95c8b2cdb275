// Runs a grid: clusters of blocks in turn, each one's threads as fibers (see executor.h).
#include "tests/simt/executor.h"

#include <algorithm>
#include <numeric>

#include "tests/simt/device_memory.h"

namespace fucina::simt {
namespace {

// Of this operating-system thread's fibers, kept from launch to launch.
thread_local std::vector<std::unique_ptr<Stack>> stacks;

void run_thread() {
    Context::entered();
    try {
        (*executor->kernel)();
        check_finished(this_thread());
    } catch (const Abandoned&) {
    }
    leave_for_good();
}

Thread& next_ready() {
    std::deque<Thread*>& ready = executor->ready;
    if (options.order == Order::random) {
        const auto index = static_cast<std::ptrdiff_t>(executor->random() % ready.size());
        Thread& thread = *ready[static_cast<size_t>(index)];
        ready.erase(ready.begin() + index);
        return thread;
    }
    const bool last = options.order == Order::lifo;
    Thread& thread = last ? *ready.back() : *ready.front();
    last ? ready.pop_back() : ready.pop_front();
    return thread;
}

std::string deadlock(const Block& block) {
    std::map<std::string, std::vector<int>> groups;
    std::vector<int> exited;
    for (const Thread& thread : block.threads) {
        if (thread.done)
            exited.push_back(thread.id);
        else
            groups[describe_wait(block, thread)].push_back(thread.id);
    }
    std::string text = "deadlock:";
    for (const auto& [reason, ids] : groups)
        text += concat(" ", list_threads(ids), " ", reason, ";");
    if (!exited.empty()) text += concat(" ", list_threads(exited), " exited;");
    text.pop_back();
    return text;
}

uint3 position(uint64_t index, dim3 size) {
    return {static_cast<unsigned>(index % size.x), static_cast<unsigned>(index / size.x % size.y),
            static_cast<unsigned>(index / size.x / size.y)};
}

std::string name_of(const Block& block) {
    return concat("block (", block.at.x, ",", block.at.y, ",", block.at.z, "): ");
}

void start_block(Block& block, const LaunchShape& shape, uint64_t index) {
    block.shape = shape;
    block.at = position(index, shape.grid);
    block.barriers = {};
    block.mbarriers.clear();
    block.from_outside.clear();
    block.warpgroups.assign((block.threads.size() + 127) / 128, {});
    block.live = static_cast<int>(block.threads.size());
    block.meetings.assign((block.threads.size() + 31) / 32, {});
    reset_shared_memory(block);
    for (size_t i = 0; i < block.threads.size(); ++i) {
        Thread& thread = block.threads[i];
        static_cast<Place&>(thread) = {position(i, shape.block), block.at, shape.block, shape.grid,
                                       static_cast<int>(i)};
        thread.owner = &block;
        thread.done = false;
        thread.wait = Thread::Wait::none;
        thread.queues = {};
        const size_t stack = static_cast<size_t>(block.rank) * block.threads.size() + i;
        thread.context.start(*stacks[stack], run_thread);
        executor->ready.push_back(&thread);
    }
}

// The work is taken off the queue before it runs, for it may queue more.
void run_deferred_at(size_t index) {
    const Deferred work = std::move(executor->deferred[index]);
    executor->deferred.erase(executor->deferred.begin() + static_cast<std::ptrdiff_t>(index));
    executor->block = work.block;
    work.run();
}

// Deferred work, if there is any and it is time.
bool run_some_deferred() {
    const size_t count = executor->deferred.size();
    const bool at_random = options.lateness == Lateness::random;
    if (count == 0) return false;
    if (!executor->ready.empty() && !(at_random && executor->random() % 8 == 0)) return false;
    try {
        run_deferred_at(at_random ? executor->random() % count : 0);
    } catch (const Abandoned&) {
    }
    return true;
}

void run_one_thread() {
    Thread& thread = next_ready();
    here = &thread;
    executor->block = thread.owner;
    ++statistics.switches;
    executor->scheduler.switch_to(thread.context);
    here = nullptr;
}

void check_mbarriers(const Block& block) {
    for (const auto& [address, barrier] : block.mbarriers)
        if (barrier.bytes != 0)
            throw Error(concat("the block has ended, and the mbarrier at ",
                               name_shared(block, address), " still expects ", barrier.bytes,
                               " bytes"));
}

void check_end(const Block& block) {
    try {
        check_mbarriers(block);
        check_red_zones(block);
        check_registers(block);
        check_from_outside(block);
    } catch (const Error& error) {
        throw Error(name_of(block) + error.what());
    }
    ++statistics.blocks;
}

void run_cluster(const LaunchShape& shape, uint64_t first) {
    auto& blocks = executor->blocks;
    executor->cluster_barrier = {};
    if (kRaceCheck)
        executor->races.reset(static_cast<int>(blocks.size() * blocks[0]->threads.size()));
    for (size_t i = 0; i < blocks.size(); ++i) start_block(*blocks[i], shape, first + i);
    while (!executor->ready.empty() || !executor->deferred.empty()) {
        if (!run_some_deferred()) run_one_thread();
        if (!executor->error.empty()) throw Error(executor->error);
    }
    std::string stuck;
    for (const auto& block : blocks)
        if (block->live != 0)
            stuck += concat(stuck.empty() ? "" : "; ", name_of(*block), deadlock(*block));
    if (!stuck.empty()) throw Error(stuck);
    for (const auto& block : blocks) check_end(*block);
}

void check_shape(const LaunchShape& shape) {
    const uint64_t threads = uint64_t{shape.block.x} * shape.block.y * shape.block.z;
    if (threads < 1 || threads > 1024 || shape.block.z > 64)
        throw Error(concat("launch: ", threads, " threads a block, allowed are 1 to 1024"));
    if (shape.grid.x < 1 || shape.grid.y < 1 || shape.grid.z < 1)
        throw Error("launch: an empty grid is an error in CUDA");
    if (shape.grid.x > 0x7fffffffu || shape.grid.y > 65535 || shape.grid.z > 65535)
        throw Error(concat("launch: grid ", shape.grid.x, " x ", shape.grid.y, " x ", shape.grid.z,
                           " exceeds 2147483647 x 65535 x 65535"));
    if (shape.cluster < 1 || shape.cluster > 8 ||
        shape.grid.x % static_cast<unsigned>(shape.cluster) != 0)
        throw Error(concat("launch: clusters of ", shape.cluster, " blocks in a row of ",
                           shape.grid.x, ", allowed are 1 to 8 that divide it"));
    if (shape.smem > kArenaEnd - kArenaBase)
        throw Error(concat("launch: ", shape.smem, " bytes of dynamic shared memory, allowed are ",
                           kArenaEnd - kArenaBase));
}

std::vector<uint64_t> cluster_order(uint64_t clusters) {
    std::vector<uint64_t> order(clusters);
    std::iota(order.begin(), order.end(), uint64_t{0});
    if (options.order == Order::lifo) std::reverse(order.begin(), order.end());
    if (options.order == Order::random) std::shuffle(order.begin(), order.end(), executor->random);
    return order;
}

}  // namespace

void leave_for_good() {
    Thread& thread = this_thread();
    thread.done = true;
    --thread.owner->live;
    open_cluster_barrier_if_complete();
    thread.context.switch_to(executor->scheduler, true);
    __builtin_unreachable();
}

Thread& this_thread() {
    return static_cast<Thread&>(const_cast<Place&>(*here));
}

void wait_until_woken(Thread::Wait reason) {
    Thread& thread = this_thread();
    thread.wait = reason;
    thread.context.switch_to(executor->scheduler);
    thread.wait = Thread::Wait::none;
}

void wake(Thread& thread) {
    executor->ready.push_back(&thread);
}

void abandon_thread(const std::string& message) {
    if (executor->error.empty())
        executor->error = here == nullptr ? name_of(*executor->block) + message
                                          : concat(name_of(*this_thread().owner), "thread ",
                                                   here->id, ": ", message);
    throw Abandoned();
}

void defer(std::function<void()> run) {
    if (options.lateness == Lateness::early)
        run();
    else
        executor->deferred.push_back({executor->block, std::move(run)});
}

std::string list_threads(const std::vector<int>& ids) {
    std::string text = ids.size() == 1 ? "thread " : "threads ";
    for (size_t i = 0; i < ids.size();) {
        size_t last = i;
        while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
        text += concat(i > 0 ? "," : "", ids[i]);
        if (last > i) text += concat("-", ids[last]);
        i = last + 1;
    }
    return text;
}

void run_grid(const LaunchShape& shape, const std::function<void()>& kernel) {
    if (executor != nullptr) throw Error("launch: a kernel is already running");
    const DeviceAccess access;
    check_shape(shape);
    Executor running;
    running.kernel = &kernel;
    running.random.seed(options.seed);
    const size_t threads = shape.block.x * shape.block.y * shape.block.z;
    for (int rank = 0; rank < shape.cluster; ++rank) {
        Block& block = *running.blocks.emplace_back(std::make_unique<Block>());
        block.rank = rank;
        block.threads.resize(threads);
        while (stacks.size() < (static_cast<size_t>(rank) + 1) * threads)
            stacks.push_back(std::make_unique<Stack>());
    }
    struct Running {
        explicit Running(Executor& now) { executor = &now; }
        ~Running() {
            executor = nullptr;
            here = nullptr;
        }
    } guard(running);
    const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
    const uint64_t size = static_cast<uint64_t>(shape.cluster);
    for (const uint64_t index : cluster_order(blocks / size)) run_cluster(shape, index * size);
}

}  // namespace fucina::simt
