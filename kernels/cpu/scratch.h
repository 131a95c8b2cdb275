// Working memory of the calling thread, kept from call to call, 64-byte aligned, uninitialised. One
// buffer per slot, so that nested users do not collide.
#pragma once
#include <cstddef>
#include <memory>

#include "kernels/arena.h"

namespace fucina::cpu {

enum class ScratchSlot { left, right, rows, attention, attention_head, head, count };

inline std::byte* scratch(ScratchSlot slot, int64_t bytes) {
    struct Buffer {
        std::shared_ptr<std::byte> data;
        int64_t bytes = 0;
    };
    thread_local Buffer buffers[static_cast<int>(ScratchSlot::count)];
    Buffer& buffer = buffers[static_cast<int>(slot)];
    if (buffer.bytes < bytes) {
        const MemoryPurpose purpose("kernel scratch");
        buffer.data.reset();
        buffer.data = Arena::process().allocate(bytes);
        buffer.bytes = bytes;
    }
    return buffer.data.get();
}

}  // namespace fucina::cpu
