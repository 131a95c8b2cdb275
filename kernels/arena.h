// Arena: where tensors live. Freed blocks are kept and reused, so that a training step in its
// steady state asks the operating system for nothing (page faults and zeroing would cost a tenth of
// a step). Large blocks lie on huge pages. Every allocation is charged to the purpose that the
// calling thread has named; the memory table is printed from it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace fucina {

struct MemoryUse {
    std::string purpose;  // "weights", "moments", "gradients", "activations", ...
    int64_t current = 0;  // bytes in live tensors
    int64_t peak = 0;     // the most that current has been
};

class Arena {
  public:
    static Arena& process();        // the host's memory
    static Arena& device_memory();  // of the current GPU: one stream takes and gives its blocks

    Device device() const;
    bool holds(const std::byte* at) const;  // whether that lies in its memory

    // 64-byte aligned (256 on a GPU), uninitialised, thread-safe. Throws Error(internal) naming
    // bytes and purpose when memory is out.
    std::shared_ptr<std::byte> allocate(int64_t bytes);

    std::vector<MemoryUse> table() const;
    MemoryUse total() const;   // of all purposes; its peak is that of one moment
    void forget_peaks();       // they begin anew at what is current
    int64_t reserved() const;  // bytes held from the operating system, free blocks included
    int64_t resident() const;  // of these, what has been written to and takes memory
    void trim();               // give the host's free blocks back to the operating system

  private:
    struct State;
    explicit Arena(Device device);
    std::shared_ptr<State> state_;
};

// Names the purpose of this thread's allocations for the lifetime of the scope.
class MemoryPurpose {
  public:
    explicit MemoryPurpose(const char* name);
    ~MemoryPurpose();
    MemoryPurpose(const MemoryPurpose&) = delete;
    MemoryPurpose& operator=(const MemoryPurpose&) = delete;

  private:
    const char* previous_;
};

}  // namespace fucina
