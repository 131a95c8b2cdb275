// Failing together: what one rank finds wrong, every rank throws.
#pragma once
#include <functional>

#include "parallel/communicator.h"

namespace fucina {

// Collective. Runs body on every rank; if it throws Error anywhere, all ranks throw the Error of
// the lowest such rank. body must make no collective call that a failing rank would miss.
void agree(Communicator& communicator, const std::function<void()>& body);

}  // namespace fucina
