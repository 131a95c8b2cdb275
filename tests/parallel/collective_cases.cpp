#include "collective_cases.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <new>
#include <numeric>

#include "kernels/error.h"
#include "parallel/agreement.h"
#include "parallel/batch_plan.h"
#include "parallel/grad_reducer.h"

namespace fucina {
namespace {

std::span<std::byte> bytes(std::vector<int32_t>& values) {
    return std::as_writable_bytes(std::span(values));
}

void check_exchange(Communicator& communicator) {
    const int size = communicator.size(), rank = communicator.rank();
    // Rank a sends (a + 2 b) % 5 values 100 a + b to rank b, so some blocks are empty.
    const auto count = [](int a, int b) { return (a + 2 * b) % 5; };
    std::vector<int32_t> out, in, expected;
    std::vector<int64_t> send_counts, receive_counts;
    for (int peer = 0; peer < size; ++peer) {
        send_counts.push_back(4 * count(rank, peer));
        receive_counts.push_back(4 * count(peer, rank));
        out.insert(out.end(), static_cast<size_t>(count(rank, peer)), 100 * rank + peer);
        expected.insert(expected.end(), static_cast<size_t>(count(peer, rank)), 100 * peer + rank);
    }
    in.resize(expected.size());
    communicator.all_to_all_v(bytes(out), send_counts, bytes(in), receive_counts);
    FUCINA_CHECK(in == expected, "all_to_all_v on rank ", rank);
}

// Two collectives of each kind at once, with a blocking one and messages between, each kind's
// buffers of several sizes; then the same waited for late.
void check_started(Communicator& communicator) {
    const int size = communicator.size(), rank = communicator.rank();
    const auto ranks = static_cast<size_t>(size);
    for (const size_t length : {size_t{0}, size_t{3}, size_t{70}, size_t{1000}}) {
        const auto value = [](int from, int to, size_t i) {
            return 10000 * from + 100 * to + static_cast<int32_t>(i);
        };
        std::vector<int32_t> own(length), second(length), all(length * ranks), again(all);
        std::vector<int32_t> out(length * ranks), in(out);
        for (size_t i = 0; i < length; ++i) {
            own[i] = value(rank, 0, i);
            second[i] = -own[i];
            for (int to = 0; to < size; ++to)
                out[static_cast<size_t>(to) * length + i] = value(rank, to, i);
        }
        const std::vector<int64_t> counts(ranks, static_cast<int64_t>(4 * length));
        std::vector<std::vector<int32_t>> sent, got(2, std::vector<int32_t>(length));
        for (int32_t k = 0; k < 2; ++k) sent.emplace_back(length, 2 * rank + k);
        const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
        std::vector<std::unique_ptr<Request>> messages, collectives;
        if (size > 1)
            for (std::vector<int32_t>& place : got)
                messages.push_back(communicator.start_receive(bytes(place), previous, 5));
        collectives.push_back(communicator.start_all_gather(bytes(own), bytes(all)));
        collectives.push_back(
            communicator.start_all_to_all_v(bytes(out), counts, bytes(in), counts));
        collectives.push_back(communicator.start_all_gather(bytes(second), bytes(again)));
        std::vector<int64_t> sum{1};
        communicator.all_reduce_sum(sum);
        check_exchange(communicator);
        if (size > 1)
            for (std::vector<int32_t>& message : sent)
                messages.push_back(communicator.start_send(bytes(message), next, 5));
        for (const auto& request : collectives) request->wait();
        if (size > 1) std::swap(messages.front(), messages.back());
        for (const auto& request : messages) request->wait();
        for (int from = 0; from < size; ++from) {
            for (size_t i = 0; i < length; ++i) {
                const size_t at = static_cast<size_t>(from) * length + i;
                FUCINA_CHECK(all[at] == value(from, 0, i) && again[at] == -all[at] &&
                                 in[at] == value(from, rank, i),
                             "started collectives of ", length, " values, rank ", rank);
            }
        }
        for (int32_t k = 0; k < 2 && size > 1; ++k)
            FUCINA_CHECK(
                got[static_cast<size_t>(k)] == std::vector<int32_t>(length, 2 * previous + k),
                "message ", k, " of ", length, " values on rank ", rank);
    }
}

// What the body ends with on this rank: code and message, "" if it ends well.
template <class Body>
std::string failure_of(const Body& body) {
    try {
        body();
    } catch (const Error& error) {
        return concat(static_cast<int>(error.code()), " ", error.what());
    }
    return "";
}

// All ranks throw what the lowest failing one found, whatever was thrown there.
void check_agreement(Communicator& communicator) {
    const int failing = communicator.size() / 2;
    const std::string who = failing > 0 ? concat("rank ", failing, ": ") : "";
    const auto check = [&](const std::string& expected, const auto& thrown) {
        const std::string found = failure_of([&] {
            agree(communicator, [&] {
                if (communicator.rank() >= failing) throw thrown();
            });
        });
        FUCINA_CHECK(found == expected, found, " instead of ", expected);
    };
    FUCINA_CHECK(failure_of([&] { agree(communicator, [] {}); }).empty(), "a failure of nothing");
    check(concat("3 ", who, "it is ", failing),
          [&] { return Error(ExitCode::data, concat("it is ", communicator.rank())); });
    check(concat("1 ", who, "out of memory"), [] { return std::bad_alloc(); });
    check(concat("11 ", who, "filesystem error: gone: Input/output error"), [] {
        return std::filesystem::filesystem_error("gone", std::make_error_code(std::errc::io_error));
    });
}

// The last rank has another value, or a name that rank 0 has not.
void check_sameness(Communicator& communicator) {
    const int last = communicator.size() - 1;
    const auto differing = [&](const Facts& facts) {
        return failure_of([&] {
            require_same(communicator, communicator.rank() == last ? facts : Facts{{"a", "1"}},
                         ExitCode::usage, "do this");
        });
    };
    FUCINA_CHECK(differing({{"a", "1"}}).empty(), "the same differs");
    if (last == 0) return;
    const std::string who = concat("2 rank ", last, ": ");
    FUCINA_CHECK(differing({{"a", "2"}}) == who + "a is 2, on rank 0 1; do this", "values");
    FUCINA_CHECK(differing({{"a", "1"}, {"b", ""}}) == who + "b is , on rank 0 not set; do this",
                 "more");
    FUCINA_CHECK(differing({}) == who + "a is not set, on rank 0 1; do this", "less");
}

// Element i of grain g's leaf: floats whose sum depends on the order of addition.
float leaf_value(int64_t grain, int64_t i) {
    const auto mixed = static_cast<uint32_t>(grain * 7919 + i) * 2654435761u;
    return static_cast<float>(static_cast<int32_t>(mixed)) * 0x1p-27f;
}

void add(std::vector<float>& to, const std::vector<float>& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

// The oracle: all leaves of a node, added along the tree by its definition.
std::vector<float> node_sum(GrainRange node, int64_t elements) {
    if (node.count() == 1) {
        std::vector<float> leaf(static_cast<size_t>(elements));
        for (int64_t i = 0; i < elements; ++i) {
            leaf[static_cast<size_t>(i)] = leaf_value(node.begin, i);
        }
        return leaf;
    }
    std::vector<float> sum = node_sum(first_half(node), elements);
    add(sum, node_sum(second_half(node), elements));
    return sum;
}

// The same as integers of 2^-54: of all leaves, in any order.
std::vector<int64_t> integer_sum(GrainRange node, int64_t elements) {
    std::vector<int64_t> sum(static_cast<size_t>(elements));
    for (int64_t grain = node.end; grain-- > node.begin;)
        for (int64_t i = 0; i < elements; ++i)
            sum[static_cast<size_t>(i)] +=
                std::llrint(static_cast<double>(leaf_value(grain, i)) * 0x1p54);
    return sum;
}

std::vector<float> rounded(const std::vector<int64_t>& integers) {
    std::vector<float> sum;
    for (const int64_t value : integers) sum.push_back(static_cast<float>(value) * 0x1p-54f);
    return sum;
}

}  // namespace

void check_collectives(Communicator& communicator) {
    const int size = communicator.size(), rank = communicator.rank();
    std::vector<int32_t> own(37), all(37 * static_cast<size_t>(size)), expected;
    for (int r = 0; r < size; ++r) {
        for (int i = 0; i < 37; ++i) expected.push_back(1000 * r + i);
    }
    std::iota(own.begin(), own.end(), 1000 * rank);
    communicator.all_gather(bytes(own), bytes(all));
    FUCINA_CHECK(all == expected, "all_gather on rank ", rank);

    const int root = size - 1;
    communicator.broadcast(bytes(own), root);
    FUCINA_CHECK(own.front() == 1000 * root && own.back() == 1000 * root + 36, "broadcast");
    check_exchange(communicator);

    // Ranks of even and of odd number.
    const auto part = communicator.split(rank % 2);
    FUCINA_CHECK(part->rank() == rank / 2 && part->size() == (size + 1 - rank % 2) / 2,
                 "split: rank ", part->rank(), " of ", part->size());
    std::vector<int64_t> part_sum{rank}, expected_sum{0};
    part->all_reduce_sum(part_sum);
    for (int r = rank % 2; r < size; r += 2) expected_sum[0] += r;
    FUCINA_CHECK(part_sum == expected_sum, "the sum of a part is ", part_sum[0]);

    std::vector<int64_t> sums{rank, -rank, int64_t{1} << 40}, most{rank, -rank};
    communicator.all_reduce_sum(sums);
    communicator.all_reduce_max(most);
    const int64_t total = int64_t{size} * (size - 1) / 2;
    FUCINA_CHECK((sums == std::vector<int64_t>{total, -total, int64_t{size} << 40}), "sum");
    FUCINA_CHECK((most == std::vector<int64_t>{size - 1, 0}), "max");

    if (size > 1) {  // a ring, even ranks sending first
        std::vector<int32_t> message{rank, 7}, got(2);
        const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
        if (rank % 2 == 0) communicator.send(bytes(message), next, 3);
        communicator.receive(bytes(got), previous, 3);
        if (rank % 2 == 1) communicator.send(bytes(message), next, 3);
        FUCINA_CHECK(got[0] == previous && got[1] == 7, "ring");
    }
    check_started(communicator);
    check_agreement(communicator);
    check_sameness(communicator);
    communicator.barrier();
}

void mismatch(Communicator& communicator, int which) {
    const bool first = communicator.rank() == 0;
    std::vector<std::byte> buffer(1200);
    const auto part = [&](size_t bytes) { return std::span(buffer).first(bytes); };
    const auto message = [&](size_t sent, size_t expected) {
        if (first) return communicator.send(part(sent), 1, 0);
        if (communicator.rank() == 1) communicator.receive(part(expected), 0, 0);
    };
    std::vector<int64_t> values(first ? 3 : 2);
    const auto count = [&](int from, int to) { return from == 0 && to == 1 ? 40 : 44; };
    std::vector<int64_t> sends, receives(static_cast<size_t>(communicator.size()), 44);
    for (int r = 0; r < communicator.size(); ++r) sends.push_back(count(communicator.rank(), r));
    switch (which) {
        case 0:
            return message(8, 12);  // short
        case 1:
            return message(12, 8);  // long
        case 2:
            return message(0, 8);
        case 3:
            return message(8, 0);
        case 4:
            return message(150, 350);  // fewer pieces than expected
        case 5:
            return message(200, 100);  // whole pieces, one too many
        case 6:
            return communicator.broadcast(part(first ? 30 : 20), 0);
        case 7:
            return communicator.all_reduce_sum(values);
        default:
            communicator.all_to_all_v(
                part(static_cast<size_t>(std::accumulate(sends.begin(), sends.end(), int64_t{0}))),
                sends, part(44 * receives.size()), receives);
    }
}

void check_reducer(Communicator& communicator, int64_t grains, const GradReducer::Options& options,
                   bool early) {
    const Mesh mesh(communicator, {.data = communicator.size()});
    const std::vector<std::vector<int64_t>> shapes{{1}, {513}, {40, 1}, {100, 20}, {7}, {5, 3, 4}};
    std::vector<Parameter> parameters(shapes.size());
    std::vector<Parameter*> pointers;
    std::vector<int64_t> offsets{0};
    for (size_t i = 0; i < shapes.size(); ++i) {
        parameters[i].shape = shapes[i];
        parameters[i].box = whole_box(shapes[i]);
        if (i == 5) parameters[i].layout.expert = 0;
        pointers.push_back(&parameters[i]);
        offsets.push_back(offsets.back() + parameters[i].box.size());
    }
    const int64_t elements = offsets.back();
    const BatchPlan plan(grains, {.waves = false}, communicator.size());
    const GrainRange own = plan.share(0, communicator.rank());
    std::vector<bool> holds;
    for (int rank = 0; rank < communicator.size(); ++rank) holds.push_back(plan.holds(rank));
    // A rank without grains holds rubbish that must not count, or nothing.
    const std::vector<float> mine = own.count() > 0
                                        ? node_sum(own, elements)
                                        : std::vector<float>(static_cast<size_t>(elements), 1e30f);
    std::vector<int64_t> integers(static_cast<size_t>(elements), int64_t{1} << 62);
    if (own.count() > 0) integers = integer_sum(own, elements);
    const std::vector<float> expected = options.integers
                                            ? rounded(integer_sum({0, grains}, elements))
                                            : node_sum({0, grains}, elements);
    GradReducer reducer(mesh, pointers, options);
    for (int round = 0; round < 2; ++round) {
        size_t arrived = 0;
        reducer.begin(
            {.experts = true,
             .others = true,
             .experts_held = holds,
             .others_held = holds,
             .early = early,
             .done = [&](Parameter& parameter, size_t, const Tensor& sum) {
                 ++arrived;
                 const auto i = static_cast<size_t>(&parameter - parameters.data());
                 const Box box =
                     options.shards ? Holders(mesh, parameter).owned(parameter, communicator.rank())
                                    : parameter.box;
                 FUCINA_CHECK(sum.size() == box.size(), sum.size(), " elements");
                 for_each_run(parameter.shape, box, [&](int64_t first, int64_t at, int64_t n) {
                     FUCINA_CHECK(
                         std::memcmp(sum.data<float>() + at, expected.data() + offsets[i] + first,
                                     static_cast<size_t>(n) * 4) == 0,
                         "of ", grains, " grains on ", communicator.size(), " ranks: parameter ", i,
                         " from ", first, " on");
                 });
             }});
        const auto add = [&](size_t i) {
            Tensor sum = Tensor::empty(shapes[i], options.integers ? DType::i64 : DType::f32);
            const void* const from = options.integers
                                         ? static_cast<const void*>(integers.data() + offsets[i])
                                         : mine.data() + offsets[i];
            std::memcpy(sum.raw(), from, static_cast<size_t>(sum.bytes()));
            reducer.add(parameters[i], 0, std::move(sum));
        };
        // In another order than the buckets', which is no longer all if a rank has no grains.
        for (const size_t i : {4u, 5u, 2u, 3u, 1u, 0u})
            if (own.count() > 0 || i % 2 == 0) add(i);
        reducer.finish();
        FUCINA_CHECK(arrived == shapes.size(), arrived, " sums");
    }
}

void check_reducer(Communicator& communicator, int64_t grains, int64_t bucket_bytes) {
    for (const bool shards : {false, true}) {
        const bool early = shards == (bucket_bytes > 1000) && grains >= communicator.size();
        for (const bool integers : {false, true})
            if (integers || ranks_fit_tree(communicator.size(), {}))
                check_reducer(communicator, grains, {shards, integers, bucket_bytes}, early);
    }
}

}  // namespace fucina
