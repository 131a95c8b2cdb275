// Token maps: a stable counting sort of choices by expert, without atomics. One block a grain and
// expert counts its choices, one block makes offsets of the counts, and again one block a grain and
// expert fills its slots. In a block each warp has a run of choices.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/moe.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kOffsetThreads = 256;

struct Choices {
    const int32_t* experts_of = nullptr;     // [T, k]
    const int64_t* grain_offsets = nullptr;  // in tokens
    int64_t top_k = 0, experts = 0;
};

// What this block counts or fills.
struct Cell {
    int64_t grain = 0;
    int32_t expert = 0;
};
__device__ __forceinline__ Cell own_cell(const Choices& in) {
    return {blockIdx.x / in.experts, static_cast<int32_t>(blockIdx.x % in.experts)};
}

// Choices that this warp looks at, 32 at a time, lane after lane.
struct Run {
    int64_t begin = 0, end = 0;
};
__device__ __forceinline__ Run own_run(const Choices& in, int64_t grain) {
    const int64_t begin = in.grain_offsets[grain] * in.top_k;
    const int64_t end = in.grain_offsets[grain + 1] * in.top_k;
    const int64_t length =
        ((end - begin + kThreads - 1) / kThreads) * kWarpSize;  // of every warp's run
    const int64_t first = begin + threadIdx.x / kWarpSize * length;
    return {first, first + length < end ? first + length : end};
}

// Over the block: those of the threads before, in the order of warps, and all.
__device__ __forceinline__ Prefix count_run(const Choices& in, Run run, int32_t expert) {
    int64_t found = 0;
    for (int64_t i = run.begin + threadIdx.x % kWarpSize; i < run.end; i += kWarpSize)
        found += in.experts_of[i] == expert ? 1 : 0;
    return block_prefix<kThreads>(found);
}

__global__ void __launch_bounds__(kThreads) count_kernel(const Choices in, int64_t* counts) {
    const Cell cell = own_cell(in);
    const Prefix prefix = count_run(in, own_run(in, cell.grain), cell.expert);
    if (threadIdx.x == 0) counts[blockIdx.x] = prefix.total;
}

struct Offsets {
    const int64_t* counts = nullptr;  // [grains, E]
    const int64_t* room = nullptr;    // [grains, E], or null
    int64_t grains = 0, experts = 0;
    int64_t *expert_offsets = nullptr, *leaves = nullptr;
    int64_t* dropped = nullptr;  // null without room

    __device__ __forceinline__ int64_t taken(int64_t grain, int64_t expert) const {
        const int64_t cell = grain * experts + expert;
        return room != nullptr && room[cell] < counts[cell] ? room[cell] : counts[cell];
    }
};

// Each thread has a run of experts.
__global__ void __launch_bounds__(kOffsetThreads) offsets_kernel(const Offsets io) {
    const int64_t length = (io.experts + kOffsetThreads - 1) / kOffsetThreads;
    const int64_t first = threadIdx.x * length;
    const int64_t last = first + length < io.experts ? first + length : io.experts;
    int64_t all_taken = 0;
    for (int64_t expert = first; expert < last; ++expert) {
        int64_t dropped = 0;
        for (int64_t grain = 0; grain < io.grains; ++grain) {
            const int64_t taken = io.taken(grain, expert);
            all_taken += taken;
            dropped += io.counts[grain * io.experts + expert] - taken;
        }
        if (io.dropped != nullptr) io.dropped[expert] = dropped;
    }
    int64_t slot = block_prefix<kOffsetThreads>(all_taken).before;
    for (int64_t expert = first; expert < last; ++expert) {
        int64_t* const leaves = io.leaves + expert * (io.grains + 1);
        for (int64_t grain = 0; grain < io.grains; ++grain) {
            leaves[grain] = slot;
            slot += io.taken(grain, expert);
        }
        leaves[io.grains] = io.expert_offsets[expert + 1] = slot;
    }
    if (threadIdx.x == 0) io.expert_offsets[0] = 0;
}

struct Fill {
    Choices in;
    const int64_t* leaves = nullptr;
    int64_t grains = 0;
    int32_t *slot_token = nullptr, *slot_choice = nullptr, *choice_slot = nullptr;
};

