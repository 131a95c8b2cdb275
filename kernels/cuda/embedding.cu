// The embedding's gradient: one block sorts tokens by id; then, for each id, one thread a column
// adds its tokens' rows. No atomics.
#include "kernels/cuda/embedding.h"

#include <bit>

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/leaf_tree.h"

namespace fucina::cuda {
namespace {

constexpr int kSortThreads = 1024, kSortWarps = kSortThreads / kWarpSize;
constexpr int kDigitBits = 4, kDigits = 1 << kDigitBits;
constexpr int kThreads = 256;

struct Sort {
    const int32_t* ids = nullptr;
    int32_t *keys = nullptr, *tokens = nullptr;  // sorted here after an even number of passes
    int32_t *other_keys = nullptr, *other_tokens = nullptr;
    int count = 0, vocabulary = 0, passes = 0;
};

// The lanes that have a value, the same digit as this one.
__device__ __forceinline__ uint32_t lanes_like(bool has, int digit) {
    uint32_t same = __ballot_sync(kAllLanes, has);
    for (int bit = 0; bit < kDigitBits; ++bit) {
        const uint32_t set = __ballot_sync(kAllLanes, digit >> bit & 1);
        same &= (digit >> bit & 1) != 0 ? set : ~set;
    }
    return same;
}

// Calls body(index, key, next[digit] + lanes of the digit before this one) for this warp's run of
// keys, 32 at a time, and moves next[digit] on.
template <class Body>
__device__ __forceinline__ void sweep(const int32_t* keys, int count, int shift, int* next,
                                      const Body& body) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int length = (count + kSortThreads - 1) / kSortThreads * kWarpSize;
    const int begin = static_cast<int>(threadIdx.x) / kWarpSize * length;
    const int end = begin + length < count ? begin + length : count;
    for (int first = begin; first < end; first += kWarpSize) {
        const int i = first + lane;
        const int key = i < end ? keys[i] : 0;
        const int digit = key >> shift & (kDigits - 1);
        const uint32_t same = lanes_like(i < end, digit);
        const int before = __popc(same & ((1u << lane) - 1));
        if (i < end) body(i, key, next[digit] + before);
        __syncwarp();
        if (i < end && before == 0) next[digit] += __popc(same);
        __syncwarp();
    }
}

// By digits of the id from the lowest, each time stable; ids outside the vocabulary come last.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(const Sort io) {
    using Counts = int[kSortWarps][kDigits];
    FUCINA_SHARED(Counts, counts);
    const int thread = static_cast<int>(threadIdx.x);
    int* const own_counts = counts[thread / kWarpSize];
    const bool has_count = thread < kSortWarps * kDigits;
    int& count = counts[thread % kSortWarps][has_count ? thread / kSortWarps : 0];
    int32_t *keys = io.keys, *tokens = io.tokens;
    int32_t *to_keys = io.other_keys, *to_tokens = io.other_tokens;
    for (int t = thread; t < io.count; t += kSortThreads) {
        const int id = io.ids[t];
        keys[t] = id >= 0 && id < io.vocabulary ? id : io.vocabulary;
        tokens[t] = t;
    }
    for (int pass = 0; pass < io.passes; ++pass) {
        const int shift = pass * kDigitBits;
        if (has_count) count = 0;
        __syncthreads();
        sweep(keys, io.count, shift, own_counts, [](int, int, int) {});
        __syncthreads();
        // Where each warp's values of each digit begin: digits first, then warps.
        const int64_t begin = block_prefix<kSortThreads>(has_count ? count : 0).before;
        if (has_count) count = static_cast<int>(begin);
        __syncthreads();
        sweep(keys, io.count, shift, own_counts, [&](int i, int key, int place) {
            to_keys[place] = key;
            to_tokens[place] = tokens[i];
        });
        __syncthreads();
        int32_t *const from_keys = keys, *const from_tokens = tokens;
        keys = to_keys, tokens = to_tokens;
        to_keys = from_keys, to_tokens = from_tokens;
    }
}

