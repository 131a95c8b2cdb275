// Runs a grid: blocks in turn, each block's threads as fibers (see executor.h).
#include "tests/simt/executor.h"

#include <algorithm>
#include <numeric>

namespace fucina::simt {
namespace {

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
    size_t index = 0;
    if (options.order == Order::lifo) index = ready.size() - 1;
    if (options.order == Order::random) index = executor->random() % ready.size();
    Thread& thread = *ready[index];
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(index));
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

void start_block(Block& block, const LaunchShape& shape, uint64_t index) {
    block.shape = shape;
    block.barriers = {};
    block.mbarriers.clear();
    block.warpgroups.assign((block.threads.size() + 127) / 128, {});
    block.live = static_cast<int>(block.threads.size());
    block.meetings.assign((block.threads.size() + 31) / 32, {});
    reset_shared_memory(block);
    for (size_t i = 0; i < block.threads.size(); ++i) {
        Thread& thread = block.threads[i];
        static_cast<Place&>(thread) = {position(i, shape.block), position(index, shape.grid),
                                       shape.block, shape.grid, static_cast<int>(i)};
        thread.done = false;
        thread.wait = Thread::Wait::none;
        thread.queues = {};
        thread.context.start(*executor->stacks[i], run_thread);
        executor->ready.push_back(&thread);
    }
}

// The work is taken off the queue before it runs, for it may queue more.
void run_deferred_at(size_t index) {
    const std::function<void()> work = std::move(executor->deferred[index]);
    executor->deferred.erase(executor->deferred.begin() + static_cast<std::ptrdiff_t>(index));
    work();
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

void run_block(const LaunchShape& shape, uint64_t index) {
    Block& block = executor->block;
    start_block(block, shape, index);
    const uint3 at = block.threads[0].block;
    const std::string where = concat("block (", at.x, ",", at.y, ",", at.z, "): ");
    while (!executor->ready.empty() || !executor->deferred.empty()) {
        if (!run_some_deferred()) run_one_thread();
        if (!executor->error.empty()) throw Error(where + executor->error);
    }
    if (block.live != 0) throw Error(where + deadlock(block));
    try {
        check_mbarriers(block);
        check_red_zones(block);
    } catch (const Error& error) {
        throw Error(where + error.what());
    }
    ++statistics.blocks;
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
    if (shape.smem > kArenaEnd - kArenaBase)
        throw Error(concat("launch: ", shape.smem, " bytes of dynamic shared memory, allowed are ",
                           kArenaEnd - kArenaBase));
}

std::vector<uint64_t> block_order(uint64_t blocks) {
    std::vector<uint64_t> order(blocks);
    std::iota(order.begin(), order.end(), uint64_t{0});
    if (options.order == Order::lifo) std::reverse(order.begin(), order.end());
    if (options.order == Order::random) std::shuffle(order.begin(), order.end(), executor->random);
    return order;
}

}  // namespace

void leave_for_good() {
    Thread& thread = this_thread();
    thread.done = true;
    --executor->block.live;
    thread.context.switch_to(executor->scheduler, true);
    __builtin_unreachable();
}

Thread& this_thread() {
    return executor->block.threads[static_cast<size_t>(here->id)];
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
        executor->error = here == nullptr ? message : concat("thread ", here->id, ": ", message);
    throw Abandoned();
}

void defer(std::function<void()> run) {
    if (options.lateness == Lateness::early)
        run();
    else
        executor->deferred.push_back(std::move(run));
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
    check_shape(shape);
    Executor running;
    running.kernel = &kernel;
    running.random.seed(options.seed);
    running.block.threads.resize(shape.block.x * shape.block.y * shape.block.z);
    for (size_t i = 0; i < running.block.threads.size(); ++i)
        running.stacks.push_back(std::make_unique<Stack>());
    struct Running {
        explicit Running(Executor& now) { executor = &now; }
        ~Running() {
            executor = nullptr;
            here = nullptr;
        }
    } guard(running);
    const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
    for (const uint64_t index : block_order(blocks)) run_block(shape, index);
}

}  // namespace fucina::simt
