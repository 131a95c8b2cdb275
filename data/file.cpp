#include "data/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace fucina {

InputFile::InputFile(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: opening a FIFO must not wait for a writer before we can refuse it.
    file_ = open_file(path_, O_NONBLOCK);
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
        fail(ExitCode::data, path_.string(), ": ",
             S_ISDIR(status.st_mode) ? "is a directory, expected a file" : "is not a regular file");
    }
    size_ = status.st_size;
}

void InputFile::read(int64_t offset, std::span<std::byte> into) const {
    const int64_t got = read_at(file_, path_, offset, into);
    if (got < static_cast<int64_t>(into.size())) {
        fail_damaged(path_.string(), ": cut short: ", offset + static_cast<int64_t>(into.size()),
                     " bytes wanted, ", offset + got, " there");
    }
}

OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
    temporary_ = path_;
    temporary_ += ".tmp-" + std::to_string(::getpid());
    file_ = create_file(temporary_, O_RDWR | O_TRUNC, path_);
}

OutputFile::~OutputFile() {
    if (file_) ::unlink(temporary_.c_str());
}

void OutputFile::append(std::span<const std::byte> bytes) {
    write(size_, bytes);
    size_ += static_cast<int64_t>(bytes.size());
}

void OutputFile::write(int64_t offset, std::span<const std::byte> bytes) {
    write_at(file_, path_, offset, bytes);
}

void OutputFile::commit() {
    FUCINA_CHECK(file_, path_.string(), " was committed before");
    sync_file(file_, path_);
    rename_path(temporary_, path_);
    file_.close();
    sync_directory(path_.parent_path());
}

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
    file_ = create_file(path_, O_RDWR, path_);
    sync_directory(path_.parent_path());
}

void AppendFile::cut(int64_t size) {
    truncate_file(file_, path_, size);
}

bool AppendFile::append(const std::string& text) {
    const off_t end = ::lseek(file_.get(), 0, SEEK_END);
    try {
        write_at(file_, path_, end, std::as_bytes(std::span(text)));
        return true;
    } catch (const StorageError&) {
        // If not even this works a torn line stays, which readers end at and the next resume drops.
        if (::ftruncate(file_.get(), end) != 0) return false;
        return false;
    }
}

bool AppendFile::sync() {
    try {
        sync_file(file_, path_);
        return true;
    } catch (const StorageError&) {
        return false;
    }
}

void write_text_file(const std::filesystem::path& path, const std::string& text) {
    OutputFile file(path);
    file.append(std::as_bytes(std::span(text)));
    file.commit();
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
