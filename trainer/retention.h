// Which checkpoints of a run stay, and how others go: each disappears by a rename first, durably,
// so that neither a kill nor a crash leaves half of it under its own name.
#pragma once
#include <filesystem>
#include <vector>

namespace fucina {

// Checkpoints to be removed so that the `keep` newest valid ones stay. Damaged ones do not count;
// they stay as long as they are not older than the ones kept. `known` is valid, and stays.
std::vector<std::filesystem::path> beyond(const std::filesystem::path& run_dir, int64_t keep,
                                          const std::filesystem::path& known = {});

// Gives a directory another name, which remove_leftovers knows, and returns it.
std::filesystem::path to_trash(const std::filesystem::path& dir);

// parent: the directory that they are in.
void empty_trash(const std::filesystem::path& parent,
                 const std::vector<std::filesystem::path>& trash);

}  // namespace fucina
