// Blocks: a collective as what this rank sends to each rank and where it puts what each sends.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fucina {

struct Blocks {
    std::vector<std::span<const std::byte>> to;  // [ranks]
    std::vector<std::span<std::byte>> from;      // [ranks]
};

// Of Communicator::all_gather and all_to_all_v on that rank of so many. Error(internal) where a
// buffer is too short for them.
Blocks gather_blocks(int ranks, std::span<const std::byte> in, std::span<std::byte> out);
Blocks exchange_blocks(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                       std::span<std::byte> out, std::span<const int64_t> receive_counts);

}  // namespace fucina
