// Whole-file input and output: exact reads at an offset, and files that appear under their name
// only when complete. A missing or short input is the user's data (exit 3); a failed write is
// storage (exit 11). Safe to read from threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace fucina {

// A regular file opened for reading at any offset.
class InputFile {
  public:
    explicit InputFile(std::filesystem::path path);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile& operator=(InputFile&& other) noexcept;

    const std::filesystem::path& path() const { return path_; }
    int64_t size() const { return size_; }  // bytes, when it was opened

    // Fills all of `into` from `offset`; fails with wanted and actual size where the file ends
    // before.
    void read(int64_t offset, std::span<std::byte> into) const;

  private:
    std::filesystem::path path_;
    int fd_ = -1;
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
    int fd_ = -1;
    int64_t size_ = 0;
};

// The whole file as text; fails above `limit` bytes.
std::string read_text_file(const std::filesystem::path& path, int64_t limit);

// `text` cut to 80 bytes, with control bytes and bytes beyond ASCII as '?', for one-line messages.
std::string printable(std::string_view text);

}  // namespace fucina
