// Named places where a test can end the process as kill -9 would.
#pragma once
#include <string_view>

namespace fucina {

// FUCINA_FAULT="NAME[,rank=R][,nth=N]" kills rank R (default 0) the N-th time (default 1) that it
// passes the point NAME. Unset, this is one comparison.
void fault_point(std::string_view name, int rank);

}  // namespace fucina
