#include "data/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace fucina {
namespace {

// One write call moves at most this much, below the 2 GiB that Linux allows.
constexpr size_t kLargestTransfer = size_t{1} << 30;

void sync_directory_of(const std::filesystem::path& path) {
    const auto parent = path.parent_path();
    const int fd =
        ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;  // the rename has happened; a directory we may not open cannot be synced
    ::fsync(fd);
    ::close(fd);
}

}  // namespace

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a FIFO must not wait for a writer before we can refuse it.
    fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) {
        fail(ExitCode::data, path_.string(), ": cannot open: ", std::strerror(errno));
    }
    struct stat status {};
    if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(fd_);
        fd_ = -1;
        fail(ExitCode::data, path_.string(), ": ",
             S_ISDIR(status.st_mode) ? "is a directory, expected a file" : "is not a regular file");
    }
    size_ = status.st_size;
}

InputFile::~InputFile() {
    if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    return *this;
}

void InputFile::read(int64_t offset, std::span<std::byte> into) const {
    size_t done = 0;
    while (done < into.size()) {
        const size_t wanted = std::min(into.size() - done, kLargestTransfer);
        const ssize_t got =
            ::pread(fd_, into.data() + done, wanted, offset + static_cast<int64_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(ExitCode::data, path_.string(), ": cannot read: ", std::strerror(errno));
        if (got == 0) {
            fail(ExitCode::data, path_.string(),
                 ": cut short: ", offset + static_cast<int64_t>(into.size()), " bytes wanted, ",
                 offset + static_cast<int64_t>(done), " there");
        }
        done += static_cast<size_t>(got);
    }
}

OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
    temporary_ = path_;
    temporary_ += ".tmp-" + std::to_string(::getpid());
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd_ < 0) {
        fail(ExitCode::storage, path_.string(), ": cannot create: ", std::strerror(errno));
    }
}

OutputFile::~OutputFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}

void OutputFile::append(std::span<const std::byte> bytes) {
    write(size_, bytes);
    size_ += static_cast<int64_t>(bytes.size());
}

void OutputFile::write(int64_t offset, std::span<const std::byte> bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
        const size_t wanted = std::min(bytes.size() - done, kLargestTransfer);
        const ssize_t put =
            ::pwrite(fd_, bytes.data() + done, wanted, offset + static_cast<int64_t>(done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            fail(ExitCode::storage, path_.string(), ": cannot write ", bytes.size(), " bytes at ",
                 offset, ": ", std::strerror(errno));
        }
        done += static_cast<size_t>(put);
    }
}

void OutputFile::commit() {
    FUCINA_CHECK(fd_ >= 0, path_.string(), " was committed before");
    // After a failed fsync the kernel may have dropped the pages: the write has failed, asking
    // again proves nothing.
    if (::fsync(fd_) != 0) {
        fail(ExitCode::storage, path_.string(), ": cannot make durable: ", std::strerror(errno));
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        fail(ExitCode::storage, path_.string(), ": cannot rename: ", std::strerror(errno));
    }
    ::close(fd_);
    fd_ = -1;
    sync_directory_of(path_);
}

std::string read_text_file(const std::filesystem::path& path, int64_t limit) {
    const InputFile file(path);
    if (file.size() > limit) {
        fail(ExitCode::data, path.string(), ": ", file.size(), " bytes, more than the ", limit,
             " allowed");
    }
    std::string text(static_cast<size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return text;
}

std::string printable(std::string_view text) {
    std::string out(text.substr(0, 80));
    for (char& c : out) {
        if (c < 0x20 || c == 0x7f)
            c = '?';  // char is signed here: bytes beyond ASCII are below zero
    }
    if (text.size() > out.size()) out += "...";
    return out;
}

}  // namespace fucina
