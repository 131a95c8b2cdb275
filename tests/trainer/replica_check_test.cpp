// Guards against replicas that drift apart unseen: every bit of every parameter counts, and the odd
// rank is named.
#include "trainer/replica_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/error.h"
#include "parallel/host_name.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

struct Flip {
    int rank;
    size_t parameter;
    int64_t byte;
    int bit;
};

// What all ranks hear of three parameters that are the same but for the flips.
std::string difference(int ranks, const std::vector<Flip>& flips) {
    std::vector<std::string> heard(static_cast<size_t>(ranks));
    run_on_threads(ranks, [&](Communicator& communicator) {
        std::vector<Parameter> parameters(3);
        std::vector<Parameter*> pointers;
        for (size_t i = 0; i < parameters.size(); ++i) {
            parameters[i].name = "p" + std::to_string(i);
            parameters[i].trained = i != 2;  // the router's bias moves too
            parameters[i].value = Tensor::empty({3, 7}, DType::f32);
            std::memset(parameters[i].value.raw(), static_cast<int>(i),
                        static_cast<size_t>(parameters[i].value.bytes()));
            pointers.push_back(&parameters[i]);
        }
        for (const Flip& flip : flips) {
            if (flip.rank != communicator.rank()) continue;
            parameters[flip.parameter].value.raw()[flip.byte] ^=
                static_cast<std::byte>(1 << flip.bit);
        }
        heard[static_cast<size_t>(communicator.rank())] =
            replica_difference(Mesh(communicator, {.data = communicator.size()}), pointers);
    });
    for (const std::string& text : heard) EXPECT_EQ(text, heard[0]);
    return heard[0];
}

TEST(ReplicaCheck, IsSilentAboutTheSame) {
    for (const int ranks : {1, 2, 4}) EXPECT_EQ(difference(ranks, {}), "");
}

TEST(ReplicaCheck, SeesEveryBit) {
    for (size_t parameter = 0; parameter < 3; ++parameter) {
        for (int64_t byte = 0; byte < 3 * 7 * 4; ++byte) {
            const std::string text =
                difference(2, {{0, parameter, byte, static_cast<int>(byte % 8)}});
            EXPECT_EQ(text.substr(0, 11), "p" + std::to_string(parameter) + " differs:") << byte;
        }
    }
}

TEST(ReplicaCheck, NamesTheOddRankAndTheFirstTensor) {
    const std::string host = host_name();
    const auto expect = [&](const std::string& text, const std::string& before) {
        EXPECT_EQ(text.substr(0, before.size()), before) << text;
    };
    expect(difference(4, {{2, 2, 5, 1}, {2, 1, 9, 0}}),
           "p1 differs: rank 2 on " + host + " (hash ");
    EXPECT_NE(difference(4, {{2, 1, 9, 0}}).find("against 3 ranks (hash "), std::string::npos);
    const std::string of_two = difference(2, {{1, 0, 0, 0}});
    expect(of_two, "p0 differs: rank 0 on " + host);
    EXPECT_NE(of_two.find(", rank 1 on " + host), std::string::npos);
    EXPECT_EQ(of_two.find("against"), std::string::npos);
    const std::string two_odd = difference(5, {{1, 0, 0, 0}, {4, 0, 0, 1}});
    EXPECT_NE(two_odd.find("rank 1 on"), std::string::npos);
    EXPECT_NE(two_odd.find("rank 4 on"), std::string::npos);
    EXPECT_NE(two_odd.find("against 3 ranks"), std::string::npos);
}

// A table that the first stage of a pipeline and the last hold, and a weight of each stage alone.
// Data-parallel ranks of a stage that drift together agree with each other.
std::string difference_in_pipeline(int stages, const std::vector<int>& odd, const char* drifts) {
    const MeshShape shape{.pipeline = stages, .data = 2};
    std::vector<std::string> heard(static_cast<size_t>(shape.ranks()));
    run_on_threads(shape.ranks(), [&](Communicator& communicator) {
        const int stage = shape.pipeline_index(communicator.rank());
        Parameter table{.name = "table"}, own{.name = "own"};
        table.layout.other_stage = stages - 1;
        own.layout.stage = own.layout.other_stage = stage;
        std::vector<Parameter*> held{&own};
        if (table.layout.on_stage(stage)) held.push_back(&table);
        for (Parameter* parameter : held) {
            parameter->value = Tensor::empty({5}, DType::f32);
            parameter->value.zero();
            if (parameter == &own) parameter->value.raw()[0] = static_cast<std::byte>(stage);
            if (parameter->name == drifts && std::ranges::count(odd, communicator.rank()) > 0)
                parameter->value.raw()[7] = std::byte{1};
        }
        heard[static_cast<size_t>(communicator.rank())] =
            replica_difference(Mesh(communicator, shape), held);
    });
    for (const std::string& text : heard) EXPECT_EQ(text, heard[0]);
    return heard[0];
}

TEST(ReplicaCheck, ComparesWhatTwoStagesHold) {
    for (const int stages : {2, 3}) {
        const int last = 2 * (stages - 1);  // the first rank of the last stage
        EXPECT_EQ(difference_in_pipeline(stages, {}, ""), "");
        for (const std::vector<int>& odd : {std::vector{0, 1}, {last, last + 1}})
            EXPECT_EQ(difference_in_pipeline(stages, odd, "table").substr(0, 53),
                      "table differs between the first stage and the last, r");
        EXPECT_EQ(difference_in_pipeline(stages, {last + 1}, "table").substr(0, 14),
                  "table differs:");
        // Each stage has weights of its own, which only its own ranks are to agree on.
        EXPECT_EQ(difference_in_pipeline(stages, {0, 1}, "own"), "");
        EXPECT_EQ(difference_in_pipeline(stages, {1}, "own").substr(0, 12), "own differs:");
    }
}

}  // namespace
}  // namespace fucina
