// The directory of a run, and the lock that keeps two processes from writing to it. An old run is
// never overwritten: `train` refuses it or, with --fresh, moves it aside.
#pragma once
#include <filesystem>
#include <string>
#include <utility>

#include "data/file_calls.h"

namespace fucina {

class RunDirectory {
  public:
    // Fails (exit 2), naming what to do, unless `train` may use the path. Changes nothing.
    static void check_free(const std::filesystem::path& path, bool fresh);
    // Makes it and takes the lock; an old run is moved to PATH.old-N if `fresh`, and `moved_to`
    // tells where.
    static RunDirectory create(const std::filesystem::path& path, bool fresh,
                               std::string& moved_to);
    // An existing run, for `resume`. Exit 10 if there is none, exit 2 if it is in use.
    static RunDirectory open(const std::filesystem::path& path);

    const std::filesystem::path& path() const { return path_; }

    // Whether the user put a file of this name there; it is removed.
    bool take_request(const char* name) const;

  private:
    RunDirectory(std::filesystem::path path, FileDescriptor lock)
        : path_(std::move(path)), lock_(std::move(lock)) {}

    std::filesystem::path path_;
    FileDescriptor lock_;
};

}  // namespace fucina
