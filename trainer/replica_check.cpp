#include "trainer/replica_check.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <vector>

#include "parallel/agreement.h"
#include "parallel/holders.h"
#include "parallel/host_name.h"

namespace fucina {
namespace {

std::vector<uint64_t> hashes_of(std::span<Parameter* const> parameters) {
    std::vector<uint64_t> hashes(parameters.size());
    const auto count = static_cast<int64_t>(parameters.size());
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) {
        const Parameter& parameter = *parameters[static_cast<size_t>(i)];
        const Tensor value = on_host(parameter.exec, parameter.master());
        hashes[static_cast<size_t>(i)] = XXH3_64bits(value.memory().data(), value.memory().size());
    }
    return hashes;
}

bool same_everywhere(Communicator& communicator, const std::vector<uint64_t>& hashes) {
    const auto digest =
        std::bit_cast<int64_t>(XXH3_64bits(hashes.data(), hashes.size() * sizeof(uint64_t)));
    std::array<int64_t, 2> most{digest, ~digest};
    communicator.all_reduce_max(most);
    return most[0] == ~most[1];
}

// by_rank: the hashes of one tensor.
std::string who_differs(const std::vector<uint64_t>& by_rank,
                        const std::vector<std::string>& names) {
    size_t most = 0;
    uint64_t usual = 0;
    for (const uint64_t hash : by_rank) {
        const auto count = static_cast<size_t>(std::count(by_rank.begin(), by_rank.end(), hash));
        if (count > most) {
            most = count;
            usual = hash;
        }
    }
    const bool majority = 2 * most > by_rank.size();
    std::string text;
    for (size_t r = 0; r < by_rank.size(); ++r) {
        if (majority && by_rank[r] == usual) continue;
        text += fmt::format("{}{} (hash {:016x})", text.empty() ? "" : ", ", names[r], by_rank[r]);
    }
    return majority ? fmt::format("{} against {} ranks (hash {:016x})", text, most, usual) : text;
}

// Among ranks that hold the same parts.
std::string difference_among(Communicator& communicator, std::span<Parameter* const> parameters,
                             int world_rank) {
    if (communicator.size() == 1) return "";
    const std::vector<uint64_t> own = hashes_of(parameters);
    if (same_everywhere(communicator, own)) return "";
    const auto ranks = static_cast<size_t>(communicator.size());
    std::vector<uint64_t> all(own.size() * ranks);
    communicator.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)));
    const std::vector<std::string> names =
        gather_texts(communicator, concat("rank ", world_rank, " on ", host_name()));
    for (size_t i = 0; i < own.size(); ++i) {
        std::vector<uint64_t> by_rank;
        for (size_t r = 0; r < ranks; ++r) by_rank.push_back(all[r * own.size() + i]);
        if (std::ranges::count(by_rank, by_rank[0]) == static_cast<int64_t>(ranks)) continue;
        return concat(parameters[i]->name, " differs: ", who_differs(by_rank, names));
    }
    FUCINA_CHECK(false, "the ranks' digests differ, their hashes do not");
}

// What the first stage of a pipeline and the last both hold.
std::string difference_of_ends(const Mesh& mesh, std::span<Parameter* const> parameters) {
    std::vector<Parameter*> shared;
    for (Parameter* parameter : parameters)
        if (parameter->layout.stage != parameter->layout.other_stage) shared.push_back(parameter);
    const std::vector<uint64_t> own = hashes_of(shared);
    const uint64_t digest = XXH3_64bits(own.data(), own.size() * sizeof(uint64_t));
    std::vector<uint64_t> all(static_cast<size_t>(mesh.shape().pipeline));
    mesh.pipeline().all_gather(std::as_bytes(std::span(&digest, 1)),
                               std::as_writable_bytes(std::span(all)));
    if (shared.empty() || all.front() == all.back()) return "";
    return concat(shared[0]->name, " differs between the first stage and the last, rank ",
                  mesh.rank(), " on ", host_name(), " being of one of them");
}

}  // namespace

std::string replica_difference(const Mesh& mesh, std::span<Parameter* const> parameters) {
    std::map<Communicator*, std::vector<Parameter*>> held;
    for (Parameter* parameter : parameters)
        for (Communicator* holders : master_holders(mesh, *parameter))
            held[holders].push_back(parameter);
    std::string difference;
    for (Communicator* holders : {&mesh.tensor(), &mesh.data(), &mesh.expert_data()}) {
        const std::string found = difference_among(*holders, held[holders], mesh.rank());
        if (difference.empty()) difference = found;
    }
    // Where ranks of a stage disagree, these name the odd one; between two stages nobody can.
    difference = first_text(mesh.world(), difference);
    if (!difference.empty()) return difference;
    return first_text(mesh.world(), difference_of_ends(mesh, parameters));
}

}  // namespace fucina
