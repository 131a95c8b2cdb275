// A pipeline of TMA, mbarriers, wgmma and named barriers gives the right sums under every schedule,
// and each injected bug is named (the race build, which is the default) or spoils the sums.
#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <vector>

#include "tests/simt/every_order.h"
#include "tests/simt/executor.h"
#include "tests/simt/hopper_kernels.h"

namespace fucina::simt {
namespace {

using cuda::Fault;
using cuda::kPipelineColumns;
using cuda::kPipelineDepth;
using cuda::kPipelineRows;

uint16_t bf16(float value) {
    return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}
float fp32(uint16_t value) {
    return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// Small whole numbers, whose sums bf16 holds.
std::vector<uint16_t> whole(size_t count, size_t step) {
    std::vector<uint16_t> values(count);
    for (size_t i = 0; i < count; ++i)
        values[i] = bf16(i * step % 31 == 0 ? static_cast<float>(i * 7 % 5) - 2.0f : 0.0f);
    return values;
}

class Pipeline : public testing::TestWithParam<Options> {
  protected:
    std::string run(Fault fault) {
        y_.assign(kPipelineRows * kPipelineColumns, 0);
        return message_of([&] { cuda::pipeline(fault, a_.data(), b_.data(), y_.data()); });
    }
    bool correct() const {
        for (size_t r = 0; r < kPipelineRows; ++r)
            for (size_t c = 0; c < kPipelineColumns; ++c) {
                float want = 0;
                for (size_t k = 0; k < kPipelineDepth; ++k)
                    want += fp32(a_[r * kPipelineDepth + k]) * fp32(b_[c * kPipelineDepth + k]);
                if (fp32(y_[r * kPipelineColumns + c]) != want) return false;
            }
        return true;
    }

    OrderScope scope_{GetParam()};
    std::vector<uint16_t> a_ = whole(kPipelineRows * kPipelineDepth, 3);
    std::vector<uint16_t> b_ = whole(kPipelineColumns * kPipelineDepth, 1);
    std::vector<uint16_t> y_;
};
INSTANTIATE_TEST_SUITE_P(Simt, Pipeline, testing::ValuesIn(every_order()), order_name);

TEST_P(Pipeline, GivesTheSums) {
    EXPECT_EQ(run(Fault::none), "");
    EXPECT_TRUE(correct());
}

struct Injected {
    Fault fault;
    const char* message;  // "": the sums are wrong
};
// Named without the race build too.
const Injected kNamedAlways[] = {
    {Fault::no_fence_after_init, "without fence_mbarrier_init"},
    {Fault::no_init, "no mbarrier was initialised at byte"},
    {Fault::init_twice, "is initialised again"},
    {Fault::mbarrier_overwritten, "was overwritten"},
    {Fault::expects_one_more, "and 1 bytes missing"},
    {Fault::no_arrival, "1 of 1 arrivals and -16384 bytes missing"},
    {Fault::no_wgmma_fence, "without wgmma_fence"},
    {Fault::fence_once, "without wgmma_fence"},
    {Fault::accumulator_read_early, ""},
    {Fault::three_warps_multiply, "not all 128 threads of its warpgroup have issued"},
    {Fault::other_descriptor, "divergent warpgroup: wgmma pipeline_kernel.cu:"},
    {Fault::swizzle_off_pattern, "does not begin where its swizzle's pattern of 1024 bytes does"},
    {Fault::no_swizzle_in, ""},
    {Fault::no_swizzle_out, ""},
    {Fault::wrong_accumulator_layout, ""},
    {Fault::exit_with_store, "exits before its bulk stores have read"},
    {Fault::barrier_counts_differ, "threads, others came for"},
    {Fault::producer_wrong_parity, "deadlock: "},
};
const Injected kNamedByRaces[] = {
    {Fault::no_barrier_after_init, "mbarrier"},
    {Fault::consumer_wrong_parity, "pipeline_kernel.cu:"},
    {Fault::producer_never_waits, "pipeline_kernel.cu:"},
    {Fault::consumer_never_waits, "wgmma pipeline_kernel.cu:"},
    {Fault::expects_too_little, "tensor_load pipeline_kernel.cu:"},
    {Fault::one_warp_waits, "wgmma pipeline_kernel.cu:"},
    {Fault::slot_freed_before_wait, "is not ordered after a read by wgmma"},
    {Fault::no_wgmma_wait, "wgmma"},
    {Fault::one_thread_frees, "is not ordered after a read by wgmma"},
    {Fault::staging_reused, "is not ordered after a read by tensor_store"},
    {Fault::no_proxy_fence, "without fence_proxy_async"},
    {Fault::no_barrier_before_store, "tensor_store pipeline_kernel.cu:"},
    {Fault::too_many_arrivals, ""},
    {Fault::load_after_end, ""},
};

TEST_P(Pipeline, NamesEveryInjectedBug) {
    const auto expect = [&](const Injected& bug) {
        const std::string message = run(bug.fault);
        const int number = static_cast<int>(bug.fault);
        if (*bug.message == 0)
            EXPECT_TRUE(message != "" || !correct()) << "fault " << number;
        else
            EXPECT_NE(message.find(bug.message), std::string::npos)
                << "fault " << number << ": '" << message << "' lacks '" << bug.message << "'";
        EXPECT_EQ(run(Fault::none), "") << "after fault " << number;
    };
    for (const Injected& bug : kNamedAlways) expect(bug);
    if (!kRaceCheck) return;
    for (const Injected& bug : kNamedByRaces) expect(bug);
}

}  // namespace
}  // namespace fucina::simt
