// Ranks whose tensors lie on a GPU, over a communicator that carries the host's memory: what lies
// on the device goes through the host, in the order of its stream.
#pragma once
#include <memory>

#include "parallel/communicator.h"

namespace fucina {

// inner must outlive what is returned.
std::unique_ptr<Communicator> make_staged_communicator(Communicator& inner, const Exec& exec);

}  // namespace fucina
