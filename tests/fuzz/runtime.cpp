// The runtime of fuzz targets, which compute nothing: one thread, and no kernels to choose from.
#include "kernels/runtime.h"

namespace fucina {

const Runtime& runtime() {
    static const Runtime one;
    return one;
}

}  // namespace fucina
