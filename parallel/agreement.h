// Failing together: what one rank finds wrong, every rank throws.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/error.h"
#include "parallel/communicator.h"

namespace fucina {

// Collective. Runs body on every rank; if it throws anywhere, whatever it is, all ranks throw that
// of the lowest such rank as an Error that names the rank, if it is not the first. body must make
// no collective call that a failing rank would miss.
void agree(Communicator& communicator, const std::function<void()>& body);

// Collective. The text of the lowest rank whose text is not empty.
std::string first_text(Communicator& communicator, std::string text);

// Collective. Every rank's text, by rank.
std::vector<std::string> gather_texts(Communicator& communicator, const std::string& text);

// Collective. What must be the same on every rank, as (name, value) pairs: all ranks fail with
// `code` unless it is, naming what differs first and both values. `otherwise`: what to do.
using Facts = std::vector<std::pair<std::string, std::string>>;
void require_same(Communicator& communicator, const Facts& facts, ExitCode code,
                  const std::string& otherwise);

}  // namespace fucina
