// wgmma: a warpgroup's product of two tiles in shared memory. From the first instruction until the
// wait the accumulators read as NaN; operands are read when options.lateness says so, at the latest
// at the first wait. Races are judged as of the moment when the last of the 128 threads has issued:
// the instruction follows only what all four warps know, and a thread's wait tells it of its own
// warp's part alone.
#include <algorithm>
#include <array>

#include "tests/simt/executor.h"
#include "tests/simt/tensor_core.h"

namespace fucina::simt {
namespace {

constexpr int kRows = 64, kWarpgroup = 128;
constexpr uint32_t kChunk = 16;  // bytes that lie together whatever the layout

// A matrix descriptor (PTX ISA, "Matrix Descriptor Format").
struct Tile {
    uint32_t start = 0, leading = 0, stride = 0, swizzle = 0;
};

Tile decode(uint64_t descriptor, Site site) {
    constexpr uint32_t kSwizzles[] = {0, 128, 64, 32};
    const auto field = [&](int bit) {
        return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4;
    };
    const Tile tile{field(0), field(16), field(32), kSwizzles[descriptor >> 62]};
    if ((descriptor >> 49 & 7) != 0)
        abandon("wgmma ", describe(site), ": base offset not modelled");
    if (tile.swizzle != 0 && tile.start % (8 * tile.swizzle) >= std::max(tile.swizzle, 128u))
        abandon("wgmma ", describe(site), ": a tile at ", name_shared(*executor->block, tile.start),
                " does not begin where its swizzle's pattern of ", 8 * tile.swizzle, " bytes does");
    return tile;
}

// Address of 16 bytes: of row `row`, chunk `chunk` of k if K-major; of k = row, chunk `chunk` of m
// if MN-major. PTX ISA, "Canonical Layouts"; T is 16 bytes.
uint32_t chunk_address(const Tile& tile, bool mn_major, uint32_t row, uint32_t chunk) {
    const uint32_t width = tile.swizzle / kChunk;  // chunks of a pattern's row
    uint32_t at = tile.start + row / 8 * tile.stride;
    if (width == 0 && !mn_major) return at + row % 8 * kChunk + chunk * tile.leading;
    if (width == 0)
        return tile.start + row / 8 * tile.leading + row % 8 * kChunk + chunk * tile.stride;
    at += row % 8 * tile.swizzle;
    at += mn_major ? chunk / width * tile.leading + chunk % width * kChunk : chunk * kChunk;
    return at ^ (at >> 7 & (width - 1)) << 4;
}

struct Extent {
    uint32_t rows, chunks;  // of memory
};
Extent extent_of(bool mn_major, int rows) {
    return mn_major ? Extent{16, static_cast<uint32_t>(rows) / 8}
                    : Extent{static_cast<uint32_t>(rows), kOperandRowBytes / kChunk};
}

void check_tile(const Tile& tile, bool mn_major, int rows, const Operation& by) {
    const Extent extent = extent_of(mn_major, rows);
    for (uint32_t row = 0; row < extent.rows; ++row)
        for (uint32_t chunk = 0; chunk < extent.chunks; ++chunk)
            check_access(chunk_address(tile, mn_major, row, chunk), kChunk, false, &by);
}

// As rows of 32 bytes of k.
std::vector<uint8_t> read_tile(const Tile& tile, bool mn_major, int rows) {
    std::vector<uint8_t> out(static_cast<size_t>(rows) * kOperandRowBytes);
    const Extent extent = extent_of(mn_major, rows);
    for (uint32_t row = 0; row < extent.rows; ++row)
        for (uint32_t chunk = 0; chunk < extent.chunks; ++chunk) {
            const char* from = shared_pointer(chunk_address(tile, mn_major, row, chunk));
            if (!mn_major) {
                std::memcpy(&out[row * kOperandRowBytes + chunk * kChunk], from, kChunk);
                continue;
            }
            for (uint32_t i = 0; i < 8; ++i)
                std::memcpy(&out[(chunk * 8 + i) * kOperandRowBytes + row * 2], from + 2 * i, 2);
        }
    return out;
}

// Where register i of thread t lies in the 64 x n matrix (PTX ISA, "Matrix Fragments").
size_t place(int thread, int i, int n) {
    const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
    const int column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
    return static_cast<size_t>(row * n + column);
}

Warpgroup& group_of(const Thread& thread) {
    return executor->block->warpgroups[static_cast<size_t>(thread.id) / kWarpgroup];
}

Wgmma& number(Warpgroup& group, uint64_t index) {
    return group.under_way[index - group.first];
}

// The accumulator of which these registers are the thread's part, by an instruction under way.
std::shared_ptr<Accumulator> held(const Thread& thread, Warpgroup& group, int lane,
                                  const float* d) {
    for (uint64_t i = thread.queues.wgmmas; i > thread.queues.wgmmas_done; --i) {
        const auto& accumulator = number(group, i - 1).accumulator;
        if (accumulator->registers[lane] == d) return accumulator;
    }
    return nullptr;
}

void take_registers(Accumulator& accumulator, int lane, int n, float* d) {
    accumulator.registers[lane] = d;
    for (int i = 0; i < n / 2; ++i) {
        accumulator.values[place(lane, i, n)] = d[i];
        d[i] = std::bit_cast<float>(0x7fffffffu);
    }
}

void execute(Wgmma& wgmma) {
    if (std::exchange(wgmma.done, true)) return;
    const WgmmaShape& shape = wgmma.shape;
    const std::vector<uint8_t> a = read_tile(decode(shape.a, shape.site), shape.a_mn_major, kRows);
    const std::vector<uint8_t> b =
        read_tile(decode(shape.b, shape.site), shape.b_mn_major, shape.n);
    std::vector<float>& d = wgmma.accumulator->values;
    if (!shape.accumulate) std::fill(d.begin(), d.end(), 0.0f);
    tensor_core_multiply(shape.type, shape.n, a.data(), b.data(), d.data());
}

void execute_until(Warpgroup& group, uint64_t end) {
    for (uint64_t i = group.first; i < end; ++i) execute(number(group, i));
}

// What all four warps know.
Clock common(const Clock (&clocks)[4]) {
    Clock all = clocks[0];
    for (int warp = 1; warp < 4; ++warp) {
        const auto lower = [](uint32_t a, uint32_t b) { return std::min(a, b); };
        std::transform(all.known.begin(), all.known.end(), clocks[warp].known.begin(),
                       all.known.begin(), lower);
        std::transform(all.fenced.begin(), all.fenced.end(), clocks[warp].fenced.begin(),
                       all.fenced.begin(), lower);
    }
    return all;
}

void all_have_issued(Warpgroup& group, uint64_t index) {
    Wgmma& wgmma = number(group, index);
    const WgmmaShape& shape = wgmma.shape;
    if (kRaceCheck)
        wgmma.operation =
            executor->races.start(common(wgmma.before), concat("wgmma ", describe(shape.site)));
    check_tile(decode(shape.a, shape.site), shape.a_mn_major, kRows, wgmma.operation);
    check_tile(decode(shape.b, shape.site), shape.b_mn_major, shape.n, wgmma.operation);
    const bool now = options.lateness == Lateness::early ||
                     (options.lateness == Lateness::random && executor->random() % 2 == 0);
    if (now) execute_until(group, index + 1);
    for (Thread* thread : group.waiting) wake(*thread);
    group.waiting.clear();
}

// Gives the thread its results, unless a later instruction already has the registers.
void retire(Thread& thread, Warpgroup& group, uint64_t index) {
    Wgmma& wgmma = number(group, index);
    const int lane = thread.id % kWarpgroup, n = wgmma.shape.n;
    bool last = true;
    for (uint64_t i = index + 1; i < thread.queues.wgmmas; ++i)
        last = last && number(group, i).accumulator != wgmma.accumulator;
    float* d = wgmma.accumulator->registers[lane];
    for (int i = 0; last && i < n / 2; ++i) d[i] = wgmma.accumulator->values[place(lane, i, n)];
    if (kRaceCheck) executor->races.finish(wgmma.operation, actor(thread), lane / 32);
    ++wgmma.retired;
    while (!group.under_way.empty() && group.under_way.front().retired == kWarpgroup) {
        group.under_way.pop_front();
        ++group.first;
    }
}

void check_whole(const Thread& thread, Site site) {
    const size_t last = (static_cast<size_t>(thread.id) / kWarpgroup + 1) * kWarpgroup;
    if (last > executor->block->threads.size())
        abandon("wgmma ", describe(site), " in a warpgroup of less than 128 threads");
}

}  // namespace

void check_tile_start(const void* start, Site site) {
    if (shared_address(start) % kChunk != 0)
        abandon("matrix_descriptor ", describe(site), " of a tile that is not aligned to 16 bytes");
}

void wgmma_fence(Site site) {
    check_whole(this_thread(), site);
    this_thread().queues.wgmma_fenced = true;
}

void wgmma(const WgmmaShape& shape, float* d) {
    Thread& thread = this_thread();
    check_whole(thread, shape.site);
    if (!thread.queues.wgmma_fenced)
        abandon("wgmma ", describe(shape.site), " without wgmma_fence since registers were free");
    Warpgroup& group = group_of(thread);
    const int lane = thread.id % kWarpgroup;
    auto accumulator = held(thread, group, lane, d);
    const uint64_t index = thread.queues.wgmmas++;
    if (index == group.first + group.under_way.size()) {
        group.under_way.emplace_back().shape = shape;
        group.under_way.back().accumulator = accumulator;
        if (accumulator == nullptr) {
            auto fresh = std::make_shared<Accumulator>();
            fresh->values.resize(static_cast<size_t>(kRows * shape.n));
            group.under_way.back().accumulator = fresh;
        }
    }
    Wgmma& wgmma = number(group, index);
    if (wgmma.shape != shape)
        abandon("divergent warpgroup: wgmma ", describe(shape.site), " is not the one of ",
                describe(wgmma.shape.site), ", or has other operands");
    if (accumulator == nullptr) take_registers(*wgmma.accumulator, lane, shape.n, d);
    if (wgmma.accumulator->registers[lane] != d)
        abandon("divergent warpgroup: wgmma ", describe(shape.site), " with other accumulators");
    // .sync.aligned: the warp issues as one, and its first lane speaks for it.
    if (lane % 32 == 0) release(thread, wgmma.before[lane / 32]);
    if (++wgmma.issued == kWarpgroup) all_have_issued(group, index);
}

void wgmma_commit() {
    ThreadQueues& queues = this_thread().queues;
    queues.commits.push_back(queues.wgmmas);
}

void wgmma_wait(int pending) {
    Thread& thread = this_thread();
    ThreadQueues& queues = thread.queues;
    Warpgroup& group = group_of(thread);
    while (queues.commits.size() > static_cast<size_t>(pending)) {
        const uint64_t end = queues.commits.front();
        while (end > queues.wgmmas_done && number(group, end - 1).issued < kWarpgroup) {
            group.waiting.push_back(&thread);
            wait_until_woken(Thread::Wait::wgmma);
        }
        execute_until(group, end);
        while (queues.wgmmas_done < end) retire(thread, group, queues.wgmmas_done++);
        queues.commits.pop_front();
    }
    queues.wgmma_fenced = false;
}

}  // namespace fucina::simt
