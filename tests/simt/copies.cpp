// Asynchronous copies. A load destroys its target when it is issued and delivers later; a store
// reads shared memory and writes global memory later. Races are judged as if each access happened
// when the copy was issued, by an operation that others know of only through an mbarrier or a wait.
#include <algorithm>

#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

constexpr unsigned char kDestroyed = 0xff;  // NaN in every float format

void check_alignment(const char* what, uint64_t address, uint64_t bytes, Site site) {
    if (address % bytes != 0)
        abandon(what, " at ", describe(site), " is not aligned to ", bytes, " bytes");
}

// Elements [first, first + count) of a row of `size`, which begins at `row`; null: no such row.
void add_run(Pieces& pieces, uint32_t shared, char* row, int64_t first, int64_t count, int64_t size,
             int64_t element) {
    const int64_t from =
        row == nullptr ? first + count : std::clamp<int64_t>(0, first, first + count);
    const int64_t to = row == nullptr ? from : std::clamp(size, from, first + count);
    const auto add = [&](int64_t begin, int64_t end, char* global) {
        if (begin < end)
            pieces.push_back({shared + static_cast<uint32_t>((begin - first) * element),
                              static_cast<uint32_t>((end - begin) * element), global});
    };
    add(first, from, nullptr);
    add(from, to, row == nullptr ? nullptr : row + from * element);
    add(to, first + count, nullptr);
}

// Swizzling exchanges 16-byte chunks: address bits 4 to 6 by bits 7 to 9 (fewer for 64 and 32).
uint32_t swizzled(uint32_t address, int swizzle) {
    const uint32_t chunks = static_cast<uint32_t>(swizzle) / 16;
    return swizzle == 0 ? address : address ^ ((address >> 7 & (chunks - 1)) << 4);
}

Pieces pieces_of(const TensorMap& map, uint32_t shared, int x, int y, Site site) {
    check_alignment("shared memory of a tensor copy", shared, 128, site);
    Pieces pieces;
    const int64_t width = int64_t{map.box_columns} * map.element_bytes;
    const int64_t run = map.swizzle == 0 ? width : 16, elements = run / map.element_bytes;
    for (int64_t i = 0; i < map.box_rows; ++i) {
        const int64_t row = y + i;
        char* from = row < 0 || row >= map.rows ? nullptr : map.data + row * map.row_bytes;
        for (int64_t j = 0; j < map.box_columns; j += elements) {
            // A box narrower than its swizzle still has rows of the swizzle's width.
            const int64_t pitch = map.swizzle == 0 ? width : map.swizzle;
            const uint32_t at = shared + static_cast<uint32_t>(i * pitch + j * map.element_bytes);
            add_run(pieces, swizzled(at, map.swizzle), from, x + j, elements, map.columns,
                    map.element_bytes);
        }
    }
    return pieces;
}

Operation start(const char* what, Site site) {
    if (!kRaceCheck) return {};
    Clock before;
    release(this_thread(), before);
    return executor->races.start(before, concat(what, " ", describe(site)));
}

void check_shared(const Pieces& pieces, bool write, const Operation* by) {
    for (const Piece& piece : pieces) check_access(piece.shared, piece.bytes, write, by);
}

void destroy(const Pieces& pieces) {
    for (const Piece& piece : pieces)
        std::memset(shared_pointer(piece.shared), kDestroyed, piece.bytes);
}

void land(const Pieces& pieces) {
    for (const Piece& piece : pieces) {
        if (piece.global == nullptr)
            std::memset(shared_pointer(piece.shared), 0, piece.bytes);
        else
            std::memcpy(shared_pointer(piece.shared), piece.global, piece.bytes);
    }
}

// Into the same place of each block: the copy is one operation, which lands in each on its own.
void load(const Pieces& pieces, uint64_t* barrier, const char* what, Site site,
          const std::vector<Block*>& blocks) {
    const Operation operation = start(what, site);
    const uint32_t address = shared_address(barrier);
    for (Block* block : blocks) {
        if (kRaceCheck && block != executor->block)
            block->from_outside[operation.agent] = operation.time;
        const BlockScope scope(*block);
        mbarrier_for_copy(address, site);
        check_shared(pieces, true, &operation);
        destroy(pieces);
    }
    uint32_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    const std::string name = concat(what, " ", describe(site));
    for (Block* block : blocks) {
        const BlockScope scope(*block);
        defer([pieces, address, bytes, operation, name] {
            const bool ended = executor->block->live == 0;
            if (ended || executor->block->mbarriers.count(address) == 0)
                abandon(name, " lands after its ", ended ? "block has ended" : "mbarrier has");
            land(pieces);
            deliver(address, bytes, operation);
        });
    }
}