__global__ void __launch_bounds__(kThreads) fill_kernel(const Fill io) {
    const Cell cell = own_cell(io.in);
    const Run run = own_run(io.in, cell.grain);
    const int64_t* const leaf = io.leaves + cell.expert * (io.grains + 1) + cell.grain;
    const int64_t before = count_run(io.in, run, cell.expert).before;
    int64_t slot = leaf[0] + __shfl_sync(kAllLanes, before, 0);
    const int lane = threadIdx.x % kWarpSize;
    for (int64_t first = run.begin; first < run.end; first += kWarpSize) {
        const int64_t choice = first + lane;
        const bool own = choice < run.end && io.in.experts_of[choice] == cell.expert;
        const uint32_t owned = __ballot_sync(kAllLanes, own);
        const int64_t place = slot + __popc(owned & ((1u << lane) - 1));
        slot += __popc(owned);
        if (!own) continue;
        const bool taken = place < leaf[1];
        io.choice_slot[choice] = taken ? static_cast<int32_t>(place) : -1;
        if (!taken) continue;
        io.slot_token[place] = static_cast<int32_t>(choice / io.in.top_k);
        io.slot_choice[place] = static_cast<int32_t>(choice);
    }
}

Choices choices_of(const Tensor& indices, const Tensor& grain_offsets, const Tensor& counts) {
    FUCINA_CHECK(indices.rank() == 2 && indices.contiguous() && counts.rank() == 2 &&
                     counts.contiguous() && grain_offsets.rows() == counts.rows() + 1,
                 "choices ", indices.describe(), " of grains ", grain_offsets.describe(), " to ",
                 counts.describe());
    return {.experts_of = indices.data<int32_t>(),
            .grain_offsets = grain_offsets.data<int64_t>(),
            .top_k = indices.row_size(),
            .experts = counts.row_size()};
}

LaunchConfig of_cells(const Tensor& counts, Stream stream) {
    return {.grid = dim3(static_cast<unsigned>(counts.size())),
            .block = dim3(kThreads),
            .stream = stream};
}

}  // namespace

void count_choices(const Exec& exec, const Tensor& indices, const Tensor& grain_offsets,
                   const Tensor& out) {
    const Choices in = choices_of(indices, grain_offsets, out);
    if (out.size() == 0) return;
    launch(count_kernel, of_cells(out, exec.stream), in, out.data<int64_t>());
}

TokenMap make_token_map(const Exec& exec, const Tensor& indices, int64_t experts,
                        const Tensor& grain_offsets, const Tensor& room) {
    const int64_t grains = grain_offsets.rows() - 1, choices = indices.size();
    FUCINA_CHECK(grains > 0 && experts > 0, "a token map of ", grains, " grains and ", experts,
                 " experts");
    const auto list = [&] { return exec.empty({choices}, DType::i32); };
    TokenMap map{.expert_offsets = exec.empty({experts + 1}, DType::i64),
                 .leaves = exec.empty({experts, grains + 1}, DType::i64),
                 .slot_token = list(),
                 .slot_choice = list(),
                 .choice_slot = list(),
                 .dropped = room.defined() ? exec.empty({experts}, DType::i64) : Tensor()};
    const Tensor counts = exec.empty({grains, experts}, DType::i64);
    count_choices(exec, indices, grain_offsets, counts);
    launch(offsets_kernel, {.grid = dim3(1), .block = dim3(kOffsetThreads), .stream = exec.stream},
           Offsets{.counts = counts.data<int64_t>(),
                   .room = room.data_or_null<int64_t>(),
                   .grains = grains,
                   .experts = experts,
                   .expert_offsets = map.expert_offsets.data<int64_t>(),
                   .leaves = map.leaves.data<int64_t>(),
                   .dropped = map.dropped.data_or_null<int64_t>()});
    launch(fill_kernel, of_cells(counts, exec.stream),
           Fill{.in = choices_of(indices, grain_offsets, counts),
                .leaves = map.leaves.data<int64_t>(),
                .grains = grains,
                .slot_token = map.slot_token.data<int32_t>(),
                .slot_choice = map.slot_choice.data<int32_t>(),
                .choice_slot = map.choice_slot.data<int32_t>()});
    if (room.defined()) {
        const int64_t slots =
            HostValues<int64_t>(exec, map.expert_offsets.slice(experts, experts + 1))[0];
        map.slot_token = map.slot_token.slice(0, slots);
        map.slot_choice = map.slot_choice.slice(0, slots);
    }
    return map;
}

}  // namespace fucina::cuda
