// Ranks whose tensors lie on a GPU, over a communicator that carries the host's memory: what lies
// on the device goes through the host, in the order of its stream. Collectives of bytes may go to a
// communicator of the devices instead; sums of integers, which the host has, and messages do not.
// Messages between devices have no buffer: a stage of a pipeline would wait for the receiver.
#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace fucina {

// inner must outlive what is returned. collectives: of the same ranks, or null.
std::unique_ptr<Communicator> make_staged_communicator(
    Communicator& inner, const Exec& exec, std::unique_ptr<Communicator> collectives = nullptr);

}  // namespace fucina
