// What all fuzz targets share. A target is a file NAME_fuzz.cpp with one function, FUZZ(input); its
// first inputs lie in seeds/NAME. What it calls may accept the input or refuse it with an Error as
// the user would see it; anything else that is thrown, and a HOLDS that does not, is a defect.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "kernels/error.h"

#define HOLDS(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                       \
        }                                                                                       \
    } while (false)

#define FUZZ(input)                                                           \
    static void fuzz(std::string_view input);                                 \
    extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { \
        fuzz({reinterpret_cast<const char*>(data), size});                    \
        return 0;                                                             \
    }                                                                         \
    static void fuzz(std::string_view input)

namespace fucina::fuzz {

// Whether body() accepted its input. A refusal is one readable line, with a code that says whose
// the mistake is.
template <class Body>
bool accepts(const Body& body) {
    try {
        body();
        return true;
    } catch (const Error& error) {
        const std::string_view line = error.what();
        const bool readable =
            !line.empty() && line.size() <= 1000 &&
            std::all_of(line.begin(), line.end(), [](unsigned char c) { return c >= 0x20; });
        const bool users = error.code() == ExitCode::data || error.code() == ExitCode::usage;
        if (!readable || !users)
            std::fprintf(stderr, "exit %d: %s\n", int(error.code()), error.what());
        HOLDS(readable);
        HOLDS(users);
        return false;
    }
}

// The same where the input is parsed in a child process, which libFuzzer cannot see into: it is
// told how the input was refused, and keeps one of each kind.
template <class Body>
bool accepts_in_child(const Body& body) {
    __attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[4096];
    return accepts([&] {
        try {
            body();
        } catch (const Error& error) {
            std::string kind = error.what();
            std::erase_if(kind, [](unsigned char c) { return !std::isalpha(c); });
            counters[std::hash<std::string>()(kind) % sizeof counters] = 1;
            throw;
        }
    });
}

// A file of these bytes, in a directory that is the process's own; each call replaces the last of
// that name.
inline std::filesystem::path file_of(std::string_view bytes, const char* name) {
    static const std::filesystem::path directory = [] {
        auto path =
            std::filesystem::temp_directory_path() / ("fucina-fuzz-" + std::to_string(::getpid()));
        std::filesystem::create_directories(path);
        std::atexit([] {
            std::filesystem::remove_all(std::filesystem::temp_directory_path() /
                                        ("fucina-fuzz-" + std::to_string(::getpid())));
        });
        return path;
    }();
    std::ofstream(directory / name, std::ios::binary) << bytes;
    return directory / name;
}

}  // namespace fucina::fuzz
