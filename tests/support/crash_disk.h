// What a power cut would leave of a directory: of every file the bytes of its last sync, of every
// directory the names of its last sync. Watches the file calls, works on the real files beneath.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>

#include "data/file.h"

namespace fucina::test {

class CrashDisk : public FileWatch {
  public:
    // What is beneath `root` now is taken as durable.
    explicit CrashDisk(std::filesystem::path root) : root_(std::move(root)) {
        remember(root_);
        watch_files(this);
    }
    ~CrashDisk() override { watch_files(nullptr); }

    // Called before every call but reads and most writes: the moments of a crash. What it does itself
    // is not watched.
    std::function<void()> at_point;
    // The errno of a call, 0 to let it be made; `n` counts the calls from 0.
    std::function<int(FileCall, const std::filesystem::path&, int64_t n)> fails;

    void crash_here() {
        if (!at_point) return;
        inside() = true;
        at_point();
        inside() = false;
    }

    enum class Survives {
        synced,      // nothing but what was synced
        everything,  // as after kill -9
        some,        // of all that was not synced some: every name and file by its own
    };

    void copy_survivors(Survives what, uint32_t seed, const std::filesystem::path& into) {
        random_.seed(seed);
        survives_ = what;
        std::filesystem::remove_all(into);
        make_directory(number_of(root_), root_, into);
    }

    int before(FileCall call, const std::filesystem::path& path) override {
        if (inside() || (call == FileCall::read && !fails)) return 0;
        const std::lock_guard lock(mutex_);
        const int64_t n = calls_++;
        if (call != FileCall::read && (call != FileCall::write || n % 64 == 0)) crash_here();
        return fails ? fails(call, path, n) : 0;
    }
    void after(FileCall call, const std::filesystem::path&, int descriptor) override {
        if (inside() || (call != FileCall::sync && call != FileCall::sync_directory)) return;
        const std::lock_guard lock(mutex_);
        const auto path =
            std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor));
        if (call == FileCall::sync) {
            remember_file(path);
        } else {
            remember_names(path);
        }
    }

  private:
    static bool& inside() {
        static thread_local bool inside = false;
        return inside;
    }
    using Names = std::map<std::string, ino_t>;

    static struct stat look(const std::filesystem::path& path) {
        struct stat status {};
        ::lstat(path.c_str(), &status);
        return status;
    }
    static std::string read(const std::filesystem::path& path) {
        std::ifstream file(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    // While it is open its number goes to no other file.
    ino_t number_of(const std::filesystem::path& path) {
        const struct stat status = look(path);
        if (!pins_.contains(status.st_ino)) {
            pins_[status.st_ino] = FileDescriptor(::open(path.c_str(), O_PATH | O_CLOEXEC));
            if (S_ISDIR(status.st_mode)) directories_.insert(status.st_ino);
        }
        return status.st_ino;
    }
    Names names_in(const std::filesystem::path& path) {
        Names names;
        std::error_code none;
        for (const auto& entry : std::filesystem::directory_iterator(path, none)) {
            names[entry.path().filename().string()] = number_of(entry.path());
        }
        return names;
    }
    void remember_file(const std::filesystem::path& path) { bytes_[number_of(path)] = read(path); }
    void remember_names(const std::filesystem::path& path) {
        names_[number_of(path)] = names_in(path);
    }
    void remember(const std::filesystem::path& path) {
        remember_names(path);
        for (const auto& [name, number] : names_[number_of(path)]) {
            if (directories_.contains(number)) {
                remember(path / name);
            } else {
                remember_file(path / name);
            }
        }
    }

    bool unsynced_survives() {
        if (survives_ == Survives::some) return random_() % 2 == 0;
        return survives_ == Survives::everything;
    }
    // now: where it is at present, or nothing.
    void make_directory(ino_t number, const std::filesystem::path& now,
                        const std::filesystem::path& into) {
        std::filesystem::create_directories(into);
        const Names synced = names_[number], present = now.empty() ? Names() : names_in(now);
        std::set<std::string> all;
        for (const Names* names : {&synced, &present}) {
            for (const auto& [name, unused] : *names) all.insert(name);
        }
        for (const std::string& name : all) {
            const Names& chosen = unsynced_survives() ? present : synced;
            const auto found = chosen.find(name);
            if (found == chosen.end()) continue;
            const auto at = present.find(name);
            const bool here = at != present.end() && at->second == found->second;
            make(found->second, here ? now / name : where(found->second, now, present),
                 into / name);
        }
    }
    // A directory that was renamed within its parent is found under its new name.
    static std::filesystem::path where(ino_t number, const std::filesystem::path& parent,
                                       const Names& present) {
        for (const auto& [name, other] : present) {
            if (other == number) return parent / name;
        }
        return {};
    }
    void make(ino_t number, const std::filesystem::path& now, const std::filesystem::path& into) {
        if (directories_.contains(number)) return make_directory(number, now, into);
        const bool current = unsynced_survives() && !now.empty();
        std::ofstream(into, std::ios::binary) << (current ? read(now) : bytes_[number]);
    }

    const std::filesystem::path root_;
    std::mutex mutex_;
    int64_t calls_ = 0;
    std::map<ino_t, FileDescriptor> pins_;
    std::set<ino_t> directories_;
    std::map<ino_t, Names> names_;        // of directories, as of their last sync
    std::map<ino_t, std::string> bytes_;  // of files, as of their last sync
    std::mt19937 random_;
    Survives survives_ = Survives::synced;
};

}  // namespace fucina::test
