// Named places where a test can end the process as a signal would, or let something fail there.
#pragma once
#include <string_view>

namespace fucina {

// FUCINA_FAULT="NAME[,rank=R][,nth=N][,signal=S][,throw=WHAT]": the N-th time (default 1) that rank
// R (default 0) passes the point NAME it raises signal S (default 9, as kill -9 would), or throws
// WHAT: error (exit 11), memory, filesystem or other (no std::exception). Unset, this is one
// comparison.
void fault_point(std::string_view name, int rank);

}  // namespace fucina
