#include "launch/home_path.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "kernels/error.h"

namespace fucina {

std::string expand_home(const std::string& path) {
    if (!path.starts_with("~")) return path;
    if (path.size() > 1 && path[1] != '/')
        fail(ExitCode::usage, path,
             ": only ~ and ~/ stand for the home directory; write that of another user out, or a "
             "file's name as ./",
             path);
    const char* home = std::getenv("HOME");
    if (home == nullptr || *home == '\0') {
        const passwd* user = ::getpwuid(::getuid());
        home = user == nullptr ? nullptr : user->pw_dir;
    }
    if (home == nullptr)
        fail(ExitCode::usage, path, ": there is no home directory (HOME is not set)");
    return home + path.substr(1);
}

}  // namespace fucina
