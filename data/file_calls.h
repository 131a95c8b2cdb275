// The calls that read files, change them, and make changes durable: one place, so that every
// failure is one line with the file's name, and so that tests can let any call fail and know, after
// each, what a power cut would leave. Failures throw StorageError (exit 11).
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "data/file_descriptor.h"
#include "kernels/error.h"

namespace fucina {

enum class FileCall {
    read,
    create,
    write,
    truncate,
    sync,
    make_directory,
    rename,
    remove,
    sync_directory
};

class FileWatch {
  public:
    virtual ~FileWatch() = default;
    // An errno with which the call fails instead of being made; 0: it is made.
    virtual int before(FileCall call, const std::filesystem::path& path) = 0;
    // It succeeded. descriptor: of the file or directory, for the two syncs.
    virtual void after(FileCall call, const std::filesystem::path& path, int descriptor) = 0;
};

// For tests: who watches from now on, or null. Calls come from several threads.
void watch_files(FileWatch* watch);

class StorageError : public Error {
  public:
    StorageError(int number, const std::string& message)
        : Error(ExitCode::storage, message), number_(number) {}
    int number() const { return number_; }  // errno

  private:
    int number_;
};

// Opened for reading. What is missing or may not be read is the user's data (exit 3).
FileDescriptor open_file(const std::filesystem::path& path, int flags);
// Reads until `into` is full or the file ends; returns the bytes read.
int64_t read_at(const FileDescriptor& file, const std::filesystem::path& path, int64_t offset,
                std::span<std::byte> into);
// exit 3 for what the user can mend in the file or its path, exit 11 where the system failed.
ExitCode read_failure(int number);

// `shown`: the name in messages, where it is not the path.
FileDescriptor create_file(const std::filesystem::path& path, int flags,
                           const std::filesystem::path& shown);
// For writing past the page cache, at multiples of its blocks; none where that cannot be.
FileDescriptor open_direct(const std::filesystem::path& path);
void write_at(const FileDescriptor& file, const std::filesystem::path& path, int64_t offset,
              std::span<const std::byte> bytes);
void truncate_file(const FileDescriptor& file, const std::filesystem::path& path, int64_t size);
// After a failed sync the kernel may have dropped the pages: the write has failed, and asking again
// proves nothing.
void sync_file(const FileDescriptor& file, const std::filesystem::path& path);
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
void remove_tree(const std::filesystem::path& path);
// Makes names in a directory durable: without it a new or renamed file may be gone after a crash.
void sync_directory(const std::filesystem::path& path);
// The directory and its parents, each durable in its own parent.
void make_directories(const std::filesystem::path& path);

}  // namespace fucina
