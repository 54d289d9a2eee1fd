/* fault_table.h - the table of file operations, failing at the Nth of some kind. Include it in one
 * file of a test. */
#ifndef WK_TESTS_FAULT_TABLE_H
#define WK_TESTS_FAULT_TABLE_H

#include "io/fileops.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* Which operations count, and are struck. */
enum {
    OF_CHANGES = 1,
    OF_CLOSES = 2,
    OF_FILES = 4, /* reads of packs and small files */
    OF_PAGES = 8, /* reads of the catalog */
    OF_READS = OF_FILES | OF_PAGES,
};

/* fail: the operation fails once. sticky: it and every one after it fail. kill: nothing at all
 * works from there on; a write is cut in half. cut: as kill, and the power goes. ragged: nothing
 * fails, but reads and writes are short, and every third is interrupted. */
enum mode { MODE_NONE, MODE_FAIL, MODE_STICKY, MODE_KILL, MODE_CUT, MODE_RAGGED };

struct flushed {
    ino_t ino;
    off_t len;
};

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    unsigned kinds;
    enum mode mode;
    int error;
    unsigned at, count;
    bool dead, hit;
    struct flushed flushed[256];
    size_t flushed_count;
} fault;

static inline bool strike_locked(unsigned kind, bool *first)
{
    *first = false;
    if (fault.mode == MODE_NONE || fault.mode == MODE_RAGGED)
        return false;
    if (kind & fault.kinds) {
        *first = ++fault.count == fault.at;
        fault.hit |= *first;
    }
    if (*first)
        fault.dead = fault.mode == MODE_KILL || fault.mode == MODE_CUT;
    return *first || fault.dead ||
           (fault.mode == MODE_STICKY && fault.hit && (kind & fault.kinds) != 0);
}

/* Whether this operation has to fail; *first: as the first one. */
static inline bool strike_first(unsigned kind, bool *first)
{
    pthread_mutex_lock(&fault_lock);
    bool struck = strike_locked(kind, first);
    if (struck)
        errno = fault.error;
    pthread_mutex_unlock(&fault_lock);
    return struck;
}

static inline bool strike(unsigned kind)
{
    bool first;

    return strike_first(kind, &first);
}

/* Ragged: this one is interrupted. */
static inline bool interrupted(void)
{
    pthread_mutex_lock(&fault_lock);
    bool now = fault.mode == MODE_RAGGED && ++fault.count % 3 == 0;
    pthread_mutex_unlock(&fault_lock);
    if (now)
        errno = EINTR;
    return now;
}

static inline size_t shortened(size_t n)
{
    return fault.mode == MODE_RAGGED && n > 1 ? n / 2 : n;
}

static inline void note_flushed(ino_t ino, off_t len)
{
    size_t i = 0;

    pthread_mutex_lock(&fault_lock);
    while (i < fault.flushed_count && fault.flushed[i].ino != ino)
        i++;
    assert_true(i < 256);
    if (i == fault.flushed_count)
        fault.flushed_count++;
    fault.flushed[i] = (struct flushed){ino, len};
    pthread_mutex_unlock(&fault_lock);
}

static inline off_t flushed_len(ino_t ino)
{
    for (size_t i = 0; i < fault.flushed_count; i++)
        if (fault.flushed[i].ino == ino)
            return fault.flushed[i].len;
    return 0;
}

static inline int fault_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    if (strike((flags & O_CREAT) ? OF_CHANGES : 0))
        return -1;
    return fileops_system.openat(dirfd, path, flags, mode);
}

/* Closed it is all the same. */
static inline int fault_close(int fd)
{
    int rc = fileops_system.close(fd);

    return strike(OF_CLOSES) ? -1 : rc;
}

static inline ssize_t fault_pread(int fd, void *p, size_t n, off_t off)
{
    if (strike(OF_FILES) || interrupted())
        return -1;
    return fileops_system.pread(fd, p, shortened(n), off);
}

static inline ssize_t fault_pwrite(int fd, const void *p, size_t n, off_t off)
{
    bool first;

    if (interrupted())
        return -1;
    if (!strike_first(OF_CHANGES, &first))
        return fileops_system.pwrite(fd, p, shortened(n), off);
    if (first && n > 1 && fileops_system.pwrite(fd, p, n / 2, off) < 0)
        return -1;
    errno = fault.error;
    return -1;
}

static inline int fault_sync(int fd)
{
    struct stat st;

    if (strike(OF_CHANGES))
        return -1;
    int rc = fileops_system.fdatasync(fd);
    if (rc == 0 && fstat(fd, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return rc;
}

static inline int fault_ftruncate(int fd, off_t len)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.ftruncate(fd, len);
}

static inline int fault_renameat2(int olddir, const char *old, int newdir, const char *new_,
                                  unsigned flags)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.renameat2(olddir, old, newdir, new_, flags);
}

static inline int fault_unlinkat(int dirfd, const char *path, int flags)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.unlinkat(dirfd, path, flags);
}

static inline int fault_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.mkdirat(dirfd, path, mode);
}

static inline int fault_gate(int op, const char *path)
{
    struct stat st;

    if (strike(op == FILEOP_READ ? OF_PAGES : op == FILEOP_OPEN ? 0 : OF_CHANGES))
        return fault.error;
    if (op == FILEOP_SYNC && stat(path, &st) == 0)
        note_flushed(st.st_ino, st.st_size);
    return 0;
}

static struct fileops fault_ops;

static inline void faults_on(unsigned kinds, enum mode mode, int error, unsigned at)
{
    fault_ops = fileops_system;
    fault_ops.openat = fault_openat;
    fault_ops.close = fault_close;
    fault_ops.pread = fault_pread;
    fault_ops.pwrite = fault_pwrite;
    fault_ops.fdatasync = fault_sync;
    fault_ops.fsync = fault_sync;
    fault_ops.ftruncate = fault_ftruncate;
    fault_ops.renameat2 = fault_renameat2;
    fault_ops.unlinkat = fault_unlinkat;
    fault_ops.mkdirat = fault_mkdirat;
    fault_ops.gate = fault_gate;
    memset(&fault, 0, sizeof(fault));
    fault.kinds = kinds;
    fault.mode = mode;
    fault.error = error;
    fault.at = at;
    fileops = &fault_ops;
}

static inline void faults_off(void)
{
    fileops = &fileops_system;
    fault.mode = MODE_NONE;
}

#endif
