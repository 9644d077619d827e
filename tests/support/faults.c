/* Makes the n-th change below a folder fail, or kills the process at it. Loaded with LD_PRELOAD.

A change is a call that writes: open for writing, write, pwrite, writev, fsync, rename, renameat2, mkdir, unlink, rmdir,
truncate. Everything in the process is seen, also what libraries write from C, C++ or Rust. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, NAME = 2, SYNC = 4, GONE = 8 };
static char root[PATH_MAX];
static atomic_long seen;
static long at = -1;
static int what_error, kinds, stays;

/* Fail the n-th change (from 0) of some kinds with an error, or kill where it is 0; `stays`: and all after it. */
void fault_arm(const char *folder, long n, int error, int of_kinds, int for_good) {
    strncpy(root, folder, sizeof root - 1);
    seen = 0;
    at = n;
    what_error = error;
    kinds = of_kinds;
    stays = for_good;
}
long fault_seen(void) { return seen; }

static int fails(int kind) {
    if (!(kind & kinds)) return 0;
    long k = atomic_fetch_add(&seen, 1);
    if (at < 0 || !(k == at || (stays && k > at))) return 0;
    if (!what_error) kill(getpid(), SIGKILL);
    errno = what_error;
    return 1;
}
static int below(const char *path) {
    char whole[2 * PATH_MAX];
    if (!root[0] || !path) return 0;
    if (path[0] == '/') return !strncmp(path, root, strlen(root));
    if (!getcwd(whole, PATH_MAX)) return 0;
    return !strncmp(whole, root, strlen(root));
}
static int ours(int fd) {
    char link[64], path[PATH_MAX];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name);

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...) \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more); \
        return writes(flags) && below(path) && fails(NAME) ? -1 : real(path, flags, mode); }
OPEN(open) OPEN(open64)
#define OPENAT(name) \
    int name(int at_fd, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...) \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more); \
        return writes(flags) && below(path) && fails(NAME) ? -1 : real(at_fd, path, flags, mode); }
OPENAT(openat) OPENAT(openat64)
#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, name, const char *, const char *) \
        return mode[0] != 'r' && below(path) && fails(NAME) ? NULL : real(path, mode); }
FOPEN(fopen) FOPEN(fopen64)
ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t)
    return ours(fd) && fails(WRITE) ? -1 : real(fd, data, n); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t place) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
    return ours(fd) && fails(WRITE) ? -1 : real(fd, data, n, place); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t place) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
    return ours(fd) && fails(WRITE) ? -1 : real(fd, data, n, place); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int)
    return ours(fd) && fails(WRITE) ? -1 : real(fd, parts, n); }
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *)
    return ours(fileno(file)) && fails(WRITE) ? 0 : real(data, size, n, file); }
int fsync(int fd) { REAL(int, fsync, int) return ours(fd) && fails(SYNC) ? -1 : real(fd); }
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *)
    return below(to) && fails(NAME) ? -1 : real(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *)
    return below(to) && fails(NAME) ? -1 : real(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned)
    return below(to) && fails(NAME) ? -1 : real(a, from, b, to, flags); }
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t) return below(path) && fails(NAME) ? -1 : real(path, mode); }
int truncate(const char *path, off_t n) {
    REAL(int, truncate, const char *, off_t) return below(path) && fails(WRITE) ? -1 : real(path, n); }
int ftruncate(int fd, off_t n) {
    REAL(int, ftruncate, int, off_t) return ours(fd) && fails(WRITE) ? -1 : real(fd, n); }
int ftruncate64(int fd, off64_t n) {
    REAL(int, ftruncate64, int, off64_t) return ours(fd) && fails(WRITE) ? -1 : real(fd, n); }
int unlink(const char *path) {
    REAL(int, unlink, const char *) return below(path) && fails(GONE) ? -1 : real(path); }
int unlinkat(int fd, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int) return (ours(fd) || below(path)) && fails(GONE) ? -1 : real(fd, path, flags); }
int rmdir(const char *path) {
    REAL(int, rmdir, const char *) return below(path) && fails(GONE) ? -1 : real(path); }
