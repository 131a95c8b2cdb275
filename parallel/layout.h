// Layout: where the elements of a parameter are, by the axes of the mesh.
#pragma once

namespace fucina {

struct Layout {
    int expert = -1;  // the dimension of experts, which the expert axis cuts; -1: none
};

}  // namespace fucina
