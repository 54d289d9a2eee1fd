/* fileops.h - the table of file operations through which everything is written.
 *
 * Everything that changes the repository (packs, catalog through the VFS, format, lock), an archive
 * or what a restore writes goes through `fileops`, so that a test can fail, shorten or cut off the
 * Nth operation. Semantics are those of the system calls: -1 and errno. Reads of the store go
 * through it too.
 * The wrappers below loop over short transfers and EINTR and fill a struct error. */
#ifndef WK_IO_FILEOPS_H
#define WK_IO_FILEOPS_H

#include "base/error.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct open_how;

/* What the SQLite VFS asks `gate` about before it lets SQLite's own file code do it. */
enum fileop { FILEOP_OPEN, FILEOP_READ, FILEOP_WRITE, FILEOP_TRUNCATE, FILEOP_SYNC, FILEOP_DELETE };

struct fileops {
    /* openat adds O_CLOEXEC. */
    int (*openat)(int dirfd, const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *p, size_t n, off_t off);
    ssize_t (*pwrite)(int fd, const void *p, size_t n, off_t off);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t len);
    int (*fallocate)(int fd, off_t from, off_t len); /* mode 0 */
    int (*renameat2)(int olddir, const char *old, int newdir, const char *new_, unsigned flags);
    int (*unlinkat)(int dirfd, const char *path, int flags);
    int (*mkdirat)(int dirfd, const char *path, mode_t mode);
    int (*openat2)(int dirfd, const char *path, struct open_how *how);
    int (*linkat)(int olddir, const char *old, int newdir, const char *new_); /* no link followed */
    int (*symlinkat)(const char *target, int dirfd, const char *path);
    int (*mknodat)(int dirfd, const char *path, mode_t mode, dev_t dev);
    int (*syncfs)(int fd);
    /* Metadata of fd itself where name is NULL, else of that name in the folder fd; no link is
     * followed. */
    int (*set_owner)(int fd, const char *name, uid_t uid, gid_t gid);
    int (*set_mode)(int fd, const char *name, mode_t mode); /* fd may be O_PATH */
    int (*set_times)(int fd, const char *name, const struct timespec times[2]);
    int (*set_xattr)(int fd, const char *name, const char *key, const void *value, size_t len);
    int (*remove_xattr)(int fd, const char *key);
    /* May the operation (an enum fileop) on that file go ahead? 0, or the errno to fail with.
     * SQLite must do its I/O on its own descriptors: closing a second one would drop its POSIX
     * locks. path is as SQLite names it, "" for a temporary file. NULL stands for always yes. Any
     * thread. */
    int (*gate)(int op, const char *path);
};

/* The table in use; tests replace the pointer before any thread starts. */
extern const struct fileops *fileops;
extern const struct fileops fileops_system;

/* Write all n bytes at off. */
int file_write_all(int fd, const void *p, size_t n, uint64_t off, struct error *e);
/* Read exactly n bytes at off; ERR_DAMAGED with "ends early" when the file is shorter. */
int file_read_all(int fd, void *p, size_t n, uint64_t off, struct error *e);
/* Read up to n; *got tells how many (less only at the end of the file). */
int file_read_some(int fd, void *p, size_t n, uint64_t off, size_t *got, struct error *e);
/* Flush a folder's entries; dirfd is an ordinary descriptor, not O_PATH. A file system that cannot
 * flush folders (EINVAL) is no error. */
int dir_sync(int dirfd, struct error *e);

#endif
