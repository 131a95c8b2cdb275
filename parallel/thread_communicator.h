// ThreadCommunicator: ranks that are threads of one process, for tests of everything that
// communicates.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace fucina {

// One communicator a thread; the group lives as long as any of them.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size);

// Runs body(communicator) on `size` threads and joins them. The exception that came first is thrown
// again; ranks that would wait for one that threw end too.
void run_on_threads(int size, const std::function<void(Communicator&)>& body);

}  // namespace fucina
