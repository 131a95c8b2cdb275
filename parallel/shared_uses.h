// The embedding's table is used on the first stage of a pipeline and, by a tied head and by MTP, on
// the last: both hold it, and update it alike.
#pragma once
#include <span>

#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace fucina {

// Collective over the stages that hold one of the parameters. Each stage gives the other those
// gradients of uses that it makes (Parameter::makes), which are whole, so that both can add
// all of them in the order of uses.
void exchange_uses(Communicator& pipeline, std::span<Parameter* const> parameters);

}  // namespace fucina
