// The race build: kernels are compiled with -fsanitize=thread but linked to these functions instead
// of the sanitizer's library, so that every load and store of theirs is checked here. What the
// compiler assumes of them: they do not throw. An error therefore leaves the fiber for good.
// Accesses outside shared memory are not tracked; atomics are not offered to kernels.
#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

// The thread's own cp.async may not have landed.
void check_copies(uint32_t address, size_t bytes) {
    const ThreadQueues& queues = this_thread().queues;
    const auto check = [&](const Pieces& pieces) {
        for (const Piece& piece : pieces)
            if (address < piece.shared + piece.bytes && piece.shared < address + bytes)
                abandon("accesses ", name_shared(*executor->block, address),
                        ", to which its cp.async is under way");
    };
    for (const Pieces& group : queues.copies) check(group);
    check(queues.open_copies);
}

void on_access(const volatile void* pointer, size_t bytes, bool write) {
    if (here == nullptr || bytes == 0 || !kRaceCheck) return;
    const size_t offset =
        static_cast<size_t>(reinterpret_cast<uintptr_t>(pointer) -
                            reinterpret_cast<uintptr_t>(executor->block->arena.get()));
    if (offset >= kArenaEnd) return;
    ++statistics.accesses;
    bool broken = false;
    try {
        check_access(static_cast<uint32_t>(offset), bytes, write);
        check_copies(static_cast<uint32_t>(offset), bytes);
    } catch (const Abandoned&) {
        broken = true;
    }
    if (broken) leave_for_good();  // outside the handler, which must end before the fiber does
}

}  // namespace
}  // namespace fucina::simt

#define FUCINA_ACCESS(kind, bytes, is_write)         \
    extern "C" void __tsan_##kind##bytes(void* p) {  \
        fucina::simt::on_access(p, bytes, is_write); \
    }
#define FUCINA_ACCESSES(bytes)                  \
    FUCINA_ACCESS(read, bytes, false)           \
    FUCINA_ACCESS(write, bytes, true)           \
    FUCINA_ACCESS(unaligned_read, bytes, false) \
    FUCINA_ACCESS(unaligned_write, bytes, true) \
    FUCINA_ACCESS(volatile_read, bytes, false)  \
    FUCINA_ACCESS(volatile_write, bytes, true)
FUCINA_ACCESSES(1)
FUCINA_ACCESSES(2)
FUCINA_ACCESSES(4)
FUCINA_ACCESSES(8)
FUCINA_ACCESSES(16)

extern "C" {
void __tsan_read_range(void* p, size_t bytes) {
    fucina::simt::on_access(p, bytes, false);
}
void __tsan_write_range(void* p, size_t bytes) {
    fucina::simt::on_access(p, bytes, true);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
// Host code in the same file: guards of static locals and reference counts.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_add(volatile int* p, int value, int) {
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
}
