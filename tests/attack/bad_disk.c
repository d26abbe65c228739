/* Lets writes below a folder fail from the nth on: cc -shared -fPIC -o bad_disk.so bad_disk.c -ldl, then LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static long begin, until, seen, last_seen;
static int code;

/* Operations first..last below the folder fail with this errno; an empty folder ends it, and last() tells how many there were. */
void bad_disk_arm(const char *folder, long first, long last, int error) {
    below[0] = 0;
    last_seen = seen, seen = 0, begin = first, until = last, code = error;
    strncpy(below, folder, sizeof below - 1);
}

long bad_disk_last(void) { return last_seen; }

static int fails(const char *path) {
    if (!below[0] || !path || strncmp(path, below, strlen(below))) return 0;
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (now < begin || now > until) return 0;
    errno = code;
    return 1;
}

static int fails_at(int fd) {
    char link[64], path[PATH_MAX];
    if (!below[0]) return 0;
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (n < 0) return 0;
    path[n] = 0;
    return fails(path);
}

#define FIND(name) if (!real) real = dlsym(RTLD_NEXT, #name)
#define ON_FD(type, name, params, args)     \
    type name params {                      \
        static type(*real) params;          \
        FIND(name);                         \
        return fails_at(fd) ? -1 : real args; \
    }
#define ON_PATH(name, params, args)         \
    int name params {                       \
        static int(*real) params;           \
        FIND(name);                         \
        return fails(path) ? -1 : real args; \
    }
#define ON_OPEN(name, params, args)                                       \
    int name params {                                                     \
        static int(*real) params;                                         \
        mode_t mode = 0;                                                  \
        FIND(name);                                                       \
        if (flags & O_CREAT) {                                            \
            va_list more;                                                 \
            va_start(more, flags);                                        \
            mode = va_arg(more, mode_t);                                  \
            va_end(more);                                                 \
        }                                                                 \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path)) return -1; \
        return real args;                                                 \
    }

ON_OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
ON_OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
ON_OPEN(openat, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))
ON_OPEN(openat64, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))
ON_FD(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at))
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int n), (fd, data, n))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, ftruncate, (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, (int fd, off64_t n), (fd, n))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(rename, (const char *path, const char *to), (path, to))
