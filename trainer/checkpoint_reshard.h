// A checkpoint's tensors in other files: as many as one likes, whatever the layout that wrote them.
#pragma once
#include <cstdint>
#include <filesystem>

#include "trainer/transfer_progress.h"

namespace fucina {

struct Reshard {
    std::filesystem::path from, out;  // checkpoint directories; out must not be there
    int64_t files = 1;
    bool weights_only = false;  // without the optimizer's moments: a model, no run to go on with
    TransferProgress::Say say = {};
};

// Reads each byte twice, first for its checksum; some MiB a thread in memory, whatever the size.
// out gets its name when all is on disk. Gives the bytes written. Fails with exit 2 where out is
// there, 3 where `from` is damaged, 11 where the disk refuses.
int64_t reshard_checkpoint(const Reshard& request);

}  // namespace fucina
