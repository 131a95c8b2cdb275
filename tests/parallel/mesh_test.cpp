// Guards against parts of a tensor that overlap, leave gaps or are copied to the wrong place, and
// against communicators of the wrong ranks.
#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/error.h"
#include "parallel/thread_communicator.h"
#include "parallel/weight_gatherer.h"

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

// Every element of what data-parallel ranks, or ranks with the same experts, hold has one owner
// among them.
TEST(Mesh, OwnersTileWhatRanksHold) {
    const MeshShape mesh{.data = 4, .tensor = 2, .expert = 4};
    const std::vector<std::pair<std::vector<int64_t>, Layout>> cases{{{70}, {}},
                                                                     {{300, 40}, {}},
                                                                     {{2, 100, 40}, {}},
                                                                     {{5, 40}, {}},
                                                                     {{7, 2, 3, 4}, {.expert = 0}},
                                                                     {{2, 140, 3}, {.tensor = 1}},
                                                                     {{70, 6}, {.tensor = 1}},
                                                                     {{9, 3, 4}, {.expert = 0}}};
    for (const auto& [shape, layout] : cases) {
        std::vector<int> owners(static_cast<size_t>(whole_box(shape).size()), 0);
        for (int rank = 0; rank < mesh.ranks(); ++rank) {
            const Box held = box_of(shape, layout, mesh, rank);
            const Box owned = owned_box(shape, layout, mesh, rank);
            if (owned.size() > 0) {
                EXPECT_EQ(intersection(owned, held), owned);
            }
            for_each_run(shape, owned, [&](int64_t first, int64_t, int64_t count) {
                for (int64_t i = 0; i < count; ++i) ++owners[static_cast<size_t>(first + i)];
            });
        }
        // What tensor-parallel ranks have alike has an owner for each of their indices.
        const int expected = layout.expert < 0 && layout.tensor < 0 ? mesh.tensor : 1;
        EXPECT_EQ(std::ranges::count(owners, expected), std::ssize(owners)) << shape.size();
    }
}

TEST(WeightGatherer, GivesEveryoneWhatOthersOwn) {
    for (const int64_t bucket_bytes : {int64_t{64}, int64_t{1} << 20}) {
        run_on_threads(4, [&](Communicator& world) {
            const Mesh mesh(world, {.data = 4, .expert = 2});
            std::vector<Parameter> parameters(3);
            const std::vector<std::vector<int64_t>> shapes{{100, 7}, {2, 70, 3}, {5, 4, 6}};
            std::vector<Parameter*> pointers;
            const auto value = [](size_t i, int64_t element) {
                return static_cast<float>(1000 * i) + static_cast<float>(element);
            };
            for (size_t i = 0; i < parameters.size(); ++i) {
                Parameter& parameter = parameters[i];
                parameter.shape = shapes[i];
                if (i == 2) parameter.layout.expert = 0;
                parameter.box =
                    box_of(parameter.shape, parameter.layout, mesh.shape(), world.rank());
                parameter.value = Tensor::empty(parameter.box.extent, DType::f32);
                parameter.value.zero();
                const Box owned =
                    owned_box(parameter.shape, parameter.layout, mesh.shape(), world.rank());
                std::vector<float> mine(static_cast<size_t>(owned.size()));
                for_each_run(parameter.shape, owned, [&](int64_t first, int64_t at, int64_t n) {
                    for (int64_t e = 0; e < n; ++e)
                        mine[static_cast<size_t>(at + e)] = value(i, first + e);
                });
                copy_shared(owned, reinterpret_cast<const std::byte*>(mine.data()), parameter.box,
                            parameter.value.raw(), 4);
                pointers.push_back(&parameter);
            }
            WeightGatherer(mesh, pointers, bucket_bytes).gather();
            for (size_t i = 0; i < parameters.size(); ++i) {
                const Parameter& parameter = parameters[i];
                for_each_run(
                    parameter.shape, parameter.box, [&](int64_t first, int64_t at, int64_t n) {
                        for (int64_t e = 0; e < n; ++e)
                            EXPECT_EQ(parameter.value.data<float>()[at + e], value(i, first + e));
                    });
            }
        });
    }
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

// Stages, data and tensor indices, and experts over both of the latter.
TEST(Mesh, AllAxesTogether) {
    const MeshShape shape{.pipeline = 2, .data = 4, .tensor = 2, .expert = 4};
    EXPECT_EQ(shape.expert_sources(), 2);
    EXPECT_EQ(shape.expert_data(), 2);
    run_on_threads(shape.ranks(), [&](Communicator& world) {
        const Mesh mesh(world, shape);
        const int rank = world.rank();
        const auto members = [&](Communicator& group) {
            std::vector<int> ranks(static_cast<size_t>(group.size()));
            group.all_gather(std::as_bytes(std::span(&rank, 1)),
                             std::as_writable_bytes(std::span(ranks)));
            return ranks;
        };
        const int stage = rank / 8 * 8, t = rank % 2;
        EXPECT_EQ(members(mesh.pipeline()), (std::vector{rank % 8, rank % 8 + 8}));
        EXPECT_EQ(members(mesh.data()),
                  (std::vector{stage + t, stage + t + 2, stage + t + 4, stage + t + 6}));
        EXPECT_EQ(members(mesh.tensor()), (std::vector{rank - t, rank - t + 1}));
        const int group = rank / 4 * 4, place = rank % 4;
        EXPECT_EQ(members(mesh.expert()), (std::vector{group, group + 1, group + 2, group + 3}));
        EXPECT_EQ(members(mesh.expert_data()), (std::vector{stage + place, stage + place + 4}));
        EXPECT_EQ(shape.data_index(rank), rank % 8 / 2);
        for (int index = 0; index < 4; ++index)
            EXPECT_EQ(shape.data_peer(rank, index), stage + 2 * index + t);
        EXPECT_EQ(shape.expert_data_peer(rank, 1), stage + 4 + place);
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
