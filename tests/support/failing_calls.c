// A library to preload: the FAIL_NTH-th call FAIL_CALL (open: that may make a file) on a file whose path holds FAIL_PATH fails as on a
// full or broken disk, on rank FAIL_RANK or, without it, on every rank. FAIL_MODE: once (the default),
// forever (all from then on), or short (writes only, all from then on: half of the bytes are written). Each
// call that is meant, failed or not, adds a byte to the file FAIL_COUNT.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
enum { MADE, FAILS, SHORT };
static void count(void) {
    const char* path = getenv("FAIL_COUNT");
    const long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (fd < 0) return;
    syscall(SYS_write, fd, ".", 1);
    syscall(SYS_close, fd);
}
static int due(const char* call) {
    static int left = -1;
    const char *wanted = getenv("FAIL_CALL"), *rank = getenv("FAIL_RANK"), *mode = getenv("FAIL_MODE");
    const char* own = getenv("OMPI_COMM_WORLD_RANK");
    if (!wanted || strcmp(wanted, call)) return MADE;
    if (rank && (!own || strcmp(rank, own))) return MADE;
    count();
    if (left < 0) left = atoi(getenv("FAIL_NTH"));
    if (left == 0 || (left > 1 && left--)) return MADE;
    if (mode && !strcmp(mode, "short")) return SHORT;
    if (!mode || strcmp(mode, "forever")) left = 0;
    return FAILS;
}
static int path_is_meant(const char* path) {
    const char* wanted = getenv("FAIL_PATH");
    return wanted && path && strstr(path, wanted) != NULL;
}
static int is_meant(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return path_is_meant(path);
}
#define REAL(result, name, ...)                        \
    static result (*real)(__VA_ARGS__);                \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void*, size_t, off64_t);
    const int now = is_meant(fd) ? due("pwrite") : MADE;
    if (now == FAILS) { errno = ENOSPC; return -1; }
    return real(fd, data, now == SHORT ? (size + 1) / 2 : size, at);
}
ssize_t pwrite(int fd, const void* data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
ssize_t write(int fd, const void* data, size_t size) {
    REAL(ssize_t, "write", int, const void*, size_t);
    const int now = is_meant(fd) ? due("write") : MADE;
    if (now == FAILS) { errno = ENOSPC; return -1; }
    return real(fd, data, now == SHORT ? (size + 1) / 2 : size);
}
ssize_t pread64(int fd, void* data, size_t size, off64_t at) {
    REAL(ssize_t, "pread64", int, void*, size_t, off64_t);
    if (is_meant(fd) && due("pread") == FAILS) { errno = EIO; return -1; }
    return real(fd, data, size, at);
}
ssize_t pread(int fd, void* data, size_t size, off_t at) { return pread64(fd, data, size, at); }
int fsync(int fd) {
    REAL(int, "fsync", int);
    if (is_meant(fd) && due("fsync") == FAILS) { errno = EIO; return -1; }
    return real(fd);
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    if (is_meant(fd) && due("ftruncate") == FAILS) { errno = EIO; return -1; }
    return real(fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    if (is_meant(fd) && due("posix_fallocate") == FAILS) return ENOSPC;
    return real(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }
int open64(const char* path, int flags, ...) {
    REAL(int, "open64", const char*, int, ...);
    va_list rest;
    va_start(rest, flags);
    const int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    if (flags & O_CREAT && path_is_meant(path) && due("open") == FAILS) { errno = EMFILE; return -1; }
    return real(path, flags, mode);
}
int open(const char* path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;
    va_end(rest);
    return open64(path, flags, mode);
}
int mkdir(const char* path, mode_t mode) {
    REAL(int, "mkdir", const char*, mode_t);
    if (path_is_meant(path) && due("mkdir") == FAILS) { errno = ENOSPC; return -1; }
    return real(path, mode);
}
int rename(const char* from, const char* to) {
    REAL(int, "rename", const char*, const char*);
    if (path_is_meant(from) && due("rename") == FAILS) { errno = EIO; return -1; }
    return real(from, to);
}
