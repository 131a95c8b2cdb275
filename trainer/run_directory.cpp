#include "trainer/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "kernels/error.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = "lock";

bool is_old_run(const fs::path& path) {
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(path, none)) {
        if (entry.path().filename() != kLockName) return true;
    }
    return false;
}

// Where a link leads, so that moving an old run aside leaves the link as it is.
fs::path behind_links(fs::path path) {
    if (!path.has_filename()) path = path.parent_path();  // a last slash
    for (int links = 0; links < 40 && fs::is_symlink(path); ++links) {
        const fs::path target = fs::read_symlink(path);
        path = path.parent_path() / target;
    }
    return path;
}

// "process 12 on host", as the holder wrote it.
std::string holder_of(const FileDescriptor& lock) {
    char text[256];
    const ssize_t length = pread(lock.get(), text, sizeof text, 0);
    return length > 0 ? std::string(text, static_cast<size_t>(length)) : "another process";
}

// The locked file, or a failure naming the holder.
FileDescriptor take_lock(const fs::path& path) {
    const fs::path name = path / kLockName;
    FileDescriptor lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!lock) {
        fail(errno == ENOSPC ? ExitCode::storage : ExitCode::usage, name.string(),
             ": cannot open: ", std::strerror(errno));
    }
    if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        fail(ExitCode::usage, path.string(), " is in use by ", holder_of(lock),
             "; wait for it, stop it, or choose another run.dir");
    }
    return lock;
}

FileDescriptor claim(const fs::path& path) {
    FileDescriptor lock = take_lock(path);
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const std::string text = fmt::format("process {} on {}", getpid(), host);
    // Only a courtesy to whoever finds the directory locked.
    if (ftruncate(lock.get(), 0) == 0 && pwrite(lock.get(), text.data(), text.size(), 0) < 0) {
        errno = 0;
    }
    return lock;
}

void check_not_in_use(const fs::path& path) {
    if (fs::exists(path / kLockName)) take_lock(path);
}

}  // namespace

void RunDirectory::check_free(const fs::path& path, bool fresh) {
    if (!fs::exists(path)) return;
    if (!fs::is_directory(path)) {
        fail(ExitCode::usage, "run.dir ", path.string(), " is a file; choose another");
    }
    check_not_in_use(path);
    if (!fresh && is_old_run(path)) {
        fail(ExitCode::usage, "run.dir ", path.string(),
             " holds an earlier run; continue it with `fucina resume ", path.string(),
             "`, or begin anew with --fresh, which moves it aside");
    }
}

RunDirectory RunDirectory::create(const fs::path& path, bool fresh, std::string& moved_to) {
    check_free(path, fresh);
    const fs::path real = behind_links(path);
    try {
        if (fs::exists(real) && is_old_run(real)) {
            int n = 1;
            while (fs::exists(fmt::format("{}.old-{}", real.string(), n))) ++n;
            moved_to = fmt::format("{}.old-{}", real.string(), n);
            rename_path(real, moved_to);
        }
        make_directories(real);
    } catch (const StorageError& error) {
        if (error.number() == ENOSPC) throw;
        fail(ExitCode::usage, "run.dir: ", error.what());
    } catch (const fs::filesystem_error& error) {
        fail(ExitCode::usage, "run.dir: ", error.what());
    }
    return RunDirectory(path, claim(path));
}

RunDirectory RunDirectory::open(const fs::path& path) {
    if (!fs::is_directory(path)) {
        fail(ExitCode::no_checkpoint, path.string(),
             ": no such run directory; `fucina train RECIPE` makes one");
    }
    // A folder that no run made is left as it is, without a lock in it.
    const char* made[] = {kLockName, "recipe.resolved.toml", "checkpoints"};
    if (std::none_of(std::begin(made), std::end(made),
                     [&](const char* name) { return fs::exists(path / name); })) {
        fail(ExitCode::no_checkpoint, path.string(),
             " is no run directory: recipe.resolved.toml and checkpoints are missing; "
             "`fucina train RECIPE` makes one");
    }
    return RunDirectory(path, claim(path));
}

bool RunDirectory::take_request(const char* name) const {
    return unlink((path_ / name).c_str()) == 0;
}

}  // namespace fucina
