#include "data/file_calls.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>

namespace fucina {
namespace {

namespace fs = std::filesystem;

// One call moves at most this much, below the 2 GiB that Linux allows.
constexpr size_t kLargestTransfer = size_t{1} << 30;

std::atomic<FileWatch*> g_watch{nullptr};

// Makes the call unless the watch lets it fail; returns errno, or 0. `call` returns the descriptor
// concerned or 0, and -1 with errno.
template <class Call>
int attempt(FileCall kind, const fs::path& path, const Call& call) {
    FileWatch* watch = g_watch.load();
    if (watch != nullptr) {
        if (const int number = watch->before(kind, path)) return number;
    }
    int result = 0;
    do {
        result = call();
    } while (result < 0 && errno == EINTR);
    if (result < 0) return errno;
    if (watch != nullptr) watch->after(kind, path, result);
    return 0;
}

template <class... Parts>
void check(int number, const fs::path& path, const Parts&... what) {
    if (number == 0) return;
    throw StorageError(number,
                       concat(path.string(), ": cannot ", what..., ": ", std::strerror(number)));
}

}  // namespace

void watch_files(FileWatch* watch) {
    g_watch = watch;
}

ExitCode read_failure(int number) {
    for (const int mendable :
         {ENOENT, ENOTDIR, EACCES, EPERM, ELOOP, ENAMETOOLONG, EISDIR, ENXIO}) {
        if (number == mendable) return ExitCode::data;
    }
    return ExitCode::storage;
}

FileDescriptor open_file(const fs::path& path, int flags) {
    FileDescriptor file;
    const int number = attempt(FileCall::read, path, [&] {
        file = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
        return file.get();
    });
    if (number != 0) {
        fail(read_failure(number), path.string(), ": cannot open: ", std::strerror(number),
             number == EMFILE ? "; raise the limit, `ulimit -n`" : "");
    }
    return file;
}

int64_t read_at(const FileDescriptor& file, const fs::path& path, int64_t offset,
                std::span<std::byte> into) {
    size_t done = 0;
    bool ended = false;
    while (done < into.size() && !ended) {
        const size_t wanted = std::min(into.size() - done, kLargestTransfer);
        const int number = attempt(FileCall::read, path, [&] {
            const ssize_t got = ::pread(file.get(), into.data() + done, wanted,
                                        offset + static_cast<int64_t>(done));
            if (got < 0) return -1;
            done += static_cast<size_t>(got);
            ended = got == 0;
            return file.get();
        });
        if (number != 0) {
            fail(read_failure(number), path.string(), ": cannot read: ", std::strerror(number));
        }
    }
    return static_cast<int64_t>(done);
}

FileDescriptor create_file(const fs::path& path, int flags, const fs::path& shown) {
    FileDescriptor file;
    check(attempt(FileCall::create, shown,
                  [&] {
                      file =
                          FileDescriptor(::open(path.c_str(), O_CREAT | O_CLOEXEC | flags, 0666));
                      return file.get();
                  }),
          shown, "create");
    return file;
}

FileDescriptor open_direct(const fs::path& path) {
    return FileDescriptor(::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW));
}

void write_at(const FileDescriptor& file, const fs::path& path, int64_t offset,
              std::span<const std::byte> bytes) {
    size_t done = 0;
    const int number = attempt(FileCall::write, path, [&] {
        while (done < bytes.size()) {
            const size_t wanted = std::min(bytes.size() - done, kLargestTransfer);
            const ssize_t put = ::pwrite(file.get(), bytes.data() + done, wanted,
                                         offset + static_cast<int64_t>(done));
            if (put < 0) return -1;
            done += static_cast<size_t>(put);
        }
        return file.get();
    });
    check(number, path, "write ", bytes.size(), " bytes at ", offset);
}

void truncate_file(const FileDescriptor& file, const fs::path& path, int64_t size) {
    check(attempt(FileCall::truncate, path, [&] { return ::ftruncate(file.get(), size); }), path,
          "cut to ", size, " bytes");
}

void sync_file(const FileDescriptor& file, const fs::path& path) {
    check(attempt(FileCall::sync, path, [&] { return ::fsync(file.get()) == 0 ? file.get() : -1; }),
          path, "make durable");
}

void rename_path(const fs::path& from, const fs::path& to) {
    check(attempt(FileCall::rename, to, [&] { return ::rename(from.c_str(), to.c_str()); }), from,
          "rename to ", to.filename().string());
}

void remove_tree(const fs::path& path) {
    check(attempt(FileCall::remove, path,
                  [&] {
                      std::error_code error;
                      fs::remove_all(path, error);
                      errno = error.value();
                      return error ? -1 : 0;
                  }),
          path, "remove");
}

void sync_directory(const fs::path& path) {
    const fs::path name = path.empty() ? fs::path(".") : path;
    FileDescriptor directory;
    const int number = attempt(FileCall::sync_directory, name, [&] {
        directory = FileDescriptor(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!directory) return -1;
        // Some file systems know no sync of a directory and say so; then there is nothing to do.
        if (::fsync(directory.get()) != 0 && errno != EINVAL) return -1;
        return directory.get();
    });
    check(number, name, "make durable");
}

void make_directories(const fs::path& path) {
    std::error_code ignored;
    if (path.empty() || fs::is_directory(path, ignored)) return;
    if (!path.has_filename()) return make_directories(path.parent_path());  // a last slash
    make_directories(path.parent_path());
    check(attempt(FileCall::make_directory, path,
                  [&] {
                      const int made = ::mkdir(path.c_str(), 0777);
                      return made != 0 && errno == EEXIST && fs::is_directory(path, ignored) ? 0
                                                                                             : made;
                  }),
          path, "make the directory");
    sync_directory(path.parent_path());
}

}  // namespace fucina
