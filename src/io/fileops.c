#include "io/fileops.h"

#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/banned.h"

static int system_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return openat(dirfd, path, flags | O_CLOEXEC, mode);
}

static int system_fallocate(int fd, off_t from, off_t len)
{
    return fallocate(fd, 0, from, len);
}

static int system_openat2(int dirfd, const char *path, struct open_how *how)
{
    return (int)syscall(SYS_openat2, dirfd, path, how, sizeof(*how));
}

static int system_linkat(int olddir, const char *old, int newdir, const char *new_)
{
    return linkat(olddir, old, newdir, new_, 0);
}

/* ---- metadata ---- */

static int system_set_owner(int fd, const char *name, uid_t uid, gid_t gid)
{
    return name ? fchownat(fd, name, uid, gid, AT_SYMLINK_NOFOLLOW) : fchown(fd, uid, gid);
}

static int system_set_mode(int fd, const char *name, mode_t mode)
{
    char self[64];

    if (name)
        return fchmodat(fd, name, mode, AT_SYMLINK_NOFOLLOW);
    int rc = fchmod(fd, mode);
    if (rc == 0 || errno != EBADF)
        return rc;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    return chmod(self, mode);
}

static int system_set_times(int fd, const char *name, const struct timespec times[2])
{
    return name ? utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW) : futimens(fd, times);
}

static int system_set_xattr(int fd, const char *name, const char *key, const void *value,
                            size_t len)
{
    char path[NAME_MAX + 64];

    if (!name)
        return fsetxattr(fd, key, value, len, 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", fd, name);
    return lsetxattr(path, key, value, len, 0);
}

static int system_gate(int op, const char *path)
{
    return 0;
}

const struct fileops fileops_system = {
    .openat = system_openat,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .fallocate = system_fallocate,
    .renameat2 = renameat2,
    .unlinkat = unlinkat,
    .mkdirat = mkdirat,
    .openat2 = system_openat2,
    .linkat = system_linkat,
    .symlinkat = symlinkat,
    .mknodat = mknodat,
    .syncfs = syncfs,
    .set_owner = system_set_owner,
    .set_mode = system_set_mode,
    .set_times = system_set_times,
    .set_xattr = system_set_xattr,
    .remove_xattr = fremovexattr,
    .gate = system_gate,
};

const struct fileops *fileops = &fileops_system;

int file_write_all(int fd, const void *p, size_t n, uint64_t off, struct error *e)
{
    const char *from = p;

    if (off > INT64_MAX || n > INT64_MAX - off)
        return error_sys(e, EFBIG, "cannot write at %llu", (unsigned long long)off);
    while (n > 0) {
        ssize_t put = fileops->pwrite(fd, from, n, (off_t)off);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return error_sys(e, put < 0 ? errno : EIO, "cannot write %zu bytes at %llu", n,
                             (unsigned long long)off);
        from += put;
        n -= (size_t)put;
        off += (uint64_t)put;
    }
    return 0;
}

int file_read_some(int fd, void *p, size_t n, uint64_t off, size_t *got, struct error *e)
{
    char *to = p;

    *got = 0;
    while (n > 0 && off <= INT64_MAX) {
        ssize_t have = fileops->pread(fd, to, n, (off_t)off);
        if (have < 0 && errno == EINTR)
            continue;
        if (have < 0)
            return error_sys(e, errno, "cannot read %zu bytes at %llu", n, (unsigned long long)off);
        if (have == 0)
            break;
        to += have;
        n -= (size_t)have;
        off += (uint64_t)have;
        *got += (size_t)have;
    }
    return 0;
}

int file_read_all(int fd, void *p, size_t n, uint64_t off, struct error *e)
{
    size_t got;
    int rc = file_read_some(fd, p, n, off, &got, e);

    if (rc == 0 && got < n)
        rc = error_set(e, ERR_DAMAGED, "file ends early: %zu of %zu bytes at %llu", got, n,
                       (unsigned long long)off);
    return rc;
}

int dir_sync(int dirfd, struct error *e)
{
    int rc;

    do
        rc = fileops->fsync(dirfd);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno != EINVAL)
        return error_sys(e, errno, "cannot flush the folder");
    return 0;
}
