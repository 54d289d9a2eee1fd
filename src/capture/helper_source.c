#include "capture/helper_source.h"

#include "base/text.h"
#include "capture/database_header.h"
#include "io/fileops.h"
#include "io/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/banned.h"

/* The lock bytes of SQLite's unix VFS: pending, reserved, and 510 shared ones. */
enum { LOCK_BYTES = 512 };
static const uint64_t lock_first = UINT64_C(0x40000000);

static bool is_remote(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0)
        return true;
    switch ((uint32_t)fs.f_type) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case CODA_SUPER_MAGIC:
    case AFS_SUPER_MAGIC:
    case CEPH_SUPER_MAGIC:
    case V9FS_MAGIC:
    case FUSE_SUPER_MAGIC:
        return true;
    default:
        return false;
    }
}

static int look_at_side(const char *path, const char *suffix, struct side_file *s, struct error *e)
{
    struct stat st;
    char *name = text_format("%s%s", path, suffix);

    if (!name)
        return error_set(e, ERR_FAILED, "out of memory");
    int rc = lstat(name, &st) == 0 ? 0 : errno;
    free(name);
    if (rc == 0) {
        s->there = true;
        signature_of(&st, &s->sig);
    } else if (rc != ENOENT) {
        return error_sys(e, rc, "cannot look at the '%s' file", suffix);
    }
    return 0;
}

/* SQLite's own test for a journal that could be hot: its first byte is not zero. */
static int look_at_journal(const char *path, struct source_look *l, struct error *e)
{
    uint8_t first = 0;
    int rc = look_at_side(path, "-journal", &l->journal, e);

    if (rc != 0 || !l->journal.there || l->journal.sig.size == 0)
        return rc;
    char *name = text_format("%s-journal", path);
    if (!name)
        return error_set(e, ERR_FAILED, "out of memory");
    int fd = open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    free(name);
    if (fd < 0 && errno != ENOENT)
        return error_sys(e, errno, "cannot open the '-journal' file");
    if (fd >= 0) {
        l->hot = pread(fd, &first, 1, 0) == 1 && first != 0;
        close(fd);
    }
    return 0;
}

static int look_at_database(int fd, struct source_look *l, struct error *e)
{
    uint8_t header[DATABASE_HEADER_LEN] = {0};
    struct stat st;
    size_t got;

    if (fstat(fd, &st) != 0)
        return error_sys(e, errno, "cannot look at it");
    if (!S_ISREG(st.st_mode))
        return error_set(e, ERR_USAGE, "not a regular file");
    signature_of(&st, &l->db);
    l->remote = is_remote(fd);
    l->writer = lock_held(fd, lock_first, LOCK_BYTES, false);
    l->held = lock_held(fd, lock_first, LOCK_BYTES, true);
    int rc = file_read_some(fd, header, sizeof(header), 0, &got, e);
    if (rc != 0)
        return rc;
    l->wal_mode = database_header_is_wal(header);
    return database_header_check(header, l->db.size, &l->page_size, &l->image_len, e);
}

int source_look(const char *path, struct source_look *l, struct error *e)
{
    *l = (struct source_look){.at = clock_wall()};
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_sys(e, errno, "cannot open it");
    int rc = look_at_database(fd, l, e);
    close(fd);
    int sides = look_at_side(path, "-wal", &l->wal, e);
    if (sides == 0)
        sides = look_at_side(path, "-shm", &l->shm, e);
    if (sides == 0)
        sides = look_at_journal(path, l, e);
    if (sides != 0)
        return sides;
    /* Pages may stand in a side file alone, and a writer may be at it: then only SQLite can tell.
     */
    if (rc == ERR_DAMAGED && (l->held || l->hot || l->wal.sig.size > 0)) {
        error_clear(e);
        return 0;
    }
    return rc;
}

static bool side_same(const struct side_file *a, const struct side_file *b)
{
    return a->there == b->there && (!a->there || signature_same(&a->sig, &b->sig));
}

bool source_same(const struct source_look *a, const struct source_look *b)
{
    return signature_same(&a->db, &b->db) && side_same(&a->wal, &b->wal) &&
           side_same(&a->journal, &b->journal) && a->hot == b->hot;
}

bool source_racy(const struct source_look *l)
{
    return signature_is_racy(&l->db, l->at) ||
           (l->wal.there && signature_is_racy(&l->wal.sig, l->at)) ||
           (l->journal.there && signature_is_racy(&l->journal.sig, l->at));
}
