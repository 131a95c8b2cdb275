// NcclCommunicator: ranks with a GPU each. Data may lie in device memory, which NCCL takes as it
// is, or in host memory, which goes through a copy on the device. NCCL and CUDA stay inside the
// .cpp.
//
// What NCCL is given waits for the work that the rank's compute stream has at that moment, and runs
// beside what that stream gets later. Waiting ends too when NCCL reports an error, such as that
// another rank died: the communicator is aborted then, and the Error names rank, call and what NCCL
// said. Ranks that make different calls may wait for ever; LedgerCommunicator finds them.
#pragma once
#include <memory>

#include "kernels/exec.h"
#include "parallel/communicator.h"

namespace fucina {

// Whether the program was linked with NCCL; without it, make_nccl_communicator does not exist.
#if defined(FUCINA_NCCL)
constexpr bool kWithNccl = true;
#else
constexpr bool kWithNccl = false;
#endif

// Collective over `ranks`, which carries what NCCL needs to begin and is not used after. device:
// this rank's alone, as NCCL lets no two ranks share one; it becomes the thread's, and all calls
// come from this thread.
//
// Messages (send, receive, and those started) have an order for each pair of ranks and no tags: the
// n-th that one sends is the n-th that the other receives. Those started are given to NCCL when one
// of them is waited for, all together, so that it does not matter which was started first; the wait
// is for all of them.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& ranks, int device,
                                                     Stream compute);

}  // namespace fucina