struct Table {
    const int32_t *keys = nullptr, *tokens = nullptr;  // sorted
    int64_t count = 0, vocabulary = 0;
    const int64_t* leaf_offsets = nullptr;
    int64_t leaves = 0;
    FloatRows d_out;
    Matrix<float> d_table;
    int64_t width = 0, blocks_a_row = 0;
};

__global__ void __launch_bounds__(kThreads) zero_kernel(const Table io) {
    const int64_t c = blockIdx.x % io.blocks_a_row * kThreads + threadIdx.x;
    if (c < io.width) io.d_table.row(blockIdx.x / io.blocks_a_row)[c] = 0;
}

// A block for each sorted token, of which the first of each id works. Each thread has a stack of
// partial sums.
__global__ void __launch_bounds__(kThreads) sum_kernel(const Table io) {
    FUCINA_DYNAMIC_SHARED(memory, 16);
    int64_t at = blockIdx.x / io.blocks_a_row;
    const int64_t c = blockIdx.x % io.blocks_a_row * kThreads + threadIdx.x;
    const int32_t id = io.keys[at];
    if (c >= io.width || id == io.vocabulary || (at > 0 && io.keys[at - 1] == id)) return;
    float* top = reinterpret_cast<float*>(memory) + threadIdx.x;
    float sum = 0;
    for (int64_t leaf = 0; leaf < io.leaves; ++leaf) {
        sum = 0;
        for (; at < io.count && io.keys[at] == id && io.tokens[at] < io.leaf_offsets[leaf + 1];
             ++at)
            sum += io.d_out.load<1>(io.tokens[at], c).at[0];
        for (int merge = merges_after_leaf(leaf, io.leaves); merge > 0; --merge) {
            top -= kThreads;
            sum = *top + sum;
        }
        *top = sum;
        top += kThreads;
    }
    io.d_table.row(id)[c] = sum;
}

}  // namespace

void embedding_backward(const Exec& exec, const Tensor& ids, const Tensor& d_out,
                        const LeafTree& tree, const Tensor& d_table) {
    const int64_t tokens = d_out.rows(), vocabulary = d_table.rows();
    FUCINA_CHECK(ids.contiguous() && vocabulary < INT32_MAX, "ids ", ids.describe(),
                 " of an embedding ", d_table.describe());
    if (d_table.size() == 0) return;
    const Tensor lists = exec.empty({4, tokens}, DType::i32);
    const Tensor leaf_offsets = tensor_of(exec, tree.offsets);
    int32_t* const scratch = lists.data<int32_t>();
    const int bits = static_cast<int>(std::bit_width(static_cast<uint32_t>(vocabulary)));
    const Sort sort{.ids = ids.data<int32_t>(),
                    .keys = scratch,
                    .tokens = scratch + tokens,
                    .other_keys = scratch + 2 * tokens,
                    .other_tokens = scratch + 3 * tokens,
                    .count = static_cast<int>(tokens),
                    .vocabulary = static_cast<int>(vocabulary),
                    .passes = (bits + kDigitBits - 1) / kDigitBits};
    const bool even = sort.passes % 2 == 0;
    const Table table{.keys = even ? sort.keys : sort.other_keys,
                      .tokens = even ? sort.tokens : sort.other_tokens,
                      .count = tokens,
                      .vocabulary = vocabulary,
                      .leaf_offsets = leaf_offsets.data<int64_t>(),
                      .leaves = leaf_offsets.rows() - 1,
                      .d_out = d_out,
                      .d_table = d_table,
                      .width = d_table.row_size(),
                      .blocks_a_row = (d_table.row_size() + kThreads - 1) / kThreads};
    LaunchConfig config{.grid = dim3(static_cast<unsigned>(vocabulary * table.blocks_a_row)),
                        .block = dim3(kThreads),
                        .stream = exec.stream};
    launch(zero_kernel, config, table);
    if (tokens == 0) return;
    launch(sort_kernel, {.grid = dim3(1), .block = dim3(kSortThreads), .stream = exec.stream},
           sort);
    config.grid = dim3(static_cast<unsigned>(tokens * table.blocks_a_row));
    config.smem = static_cast<size_t>(waiting_sums(table.leaves) + 1) * kThreads * sizeof(float);
    launch(sum_kernel, config, table);
}

}  // namespace fucina::cuda
