#include "kernels/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "kernels/cuda/runtime.h"
#include "kernels/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fucina {
namespace {

// AddressSanitizer does not see into segments by itself: a block is its bytes and a red zone.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kRedZone = 64;
void forbid(std::byte* at, int64_t bytes) {
    __asan_poison_memory_region(at, static_cast<size_t>(bytes));
}
void permit(std::byte* at, int64_t bytes) {
    __asan_unpoison_memory_region(at, static_cast<size_t>(bytes));
}
#else
constexpr int64_t kRedZone = 0;
void forbid(std::byte*, int64_t) {}
void permit(std::byte*, int64_t) {}
#endif

constexpr int64_t kAlignment = 64, kDeviceAlignment = 256;  // TMA wants 128
constexpr int64_t kHugePage = int64_t{2} << 20;
// Asked of the operating system at once, as addresses: memory comes with the first write. Blocks do
// not span segments, so small ones would waste their ends.
constexpr int64_t kSegment = int64_t{1} << 30;
constexpr int64_t kSmallSegment = int64_t{64} << 20;    // where addresses are limited
constexpr int64_t kDeviceSegment = int64_t{256} << 20;  // at least, of a GPU's memory

constexpr const char* kScratchPurpose = "kernel scratch";
thread_local const char* current_purpose = "other";

int64_t round_up(int64_t bytes, int64_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

}  // namespace

// Segments from mmap, cut into blocks; free neighbours merge; the smallest block that fits is
// taken. Each block brings the node that files it as free, so that giving back needs no memory;
// what fails for want of memory has changed nothing.
struct Arena::State {
    using FreeBlocks = std::multimap<int64_t, std::byte*>;  // by size
    struct Block {
        int64_t bytes = 0;
        std::byte* segment = nullptr;
        FreeBlocks::node_type free_node;  // empty while the block is filed as free
        bool free() const { return free_node.empty(); }
    };
    using Blocks = std::map<std::byte*, Block>;  // by address

    const Device device;
    mutable std::mutex mutex;
    Blocks blocks;
    FreeBlocks free_blocks;
    std::map<std::string, MemoryUse> uses;
    MemoryUse total{.purpose = "total"};
    int64_t reserved = 0;
    int64_t apart = 0;  // bytes of scratch, outside the segments

    explicit State(Device of) : device(of) {}

    static std::shared_ptr<std::byte> allocate_apart(const std::shared_ptr<State>& state,
                                                     int64_t bytes, MemoryUse& use);

    void charge(MemoryUse& use, int64_t bytes) {
        for (MemoryUse* sum : {&use, &total}) {
            sum->current += bytes;
            sum->peak = std::max(sum->peak, sum->current);
        }
    }

    static Blocks::node_type new_block() {
        FreeBlocks file;
        Blocks one;
        one[nullptr].free_node = file.extract(file.emplace(0, nullptr));
        return one.extract(one.begin());
    }

    void file_as_free(Blocks::iterator block) {
        FreeBlocks::node_type& node = block->second.free_node;
        node.key() = block->second.bytes;
        node.mapped() = block->first;
        free_blocks.insert(std::move(node));
    }

    FreeBlocks::iterator find_free(Blocks::const_iterator block) {
        auto found = free_blocks.lower_bound(block->second.bytes);
        while (found->second != block->first) ++found;
        return found;
    }

    void add_free(Blocks::node_type node, std::byte* at, int64_t bytes, std::byte* segment) {
        node.key() = at;
        node.mapped().bytes = bytes;
        node.mapped().segment = segment;
        file_as_free(blocks.insert(std::move(node)).position);
    }

    [[noreturn]] void fail_for_want_of(int64_t bytes, const std::string& purpose) const {
        if constexpr (kWithCuda) {
            if (device != Device::cpu) {
                const cuda::DeviceMemory memory = cuda::device_memory();
                fail(ExitCode::internal, "out of the GPU's memory: ", bytes, " bytes asked for ",
                     purpose, ", ", memory.free, " free of ", memory.total, ", ", total.current,
                     " in tensors; what helps: train.recompute = \"block\", a smaller "
                     "train.micro_batch, or experts over more ranks (parallel.expert)");
            }
        }
        fail(ExitCode::internal, "out of memory: ", bytes, " bytes asked for ", purpose, ", ",
             total.current, " bytes in use; lower train.micro_batch or data.sequence_length");
    }

