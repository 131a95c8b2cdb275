// A block's shared memory: one arena in which every variable is followed by a red zone. It begins
// as NaN in every float format, and dynamic memory is aligned exactly as promised, never better.
#include <algorithm>
#include <cstdlib>

#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

constexpr unsigned char kFill = 0xff;
constexpr size_t kArenaAlignment = 1 << 18;
static_assert(kArenaBytes <= kArenaAlignment);

// Blocks of a cluster have one layout: where another has the variable, or what is free in all.
uint32_t first_free(const void* declaration) {
    uint32_t used = kArenaBase;
    for (const auto& block : executor->blocks) {
        for (const SharedVariable& variable : block->variables)
            if (variable.declaration == declaration) return variable.begin;
        used = std::max(used, block->used);
    }
    return used;
}

uint32_t first_address(const Block& block) {
    return static_cast<uint32_t>(block.rank) * kArenaBytes;
}

int allocate(const SharedVariable& named, size_t bytes, size_t align, bool no_better) {
    Block& block = *executor->block;
    const uint32_t step = static_cast<uint32_t>(align);
    uint32_t begin = (first_free(named.declaration) + step - 1) / step * step;
    if (no_better && begin % (2 * step) == 0) begin += step;
    const uint32_t end = begin + static_cast<uint32_t>(bytes);
    if (end + kRedZone > kArenaBytes) abandon("shared memory is exhausted by ", named.name);
    const int index = static_cast<int>(block.variables.size());
    block.variables.push_back({named.declaration, named.name, begin, end});
    std::fill(block.owner.begin() + begin, block.owner.begin() + end, static_cast<int16_t>(index));
    block.used = std::max(block.used, end + kRedZone);
    if (kRaceCheck) executor->races.cover(first_address(block) + end);
    return index;
}

void* pointer(const Block& block, int index) {
    return block.arena.get() + block.variables[static_cast<size_t>(index)].begin;
}

void check_bounds(const Block& block, uint32_t address, size_t bytes, bool write) {
    const int16_t owner = block.owner[address];
    if (owner >= 0 && block.owner[address + bytes - 1] == owner) return;
    const SharedVariable* nearest = nullptr;  // the last one that begins at or before the access
    for (const SharedVariable& variable : block.variables)
        if (variable.begin <= address) nearest = &variable;
    if (nearest == nullptr) abandon("access below all shared variables");
    abandon(write ? "writes " : "reads ", bytes, " bytes at offset ", address - nearest->begin,
            " of shared ", nearest->name, ", which has ", nearest->end - nearest->begin);
}

void complain(const Block& block, const Conflict& conflict, bool write, const Operation* by) {
    const std::string byte = name_shared(block, conflict.address - first_address(block));
    const std::string who = by == nullptr ? "" : name_of_actor(by->agent) + " ";
    if (conflict.kind == Conflict::Kind::never_written)
        abandon(who, "reads ", byte, ", which was never written");
    const std::string other = name_of_actor(conflict.other);
    if (conflict.kind == Conflict::Kind::not_fenced)
        abandon(who, "accesses ", byte, ", which ", other, " wrote, without fence_proxy_async");
    abandon("race on ", byte, ": ", by == nullptr ? "this " : "the ", write ? "write" : "read",
            by == nullptr ? "" : " by " + name_of_actor(by->agent), " is not ordered after a ",
            conflict.other_wrote ? "write" : "read", " by ", other);
}

}  // namespace

char* shared_pointer(uint32_t address) {
    return executor->block->arena.get() + address;
}

uint32_t shared_address(const void* pointer) {
    const size_t offset =
        static_cast<size_t>(reinterpret_cast<uintptr_t>(pointer) -
                            reinterpret_cast<uintptr_t>(executor->block->arena.get()));
    if (offset < kArenaBase || offset >= executor->block->used)
        abandon("a pointer into shared memory is wanted; this one is elsewhere");
    return static_cast<uint32_t>(offset);
}

std::string name_shared(const Block& block, uint32_t address) {
    const int16_t owner = block.owner[address];
    if (owner < 0) return concat("shared address ", address);
    const SharedVariable& variable = block.variables[static_cast<size_t>(owner)];
    return concat("byte ", address - variable.begin, " of shared ", variable.name);
}

void check_access(uint32_t address, size_t bytes, bool write, const Operation* by) {
    Block& block = *executor->block;
    check_bounds(block, address, bytes, write);
    if (!kRaceCheck) return;
    const uint32_t count = static_cast<uint32_t>(bytes);
    const uint32_t at = first_address(block) + address;
    RaceDetector& races = executor->races;
    const auto conflict = by == nullptr ? races.access(actor(this_thread()), at, count, write)
                                        : races.access(*by, at, count, write);
    if (conflict) complain(block, *conflict, write, by);
}

void reset_shared_memory(Block& block) {
    auto& arena = block.arena;
    if (arena == nullptr) {
        arena.reset(static_cast<char*>(std::aligned_alloc(kArenaAlignment, kArenaAlignment)));
        block.used = kArenaBytes;
        block.owner.resize(kArenaBytes);
    }
    std::memset(arena.get(), kFill, block.used);
    std::fill(block.owner.begin(), block.owner.begin() + block.used, int16_t{-1});
    block.variables.clear();
    block.used = kArenaBase;
    block.static_bytes = 0;
    block.dynamic = -1;
}

void check_red_zones(const Block& block) {
    const unsigned char* arena = reinterpret_cast<unsigned char*>(block.arena.get());
    for (const SharedVariable& variable : block.variables)
        for (uint32_t at = variable.end; at < variable.end + kRedZone; ++at)
            if (arena[at] != kFill)
                throw Error(concat("a write at offset ", at - variable.begin, " of shared ",
                                   variable.name, ", which has ", variable.end - variable.begin));
}

void* static_shared(const void* declaration, const char* name, size_t bytes, size_t align) {
    Block& block = *executor->block;
    for (size_t i = 0; i < block.variables.size(); ++i)
        if (block.variables[i].declaration == declaration)
            return pointer(block, static_cast<int>(i));
    block.static_bytes += static_cast<uint32_t>(bytes);
    if (block.static_bytes > kStaticLimit)
        abandon("static shared memory of ", block.static_bytes, " bytes, allowed are ",
                kStaticLimit);
    return pointer(block, allocate({declaration, name}, bytes, align, false));
}

void* dynamic_shared(const char* name, size_t align) {
    Block& block = *executor->block;
    if (block.dynamic < 0) block.dynamic = allocate({nullptr, name}, block.shape.smem, align, true);
    if (block.variables[static_cast<size_t>(block.dynamic)].begin % align != 0)
        abandon("dynamic shared memory ", name, " is declared with two alignments");
    return pointer(block, block.dynamic);
}

}  // namespace fucina::simt