void read_now(BulkStore& store) {
    if (std::exchange(store.read, true)) return;
    for (const Piece& piece : store.pieces) {
        const char* from = shared_pointer(piece.shared);
        store.content.insert(store.content.end(), from, from + piece.bytes);
    }
}

void write_now(BulkStore& store) {
    read_now(store);
    if (std::exchange(store.written, true)) return;
    const char* from = store.content.data();
    for (const Piece& piece : store.pieces) {
        std::memcpy(piece.global, from, piece.bytes);
        from += piece.bytes;
    }
}

void store(Pieces pieces, const char* what, Site site) {
    std::erase_if(pieces, [](const Piece& piece) { return piece.global == nullptr; });
    auto store = std::make_shared<BulkStore>();
    store->operation = start(what, site);
    check_shared(pieces, false, &store->operation);
    store->pieces = std::move(pieces);
    this_thread().queues.open_stores.push_back(store);
    defer([store] {
        read_now(*store);
        defer([store] { write_now(*store); });
    });
}

}  // namespace

void async_copy_16(void* shared, const void* global, bool inside, Site site) {
    const uint32_t address = shared_address(shared);
    check_alignment("shared memory of async_copy_16", address, 16, site);
    check_alignment("global memory of async_copy_16", reinterpret_cast<uintptr_t>(global), 16,
                    site);
    char* from = inside ? static_cast<char*>(const_cast<void*>(global)) : nullptr;
    const Pieces piece{{address, 16, from}};
    check_shared(piece, true, nullptr);
    destroy(piece);
    this_thread().queues.open_copies.push_back(piece[0]);
}

void async_copy_commit() {
    ThreadQueues& queues = this_thread().queues;
    queues.copies.push_back(std::exchange(queues.open_copies, {}));
}

void async_copy_wait(int pending) {
    std::deque<Pieces>& groups = this_thread().queues.copies;
    while (groups.size() > static_cast<size_t>(pending)) {
        check_shared(groups.front(), true,
                     nullptr);  // lands only now: who has read, read too early
        land(groups.front());
        groups.pop_front();
    }
}

void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier, Site site) {
    const uint32_t address = shared_address(shared);
    check_alignment("shared memory of bulk_load", address, 16, site);
    check_alignment("global memory of bulk_load", reinterpret_cast<uintptr_t>(global), 16, site);
    check_alignment("the size of bulk_load", bytes, 16, site);
    load({{address, bytes, static_cast<char*>(const_cast<void*>(global))}}, barrier, "bulk_load",
         site, {executor->block});
}

void bulk_store(void* global, const void* shared, uint32_t bytes, Site site) {
    const uint32_t address = shared_address(shared);
    check_alignment("shared memory of bulk_store", address, 16, site);
    check_alignment("global memory of bulk_store", reinterpret_cast<uintptr_t>(global), 16, site);
    check_alignment("the size of bulk_store", bytes, 16, site);
    store({{address, bytes, static_cast<char*>(global)}}, "bulk_store", site);
}

void tensor_load(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier, Site site) {
    load(pieces_of(map, shared_address(shared), x, y, site), barrier, "tensor_load", site,
         {executor->block});
}

void tensor_load_multicast(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier,
                           uint32_t ranks, Site site) {
    std::vector<Block*> blocks;
    for (uint32_t rest = ranks; rest != 0; rest &= rest - 1)
        blocks.push_back(&cluster_block(std::countr_zero(rest), site));
    load(pieces_of(map, shared_address(shared), x, y, site), barrier, "tensor_load", site, blocks);
}

void tensor_store(const TensorMap& map, int x, int y, const void* shared, Site site) {
    store(pieces_of(map, shared_address(shared), x, y, site), "tensor_store", site);
}

void bulk_commit() {
    ThreadQueues& queues = this_thread().queues;
    queues.stores.push_back(std::exchange(queues.open_stores, {}));
}

void bulk_wait(int pending, bool written) {
    const Thread& thread = this_thread();
    std::deque<StoreGroup>& groups = this_thread().queues.stores;
    const size_t keep = static_cast<size_t>(pending);
    for (size_t i = 0; i + keep < groups.size(); ++i)
        for (const auto& store : groups[i]) {
            written ? write_now(*store) : read_now(*store);
            if (kRaceCheck) executor->races.finish(store->operation, actor(thread));
        }
    while (groups.size() > keep) groups.pop_front();
}

void check_finished(const Thread& thread) {
    const ThreadQueues& queues = thread.queues;
    if (!queues.stores.empty() || !queues.open_stores.empty())
        abandon("exits before its bulk stores have read shared memory (bulk_wait_read<0>)");
    if (!queues.copies.empty() || !queues.open_copies.empty())
        abandon("exits with async_copy_16 under way (async_copy_wait<0>)");
    if (queues.wgmmas > queues.wgmmas_done) abandon("exits with wgmma under way (wgmma_wait<0>)");
}

}  // namespace fucina::simt
