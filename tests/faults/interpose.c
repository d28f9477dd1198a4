/* Preloaded into a process under test: its n-th write, fsync or rename below a folder fails or is
   the last thing it does, and its clock is another. Every library that writes is under it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME, OPEN };
enum { KILL, KILL_AFTER, TORN, FAIL_ONCE, FAIL_ON };

static int armed_kind = -1, armed_how, armed_errno;
static long armed_at, seen[4], clock_offset;
static char below[PATH_MAX];

void faults_arm(const char *folder, int kind, long at, int how, int number) {
    strncpy(below, folder, sizeof below - 1);
    memset(seen, 0, sizeof seen);
    armed_at = at, armed_how = how, armed_errno = number, armed_kind = kind;
}
long faults_seen(int kind) { return seen[kind]; }
void faults_clock(long seconds) { clock_offset = seconds; }

static int is_below(const char *path) { return below[0] && !strncmp(path, below, strlen(below)); }

static int fd_is_below(int fd) {
    char link[64], path[PATH_MAX];
    struct stat state;
    if (!below[0] || fstat(fd, &state) || !S_ISREG(state.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

/* 0: go on; 1: fail with errno; 2: do half of it and die; 3: do it and die. */
static int strikes(int kind) {
    long now = ++seen[kind];
    if (kind != armed_kind || now < armed_at || (now > armed_at && armed_how != FAIL_ON)) return 0;
    if (armed_how == KILL) kill(getpid(), SIGKILL), pause();
    if (armed_how == TORN) return 2;
    if (armed_how == KILL_AFTER) return 3;
    errno = armed_errno;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define DIE() (kill(getpid(), SIGKILL), pause())

#define WRITER(name, args, call, half) \
    { \
        if (fd_is_below(fd)) { \
            int hit = strikes(WRITE); \
            if (hit == 1) return -1; \
            if (hit == 2) half, DIE(); \
            if (hit == 3) call, DIE(); \
        } \
        return call; \
    }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    WRITER(write, , real(fd, data, size), real(fd, data, size / 2))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    WRITER(pwrite, , real(fd, data, size, at), real(fd, data, size / 2, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    WRITER(pwrite64, , real(fd, data, size, at), real(fd, data, size / 2, at))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    WRITER(writev, , real(fd, parts, count), real(fd, parts, count / 2))
}
int fsync(int fd) {
    REAL(int, fsync, int);
    if (fd_is_below(fd)) {
        int hit = strikes(FSYNC);
        if (hit == 1) return -1;
        if (hit >= 2) real(fd), DIE();
    }
    return real(fd);
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (is_below(to)) {
        int hit = strikes(RENAME);
        if (hit == 1) return -1;
        if (hit >= 2) real(from, to), DIE();
    }
    return real(from, to);
}

static int opens(const char *path, int flags) {
    if (!(flags & (O_CREAT | O_WRONLY | O_RDWR)) || !is_below(path)) return 0;
    int hit = strikes(OPEN);
    if (hit >= 2) DIE();
    return hit;
}
#define OPENER(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, mode_t); \
        __builtin_va_list rest; \
        __builtin_va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? __builtin_va_arg(rest, mode_t) : 0; \
        __builtin_va_end(rest); \
        return opens(path, flags) ? -1 : real(path, flags, mode); \
    }
OPENER(open)
OPENER(open64)

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec += clock_offset;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, struct timeval *restrict, void *restrict);
    int failed = real(now, zone);
    if (!failed) now->tv_sec += clock_offset;
    return failed;
}
time_t time(time_t *out) {
    REAL(time_t, time, time_t *);
    time_t now = real(NULL) + clock_offset;
    if (out) *out = now;
    return now;
}
