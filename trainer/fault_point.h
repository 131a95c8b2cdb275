// Named places where a test can end the process as a signal would, or let something fail there.
#pragma once
#include <string_view>

namespace fucina {

// FUCINA_FAULT="NAME[,rank=R][,nth=N][,signal=S][,throw=WHAT][,sleep=MS][,times=T]": the N-th time
// (default 1) that rank R (default 0) passes the point NAME it raises signal S (default 9, as kill
// -9 would), or throws WHAT: error (exit 11), memory, filesystem or other (no std::exception), or
// sleeps MS milliseconds then and each of the T times (default: always) from then on. Unset, this
// is one comparison.
void fault_point(std::string_view name, int rank);

// Whether the fault NAME happens here and now: the caller does what the name says.
bool fault_here(std::string_view name, int rank);

}  // namespace fucina
