// Ranks whose tensors lie on their GPUs.
#pragma once
#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace fucina {

struct DeviceRanks {
    std::unique_ptr<Communicator> ranks;
    std::string note;  // why NCCL is not used, though the program has it; else empty
};

// Collective. The n-th rank of a machine takes the n-th GPU that it sees, from the first again
// where there are too few. Where every rank has one of its own and the program has NCCL,
// collectives go that way; else all goes through the host. Throws Error(usage) on all ranks where
// one finds no GPU that the program can use.
DeviceRanks make_device_ranks(Communicator& ranks);

}  // namespace fucina