    // Of a GPU's memory what is asked for is taken at once: a large segment, else just enough.
    bool grow_on_device(int64_t bytes) {
        if constexpr (kWithCuda) {
            Blocks::node_type block = new_block();
            for (const int64_t size : {std::max(bytes, kDeviceSegment), bytes}) {
                std::byte* const at = cuda::allocate(size);
                if (at == nullptr) continue;
                add_free(std::move(block), at, size, at);
                reserved += size;
                return true;
            }
        }
        return false;
    }

    bool grow(int64_t bytes) {
        if (device != Device::cpu) return grow_on_device(bytes);
        Blocks::node_type block = new_block();
        void* at = MAP_FAILED;
        int64_t size = 0;
        for (const int64_t least : {kSegment, kSmallSegment}) {
            if (at != MAP_FAILED) break;
            size = round_up(std::max(bytes, least), kHugePage);
            at = mmap(nullptr, static_cast<size_t>(size + kHugePage), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        }
        if (at == MAP_FAILED) return false;
        // Cut the mapping to a huge-page boundary, so that the kernel can back it with huge pages.
        auto* raw = static_cast<std::byte*>(at);
        const auto address = reinterpret_cast<uintptr_t>(raw);
        const auto lead = static_cast<int64_t>((kHugePage - address % kHugePage) % kHugePage);
        if (lead > 0) munmap(raw, static_cast<size_t>(lead));
        munmap(raw + lead + size, static_cast<size_t>(kHugePage - lead));
        madvise(raw + lead, static_cast<size_t>(size), MADV_HUGEPAGE);
        add_free(std::move(block), raw + lead, size, raw + lead);
        forbid(raw + lead, size);
        reserved += size;
        return true;
    }

    std::byte* take(int64_t bytes) {
        auto found = free_blocks.lower_bound(bytes);
        if (found == free_blocks.end()) {
            if (!grow(bytes)) return nullptr;
            found = free_blocks.lower_bound(bytes);
        }
        std::byte* at = found->second;
        Block& block = blocks.at(at);
        Blocks::node_type rest;
        if (block.bytes > bytes) rest = new_block();
        block.free_node = free_blocks.extract(found);
        if (rest) {
            add_free(std::move(rest), at + bytes, block.bytes - bytes, block.segment);
            block.bytes = bytes;
        }
        return at;
    }

    // The free block `from` becomes part of `into`, its neighbour.
    void merge(Blocks::iterator into, Blocks::iterator from) {
        into->second.bytes += from->second.bytes;
        blocks.erase(from);
    }

    void give(std::byte* at) {
        auto here = blocks.find(at);
        forbid(at, here->second.bytes);
        if (auto next = std::next(here); next != blocks.end() && next->second.free() &&
                                         next->second.segment == here->second.segment) {
            free_blocks.erase(find_free(next));
            merge(here, next);
        }
        if (auto before = here; here != blocks.begin() && (--before)->second.free() &&
                                before->second.segment == here->second.segment) {
            before->second.free_node = free_blocks.extract(find_free(before));
            merge(before, here);
            here = before;
        }
        file_as_free(here);
    }
};

Arena::Arena(Device device) : state_(std::make_shared<State>(device)) {}

Arena& Arena::process() {
    static Arena arena(Device::cpu);
    return arena;
}

Arena& Arena::device_memory() {
    static Arena arena(Device::cuda);
    return arena;
}

bool Arena::holds(const std::byte* at) const {
    std::lock_guard lock(state_->mutex);
    auto next = state_->blocks.upper_bound(const_cast<std::byte*>(at));
    if (next == state_->blocks.begin()) return false;
    const auto& [begin, block] = *--next;
    return at < begin + block.bytes;
}

Device Arena::device() const {
    return state_->device;
}

// Scratch grows while tensors come and go, and stays: in their midst it would cut up their room.
std::shared_ptr<std::byte> Arena::State::allocate_apart(const std::shared_ptr<State>& state,
                                                        int64_t bytes, MemoryUse& use) {
    void* at = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return {};
    {
        std::lock_guard lock(state->mutex);
        state->charge(use, bytes);
        state->apart += bytes;
    }
    return {static_cast<std::byte*>(at), [state, bytes, &use](std::byte* block) {
                munmap(block, static_cast<size_t>(bytes));
                std::lock_guard lock(state->mutex);
                state->charge(use, -bytes);
                state->apart -= bytes;
            }};
}

std::shared_ptr<std::byte> Arena::allocate(int64_t bytes) {
    const bool on_host = state_->device == Device::cpu;
    const int64_t rounded =
        round_up(std::max<int64_t>(bytes, 1) + kRedZone, on_host ? kAlignment : kDeviceAlignment);
    const std::string purpose = current_purpose;
    MemoryUse* use = nullptr;
    std::byte* at = nullptr;
    if (purpose == kScratchPurpose && on_host) {
        {
            std::lock_guard lock(state_->mutex);
            use = &state_->uses[purpose];
        }
        auto memory = State::allocate_apart(state_, rounded, *use);
        if (!memory) fail(ExitCode::internal, "out of memory: ", rounded, " bytes of ", purpose);
        return memory;
    }
    {
        std::lock_guard lock(state_->mutex);
        use = &state_->uses[purpose];
        at = state_->take(rounded);
        if (at == nullptr) state_->fail_for_want_of(rounded, purpose);
        permit(at, bytes);
        state_->charge(*use, rounded);
    }
    // Without the lock: where no memory is left for the handle, it gives the block back.
    return {at, [state = state_, rounded, use](std::byte* block) {
                std::lock_guard release(state->mutex);
                state->charge(*use, -rounded);
                state->give(block);
            }};
}

std::vector<MemoryUse> Arena::table() const {
    std::lock_guard lock(state_->mutex);
    std::vector<MemoryUse> rows;
    for (const auto& [name, use] : state_->uses) {
        rows.push_back(use);
        rows.back().purpose = name;
    }
    return rows;
}

MemoryUse Arena::total() const {
    std::lock_guard lock(state_->mutex);
    return state_->total;
}

void Arena::forget_peaks() {
    std::lock_guard lock(state_->mutex);
    for (auto& [name, use] : state_->uses) use.peak = use.current;
    state_->total.peak = state_->total.current;
}

int64_t Arena::reserved() const {
    std::lock_guard lock(state_->mutex);
    return state_->reserved;
}

int64_t Arena::resident() const {
    if (state_->device != Device::cpu) return reserved();
    constexpr int64_t kPage = 4096, kPages = 16384;  // looked at together
    std::lock_guard lock(state_->mutex);
    std::map<std::byte*, int64_t> segments;
    for (const auto& [at, block] : state_->blocks) segments[block.segment] += block.bytes;
    std::vector<unsigned char> pages(kPages);
    int64_t count = 0;
    for (const auto& [segment, bytes] : segments) {
        for (int64_t at = 0; at < bytes; at += kPages * kPage) {
            const int64_t piece = std::min(kPages * kPage, bytes - at);
            if (mincore(segment + at, static_cast<size_t>(piece), pages.data()) != 0) continue;
            count += std::count_if(pages.begin(), pages.begin() + piece / kPage,
                                   [](unsigned char page) { return (page & 1) != 0; });
        }
    }
    return count * kPage + state_->apart;
}

void Arena::trim() {
    if (state_->device != Device::cpu) return;
    std::lock_guard lock(state_->mutex);
    for (const auto& [at, block] : state_->blocks) {
        if (!block.free()) continue;
        const auto begin =
            round_up(static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)), kHugePage);
        const auto end = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)) + block.bytes;
        const int64_t bytes = (end - begin) / kHugePage * kHugePage;
        if (bytes > 0)
            madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(bytes), MADV_DONTNEED);
    }
}

MemoryPurpose::MemoryPurpose(const char* name) : previous_(current_purpose) {
    current_purpose = name;
}
MemoryPurpose::~MemoryPurpose() {
    current_purpose = previous_;
}

}  // namespace fucina
