// A Hugging Face directory's weights as a checkpoint of no steps (docs/formats.md, "Import"):
// streamed, resumable, in memory that does not grow with the model beyond the names of its tensors.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/transfer_progress.h"

namespace fucina {

struct ImportOptions {
    int64_t shard_bytes = 16'000'000'000;  // a file has at most so many, or one piece of 256 MiB
    int64_t threads = 1;                   // at most 8 are used
    TransferProgress::Say say = [](const std::string&) {};
};

struct Imported {
    int64_t tensors = 0, files = 0, bytes = 0;  // of weights, fp32
    int64_t kept = 0;                           // of them written by an earlier, interrupted import
    double seconds = 0;
    std::vector<std::string> notes;
};

// `out` must not be there, or be empty (exit 2). Everything is written into OUT.importing, which
// gets its name by one rename when all is on disk. What stands there of an earlier import of the
// same files is kept where its checksum is still right. Takes less than 512 MiB.
Imported import_model(const std::filesystem::path& from, const std::filesystem::path& out,
                      const ImportOptions& options);

}  // namespace fucina
