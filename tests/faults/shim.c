/* An LD_PRELOAD library that watches the system calls below one folder (shim.py builds and drives it).

   It counts them, and at the Nth call, once or from then on, returns an error, writes only half, or kills the
   process; and it can record each call with what it wrote. Calls that libc makes inside itself (fopen, opendir)
   and raw system calls pass unseen: a test compares the count with strace's. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { PASS, FAIL, SHORT, KILL_BEFORE, KILL_AFTER, UNWATCHED };

static char root[PATH_MAX];
static long count, target;
static int mode, fault, sticky, journal = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* ---- what the driver calls ---- */

void shim_watch(const char *folder) { /* "" watches nothing */
    snprintf(root, sizeof root, "%s", folder);
    count = target = 0;
}

void shim_arm(long nth, int what, int number, int from_then_on) {
    target = nth, mode = what, fault = number, sticky = from_then_on;
}

long shim_count(void) { return count; }

static void put(const void *data, size_t size) {
    if (REAL(write)(journal, data, size) != (ssize_t)size) die();
}

/* One journal entry: "call TAB path TAB other TAB offset TAB size LF", then the bytes. */
static void note(const char *call, const char *path, const char *other, long offset, const void *data, size_t size) {
    char line[2 * PATH_MAX + 100];
    if (journal < 0) return;
    put(line, snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", call, path, other, offset, size));
    put(data, size);
}

void shim_mark(const char *label) { note("mark", label, "", 0, "", 0); }

int shim_record(const char *path) {
    return journal = *path ? REAL(open)(path, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0644) : -1;
}

/* ---- the verdict on one call ---- */

static int verdict(const char *path) {
    size_t n = strlen(root);
    if (!n || strncmp(path, root, n) || (path[n] && path[n] != '/')) return UNWATCHED;
    count++;
    if (!target || count < target || (count > target && !sticky)) return PASS;
    if (mode == KILL_BEFORE) die();
    return count == target ? mode : FAIL;
}

static const char *of(int fd, char *out) { /* the path behind a descriptor */
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
    return out;
}

static const char *at(int folder, const char *name, char *out) { /* the absolute path of a name */
    char base[PATH_MAX] = "";
    if (*name == '/') return name;
    if (folder != AT_FDCWD) of(folder, base);
    else if (!getcwd(base, sizeof base)) return name;
    if (snprintf(out, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return name;
    return out;
}

/* The real call under the verdict; the journal counts those that failed by themselves, too. */
#define RUN(call, path, other, offset, data, size, real)                                  \
    int what = verdict(path), saved;                                                      \
    if (what == FAIL) return errno = fault, -1;                                           \
    long result = real;                                                                   \
    saved = errno;                                                                        \
    if (what != UNWATCHED) note(result < 0 ? "failed" : call, path, other, offset, data, size); \
    if (what == KILL_AFTER) die();                                                        \
    return errno = saved, result;

/* ---- names ---- */

static int opened(int folder, const char *name, int flags, int perm) {
    char buffer[PATH_MAX];
    const char *path = at(folder, name, buffer);
    struct stat st;
    int old = lstat(path, &st) == 0;
    const char *call = (flags & O_CREAT) && !old ? "create" : (flags & O_TRUNC) && old ? "truncate" : "open";
    RUN(call, path, "", 0, "", 0, REAL(openat)(folder, name, flags, perm))
}

#define PERM va_list rest; va_start(rest, flags); int perm = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; va_end(rest);
int open(const char *name, int flags, ...) { PERM return opened(AT_FDCWD, name, flags, perm); }
int open64(const char *name, int flags, ...) { PERM return opened(AT_FDCWD, name, flags | O_LARGEFILE, perm); }
int openat(int dir, const char *name, int flags, ...) { PERM return opened(dir, name, flags, perm); }
int openat64(int dir, const char *name, int flags, ...) { PERM return opened(dir, name, flags | O_LARGEFILE, perm); }
int creat(const char *name, mode_t perm) { return opened(AT_FDCWD, name, O_CREAT | O_TRUNC | O_WRONLY, perm); }
int creat64(const char *name, mode_t perm) { return creat(name, perm); }

#define NAMED(call, dir, name, real) char buffer[PATH_MAX]; const char *path = at(dir, name, buffer); RUN(call, path, "", 0, "", 0, real)
int mkdir(const char *name, mode_t perm) { NAMED("mkdir", AT_FDCWD, name, REAL(mkdir)(name, perm)) }
int mkdirat(int dir, const char *name, mode_t perm) { NAMED("mkdir", dir, name, REAL(mkdirat)(dir, name, perm)) }
int rmdir(const char *name) { NAMED("rmdir", AT_FDCWD, name, REAL(rmdir)(name)) }
int unlink(const char *name) { NAMED("unlink", AT_FDCWD, name, REAL(unlink)(name)) }
int unlinkat(int dir, const char *name, int flags) { NAMED(flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir, name, REAL(unlinkat)(dir, name, flags)) }

static int linked(const char *to, int dir, const char *name) {
    char buffer[PATH_MAX];
    const char *path = at(dir, name, buffer);
    RUN("symlink", path, to, 0, "", 0, REAL(symlinkat)(to, dir, name))
}
int symlink(const char *to, const char *name) { return linked(to, AT_FDCWD, name); }
int symlinkat(const char *to, int dir, const char *name) { return linked(to, dir, name); }

static int renamed(int from, const char *a, int to, const char *b, unsigned flags) {
    char one[PATH_MAX], two[PATH_MAX];
    const char *path = at(from, a, one), *other = at(to, b, two);
    RUN("rename", path, other, 0, "", 0, REAL(renameat2)(from, a, to, b, flags))
}
int rename(const char *a, const char *b) { return renamed(AT_FDCWD, a, AT_FDCWD, b, 0); }
int renameat(int from, const char *a, int to, const char *b) { return renamed(from, a, to, b, 0); }
int renameat2(int from, const char *a, int to, const char *b, unsigned flags) { return renamed(from, a, to, b, flags); }

/* ---- descriptors ---- */

static long end(int fd) { return lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR); }

static ssize_t written(int fd, const void *data, size_t size, long offset, int positioned) {
    char buffer[PATH_MAX];
    const char *path = of(fd, buffer);
    int what = verdict(path), saved;
    if (what == UNWATCHED) return positioned ? REAL(pwrite)(fd, data, size, offset) : REAL(write)(fd, data, size);
    if (what == FAIL) return errno = fault, -1;
    if (what == SHORT) size -= size / 2;
    if (!positioned) offset = end(fd);
    ssize_t result = positioned ? REAL(pwrite)(fd, data, size, offset) : REAL(write)(fd, data, size);
    saved = errno;
    note(result < 0 ? "failed" : "write", path, "", offset, data, result < 0 ? 0 : result);
    if (what == KILL_AFTER) die();
    return errno = saved, result;
}
ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset, 1); }
ssize_t writev(int fd, const struct iovec *parts, int n) { /* a short write of its first part is legal */
    char buffer[PATH_MAX];
    size_t length = strlen(root);
    int ours = length && !strncmp(of(fd, buffer), root, length) && n;
    return ours ? written(fd, parts->iov_base, parts->iov_len, 0, 0) : REAL(writev)(fd, parts, n);
}

#define OPEN_FILE(call, fd, offset, real) char buffer[PATH_MAX]; const char *path = of(fd, buffer); RUN(call, path, "", offset, "", 0, real)
int fsync(int fd) { OPEN_FILE("fsync", fd, 0, REAL(fsync)(fd)) }
int fdatasync(int fd) { OPEN_FILE("fsync", fd, 0, REAL(fdatasync)(fd)) }
int ftruncate(int fd, off_t size) { OPEN_FILE("ftruncate", fd, size, REAL(ftruncate)(fd, size)) }
int ftruncate64(int fd, off64_t size) { OPEN_FILE("ftruncate", fd, size, REAL(ftruncate)(fd, size)) }
int close(int fd) { /* the descriptor is gone also when close fails */
    char buffer[PATH_MAX];
    const char *path = of(fd, buffer);
    int what = verdict(path);
    int result = REAL(close)(fd), saved = errno;
    if (what == KILL_AFTER) die();
    if (what == FAIL) return errno = fault, -1;
    if (what != UNWATCHED) note(result < 0 ? "failed" : "close", path, "", 0, "", 0);
    return errno = saved, result;
}
