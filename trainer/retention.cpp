#include "trainer/retention.h"

#include <fmt/format.h>
#include <unistd.h>

#include "data/file.h"
#include "kernels/error.h"
#include "trainer/checkpoint.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

bool is_valid(const fs::path& dir) {
    try {
        read_manifest(dir);
        return true;
    } catch (const Error&) {
        return false;
    }
}

}  // namespace

std::vector<fs::path> beyond(const fs::path& run_dir, int64_t keep, const fs::path& known) {
    std::vector<fs::path> old;
    int64_t kept = 0;
    for (const fs::path& dir : list_checkpoints(run_dir)) {
        if (kept < keep)
            kept += dir == known || is_valid(dir) ? 1 : 0;
        else if (dir != known)
            old.push_back(dir);
    }
    return old;
}

fs::path to_trash(const fs::path& dir) {
    const fs::path trash = dir.string() + fmt::format(".trash-{}", getpid());
    rename_path(dir, trash);
    return trash;
}

void empty_trash(const fs::path& parent, const std::vector<fs::path>& trash) {
    if (trash.empty()) return;
    sync_directory(parent);
    for (const fs::path& dir : trash) remove_tree(dir);
}

std::vector<fs::path> prune_checkpoints(const fs::path& run_dir, int64_t keep) {
    const std::vector<fs::path> old = beyond(run_dir, keep);
    std::vector<fs::path> trash;
    for (const fs::path& dir : old) trash.push_back(to_trash(dir));
    empty_trash(run_dir / "checkpoints", trash);
    return old;
}

}  // namespace fucina
