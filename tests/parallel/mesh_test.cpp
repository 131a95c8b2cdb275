// Guards against parts of a tensor that overlap, leave gaps or are copied to the wrong place, and
// against communicators of the wrong ranks.
#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/error.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

constexpr std::array<int64_t, 3> kShape{4, 3, 5};

Box box(std::vector<int64_t> offset, std::vector<int64_t> extent) {
    return {std::move(offset), std::move(extent)};
}

// The numbers of a box's elements in the whole tensor, in the order of the box.
std::vector<int32_t> elements(const Box& part) {
    std::vector<int32_t> numbers;
    for (int64_t i = 0; i < part.extent[0]; ++i)
        for (int64_t j = 0; j < part.extent[1]; ++j)
            for (int64_t k = 0; k < part.extent[2]; ++k)
                numbers.push_back(static_cast<int32_t>(
                    ((part.offset[0] + i) * kShape[1] + part.offset[1] + j) * kShape[2] +
                    part.offset[2] + k));
    return numbers;
}

const std::vector<Box> kBoxes{box({0, 0, 0}, {4, 3, 5}), box({1, 0, 0}, {2, 3, 5}),
                              box({1, 1, 0}, {2, 2, 5}), box({0, 2, 3}, {4, 1, 2}),
                              box({3, 0, 4}, {1, 3, 1}), box({2, 1, 1}, {1, 1, 3})};

TEST(Layout, RunsOfABoxAreItsElementsInOrder) {
    for (const Box& part : kBoxes) {
        std::vector<int32_t> numbers;
        for_each_run(kShape, part, [&](int64_t first, int64_t local, int64_t count) {
            EXPECT_EQ(local, static_cast<int64_t>(numbers.size()));
            for (int64_t i = 0; i < count; ++i) numbers.push_back(static_cast<int32_t>(first + i));
        });
        EXPECT_EQ(numbers, elements(part));
    }
}

TEST(Layout, CopiesWhatTwoBoxesShare) {
    for (const Box& from : kBoxes) {
        for (const Box& to : kBoxes) {
            const std::vector<int32_t> source = elements(from), numbers = elements(to);
            std::vector<int32_t> target(numbers.size(), -1);
            copy_shared(from, reinterpret_cast<const std::byte*>(source.data()), to,
                        reinterpret_cast<std::byte*>(target.data()), sizeof(int32_t));
            for (size_t i = 0; i < numbers.size(); ++i) {
                const bool shared = std::ranges::find(source, numbers[i]) != source.end();
                EXPECT_EQ(target[i], shared ? numbers[i] : -1);
            }
            const auto both = intersection(from, to);
            EXPECT_EQ(both ? both->size() : 0,
                      std::ranges::count_if(target, [](int32_t x) { return x >= 0; }));
        }
    }
}

TEST(Mesh, ExpertsNeedNotDivide) {
    const std::array<int64_t, 3> shape{7, 2, 3};
    const MeshShape mesh{.data = 8, .expert = 4};
    for (int group = 0; group < 2; ++group) {
        int64_t next = 0;
        for (int rank = 4 * group; rank < 4 * (group + 1); ++rank) {
            const Box part = box_of(shape, {.expert = 0}, mesh, rank);
            EXPECT_EQ(part.offset, (std::vector<int64_t>{next, 0, 0}));
            next += part.extent[0];
        }
        EXPECT_EQ(next, 7);
    }
    EXPECT_EQ(box_of(shape, {}, mesh, 5), whole_box(shape));
}

TEST(Mesh, GroupsAreThoseOfItsAxes) {
    run_on_threads(8, [](Communicator& world) {
        const Mesh mesh(world, {.data = 8, .expert = 2});
        const int rank = world.rank();
        EXPECT_EQ(mesh.expert().size(), 2);
        EXPECT_EQ(mesh.expert().rank(), rank % 2);
        EXPECT_EQ(mesh.expert_data().size(), 4);
        EXPECT_EQ(mesh.expert_data().rank(), rank / 2);
        std::vector<int64_t> sum{rank};
        mesh.expert().all_reduce_sum(sum);
        EXPECT_EQ(sum[0], 4 * (rank / 2) + 1);
        sum = {rank};
        mesh.expert_data().all_reduce_sum(sum);
        EXPECT_EQ(sum[0], 12 + 4 * (rank % 2));
    });
}

TEST(Mesh, AFailureReachesThoseWhoWaitInAPart) {
    try {
        run_on_threads(4, [](Communicator& world) {
            const Mesh mesh(world, {.data = 4, .expert = 4});
            if (world.rank() == 2) fail(ExitCode::data, "it is 2");
            mesh.expert().barrier();
        });
        FAIL() << "nothing was thrown";
    } catch (const Error& error) {
        EXPECT_STREQ(error.what(), "it is 2");
    }
}

}  // namespace
}  // namespace fucina
