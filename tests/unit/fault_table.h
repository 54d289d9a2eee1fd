/* fault_table.h - the table of file operations, failing at the Nth of some kind. Include it in one
 * file of a test. */
#ifndef WK_TESTS_FAULT_TABLE_H
#define WK_TESTS_FAULT_TABLE_H

#include "io/fileops.h"

#include <dirent.h>
#include <errno.h>
#include <linux/openat2.h>
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
    OF_MEMORY = 16, /* see no_memory.h */
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
    ino_t unflushed[1024]; /* files written to, in a run that ends with a cut */
    size_t unflushed_count;
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

/* ---- what a power cut takes: the content of files written to and not flushed since ---- */

static inline bool is_unflushed(ino_t ino)
{
    for (size_t i = 0; i < fault.unflushed_count; i++)
        if (fault.unflushed[i] == ino)
            return true;
    return false;
}

static inline void add_unflushed(ino_t ino)
{
    pthread_mutex_lock(&fault_lock);
    assert_true(fault.unflushed_count < 1024);
    if (!is_unflushed(ino))
        fault.unflushed[fault.unflushed_count++] = ino;
    pthread_mutex_unlock(&fault_lock);
}

static inline void note_written(int fd)
{
    struct stat st;

    if (fault.mode == MODE_CUT && fstat(fd, &st) == 0)
        add_unflushed(st.st_ino);
}

/* ino 0: everything. */
static inline void note_clean(ino_t ino)
{
    pthread_mutex_lock(&fault_lock);
    for (size_t i = fault.unflushed_count; i-- > 0;)
        if (ino == 0 || fault.unflushed[i] == ino)
            fault.unflushed[i] = fault.unflushed[--fault.unflushed_count];
    pthread_mutex_unlock(&fault_lock);
}

/* Files below dirfd lose what was not flushed: their end, or all. Returns how many. */
static inline unsigned lose_unflushed(int dirfd)
{
    DIR *dir = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const struct dirent *entry;
    unsigned lost = 0;
    struct stat st;

    while (dir && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (entry->d_type != DT_DIR && entry->d_type != DT_REG))
            continue;
        int fd = openat(dirfd, entry->d_name,
                        O_NOFOLLOW | O_CLOEXEC | (entry->d_type == DT_DIR ? O_RDONLY : O_RDWR));
        if (fd >= 0 && entry->d_type == DT_DIR) {
            lost += lose_unflushed(fd);
        } else if (fd >= 0 && fstat(fd, &st) == 0 && is_unflushed(st.st_ino)) {
            lost++;
            if (ftruncate(fd, st.st_size > 4096 ? 4096 : 0) != 0)
                lost--;
        }
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
    return lost;
}

/* ---- the operations ---- */

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
    note_written(fd);
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
    if (rc == 0 && fstat(fd, &st) == 0) {
        note_flushed(st.st_ino, st.st_size);
        note_clean(st.st_ino);
    }
    return rc;
}

static inline int fault_ftruncate(int fd, off_t len)
{
    if (strike(OF_CHANGES))
        return -1;
    note_written(fd);
    return fileops_system.ftruncate(fd, len);
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

static inline int fault_openat2(int dirfd, const char *path, struct open_how *how)
{
    if (strike((how->flags & O_CREAT) ? OF_CHANGES : 0))
        return -1;
    return fileops_system.openat2(dirfd, path, how);
}

static inline int fault_linkat(int olddir, const char *old, int newdir, const char *new_)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.linkat(olddir, old, newdir, new_);
}

static inline int fault_symlinkat(const char *target, int dirfd, const char *path)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.symlinkat(target, dirfd, path);
}

static inline int fault_mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.mknodat(dirfd, path, mode, dev);
}

/* Of memory, mostly: what it would flush is noted, not waited for. */
static inline int fault_syncfs(int fd)
{
    if (strike(OF_CHANGES))
        return -1;
    note_clean(0);
    return 0;
}

static inline int fault_set_owner(int fd, const char *name, uid_t uid, gid_t gid)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.set_owner(fd, name, uid, gid);
}

static inline int fault_set_mode(int fd, const char *name, mode_t mode)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.set_mode(fd, name, mode);
}

static inline int fault_set_times(int fd, const char *name, const struct timespec times[2])
{
    return strike(OF_CHANGES) ? -1 : fileops_system.set_times(fd, name, times);
}

static inline int fault_set_xattr(int fd, const char *name, const char *key, const void *value,
                                  size_t len)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.set_xattr(fd, name, key, value, len);
}

static inline int fault_remove_xattr(int fd, const char *key)
{
    return strike(OF_CHANGES) ? -1 : fileops_system.remove_xattr(fd, key);
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
    fault_ops.openat2 = fault_openat2;
    fault_ops.linkat = fault_linkat;
    fault_ops.symlinkat = fault_symlinkat;
    fault_ops.mknodat = fault_mknodat;
    fault_ops.syncfs = fault_syncfs;
    fault_ops.set_owner = fault_set_owner;
    fault_ops.set_mode = fault_set_mode;
    fault_ops.set_times = fault_set_times;
    fault_ops.set_xattr = fault_set_xattr;
    fault_ops.remove_xattr = fault_remove_xattr;
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
