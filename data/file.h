// Whole-file input and output: exact reads at an offset, and files that appear under their name
// only when complete. A missing or short input is the user's data (exit 3); a failed write, and a
// read that the system refuses, is storage (exit 11). Safe to read from threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "data/file_calls.h"

namespace fucina {

// What a file holds is not what was written to it: its size, a checksum or its encoding is wrong.
// Never thrown for a file that could not be opened or read, or that does not fit its reader.
class DamagedFile : public Error {
  public:
    explicit DamagedFile(const std::string& message) : Error(ExitCode::data, message) {}
};

template <class... Parts>
[[noreturn]] void fail_damaged(const Parts&... parts) {
    throw DamagedFile(concat(parts...));
}

// A regular file opened for reading at any offset.
class InputFile {
  public:
    explicit InputFile(std::filesystem::path path);

    const std::filesystem::path& path() const { return path_; }
    int64_t size() const { return size_; }  // bytes, when it was opened

    // Fills all of `into` from `offset`; DamagedFile, with wanted and actual size, where the file
    // ends before.
    void read(int64_t offset, std::span<std::byte> into) const;

  private:
    std::filesystem::path path_;
    FileDescriptor file_;
    int64_t size_ = 0;
};

// A file written beside its final name. commit() makes it durable and gives it the name; without
// commit nothing stays.
class OutputFile {
  public:
    explicit OutputFile(std::filesystem::path path);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    const std::filesystem::path& path() const { return path_; }
    const std::filesystem::path& temporary_path() const { return temporary_; }
    int64_t size() const { return size_; }  // bytes appended so far

    void append(std::span<const std::byte> bytes);
    void write(int64_t offset, std::span<const std::byte> bytes);
    void commit();  // fsync, rename, fsync of the directory

  private:
    std::filesystem::path path_, temporary_;
    FileDescriptor file_;
    int64_t size_ = 0;
};

// A file that grows by whole texts, made if it is not there; its name is durable at once. What is
// only appended to is not worth ending a program for: append and sync return false if they failed.
class AppendFile {
  public:
    explicit AppendFile(std::filesystem::path path);

    void cut(int64_t size);                // drops what lies beyond
    bool append(const std::string& text);  // nothing of it stays if it failed
    bool sync();

  private:
    std::filesystem::path path_;
    FileDescriptor file_;
};

// Replaces the file, durably: the old text or the new one is there at any time.
void write_text_file(const std::filesystem::path& path, const std::string& text);

// The whole file as text; fails above `limit` bytes.
std::string read_text_file(const std::filesystem::path& path, int64_t limit);

// `text` cut to 80 bytes, with control bytes and bytes beyond ASCII as '?', for one-line messages.
std::string printable(std::string_view text);

}  // namespace fucina
