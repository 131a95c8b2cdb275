// A file descriptor that closes itself.
#pragma once
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace fucina {

class FileDescriptor {
  public:
    FileDescriptor() = default;
    // As open() returned it; a negative one is none.
    explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
    ~FileDescriptor() { close(); }
    FileDescriptor(FileDescriptor&& other) noexcept
        : descriptor_(std::exchange(other.descriptor_, -1)) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        std::swap(descriptor_, other.descriptor_);
        return *this;
    }

    explicit operator bool() const { return descriptor_ >= 0; }
    int get() const { return descriptor_; }

    // Leaves errno as it is.
    void close() {
        const int before = errno;
        if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
        errno = before;
    }

  private:
    int descriptor_ = -1;
};

}  // namespace fucina
