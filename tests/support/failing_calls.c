// A library to preload: the FAIL_NTH-th call FAIL_CALL on a file whose path holds FAIL_PATH fails as on a
// full or broken disk, on rank FAIL_RANK or, without it, on every rank.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static int due(const char* call) {
    static int left = -1;
    const char *wanted = getenv("FAIL_CALL"), *rank = getenv("FAIL_RANK");
    const char* own = getenv("OMPI_COMM_WORLD_RANK");
    if (!wanted || strcmp(wanted, call)) return 0;
    if (rank && (!own || strcmp(rank, own))) return 0;
    if (left < 0) left = atoi(getenv("FAIL_NTH"));
    return left > 0 && --left == 0;
}
static int is_meant(int fd) {
    if (!getenv("FAIL_PATH")) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, getenv("FAIL_PATH")) != NULL;
}
ssize_t pwrite64(int fd, const void* data, size_t count, off64_t at) {
    static ssize_t (*real)(int, const void*, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (is_meant(fd) && due("pwrite")) { errno = ENOSPC; return -1; }
    return real(fd, data, count, at);
}
ssize_t pwrite(int fd, const void* data, size_t count, off_t at) { return pwrite64(fd, data, count, at); }
ssize_t pread64(int fd, void* data, size_t count, off64_t at) {
    static ssize_t (*real)(int, void*, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pread64");
    if (is_meant(fd) && due("pread")) { errno = EIO; return -1; }
    return real(fd, data, count, at);
}
ssize_t pread(int fd, void* data, size_t count, off_t at) { return pread64(fd, data, count, at); }
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (is_meant(fd) && due("fsync")) { errno = EIO; return -1; }
    return real(fd);
}
int posix_fallocate(int fd, off_t at, off_t size) {
    static int (*real)(int, off_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "posix_fallocate");
    if (is_meant(fd) && due("posix_fallocate")) return ENOSPC;
    return real(fd, at, size);
}
int rename(const char* from, const char* to) {
    static int (*real)(const char*, const char*);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    if (getenv("FAIL_PATH") && strstr(from, getenv("FAIL_PATH")) && due("rename")) { errno = EIO; return -1; }
    return real(from, to);
}
