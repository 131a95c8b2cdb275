// Guards against an arena that locks itself out, or loses a block, when memory for its own
// bookkeeping runs out.
#include "kernels/arena.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <new>
#include <vector>

namespace {

thread_local int allocations_left = -1;  // of this thread, until one fails; -1: none fails

}  // namespace

void* operator new(size_t bytes) {
    if (allocations_left == 0) throw std::bad_alloc();
    if (allocations_left > 0) --allocations_left;
    if (void* at = std::malloc(bytes == 0 ? 1 : bytes)) return at;
    throw std::bad_alloc();
}
void operator delete(void* at) noexcept {
    std::free(at);
}
void operator delete(void* at, size_t) noexcept {
    std::free(at);
}

namespace fucina {
namespace {

int64_t bytes_in_use() {
    int64_t sum = 0;
    for (const MemoryUse& use : Arena::process().table()) sum += use.current;
    return sum;
}

// Takes and gives back blocks that split and merge others.
void exercise(std::vector<std::shared_ptr<std::byte>>& kept) {
    for (const int64_t bytes : {100, 5000, 64, 1 << 20}) {
        kept.push_back(Arena::process().allocate(bytes));
    }
    kept.erase(kept.begin() + 1);
    kept.push_back(Arena::process().allocate(3000));
    kept.erase(kept.begin());
}

TEST(Arena, SurvivesEveryFailureOfItsOwnBookkeeping) {
    alarm(20);  // a lock taken twice would wait for ever
    const int64_t before = bytes_in_use();
    bool completed = false;
    for (int failing = 0; !completed; ++failing) {
        ASSERT_LT(failing, 1000);
        std::vector<std::shared_ptr<std::byte>> kept;
        kept.reserve(16);
        allocations_left = failing;
        try {
            exercise(kept);
            completed = true;
        } catch (const std::bad_alloc&) {
        }
        // Giving back must not need memory.
        allocations_left = 0;
        kept.clear();
        allocations_left = -1;
        EXPECT_EQ(bytes_in_use(), before) << "allocation " << failing << " failed";
    }
    // All that was free is free still: the same work asks the operating system for nothing.
    const int64_t reserved = Arena::process().reserved();
    for (int round = 0; round < 100; ++round) {
        std::vector<std::shared_ptr<std::byte>> kept;
        exercise(kept);
    }
    EXPECT_EQ(Arena::process().reserved(), reserved);
    alarm(0);
}

}  // namespace
}  // namespace fucina
