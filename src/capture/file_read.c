#include "capture/file_read.h"

#include "base/safety.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { DATABASE_LEN_MIN = 100 }; /* of its header */

static const char sqlite_header[16] = "SQLite format 3";

/* Without O_NOATIME where it is not ours to ask for. */
static int open_quietly(int dirfd, const char *name)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = openat(dirfd, name, flags | O_NOATIME);

    if (fd < 0 && errno == EPERM)
        fd = openat(dirfd, name, flags);
    return fd;
}

static int open_failed(struct error *e, const char *name, int sys)
{
    int code = error_sys(e, sys, "cannot open '%s'", name);

    /* A link, a socket: no regular file any more. */
    return sys == ELOOP || sys == ENXIO || sys == ENODEV ? e->code = ERR_NOTFOUND : code;
}

static int look(struct file_read *f, const char *name, struct error *e)
{
    if (fstat(f->fd, &f->st) < 0)
        return error_sys(e, errno, "cannot stat '%s'", name);
    if (!S_ISREG(f->st.st_mode))
        return error_set(e, ERR_NOTFOUND, "'%s' is no regular file", name);
    signature_of(&f->st, &f->before);
    f->len = (uint64_t)f->st.st_size;
    return 0;
}

bool file_begins_as_database(const void *p, size_t n)
{
    return n >= DATABASE_LEN_MIN && memcmp(p, sqlite_header, sizeof(sqlite_header)) == 0;
}

bool file_read_is_database(const struct file_read *f)
{
    uint8_t head[DATABASE_LEN_MIN];

    if (f->len < sizeof(head))
        return false;
    ssize_t n = pread(f->fd, head, sizeof(head), 0);
    return n > 0 && file_begins_as_database(head, (size_t)n);
}

int file_read_open(struct file_read *f, int dirfd, const char *name, bool flush, struct error *e)
{
    *f = (struct file_read){.fd = open_quietly(dirfd, name)};
    if (f->fd < 0)
        return open_failed(e, name, errno);
    /* Write-back makes mapped pages clean and write-protected; a file system that cannot is one
     * where the deep rehash has to find such stores. */
    if (flush)
        sync_file_range(f->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    int rc = look(f, name, e);
    if (rc < 0)
        file_read_close(f);
    return rc;
}

int file_read_at(struct file_read *f, void *p, size_t n, uint64_t off, size_t *got, struct error *e)
{
    *got = 0;
    while (*got < n) {
        ssize_t r = pread(f->fd, (uint8_t *)p + *got, n - *got, (off_t)(off + *got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return error_sys(e, errno, "cannot read");
        if (r == 0)
            break;
        *got += (size_t)r;
    }
    return 0;
}

enum file_verdict file_read_check(struct file_read *f)
{
    struct signature now;

    if (fstat(f->fd, &f->st) < 0)
        return FILE_CHANGED;
    signature_of(&f->st, &now);
    if (!SAFETY(STABLE_READ, !signature_same(&f->before, &now)))
        return FILE_STABLE;
    return now.size > f->len ? FILE_GREW : FILE_CHANGED;
}

void file_read_close(struct file_read *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

/* ---- holes ---- */

struct runs {
    struct node_extent *v;
    uint32_t count, cap;
};

/* Every two neighbours become one: what is given up is sparseness, never data. */
static void coarsen(struct runs *r)
{
    uint32_t to = 0;

    for (uint32_t i = 0; i < r->count; i += 2) {
        const struct node_extent *last = &r->v[i + 1 < r->count ? i + 1 : i];
        r->v[to++] = (struct node_extent){r->v[i].off, last->off + last->len - r->v[i].off};
    }
    r->count = to;
}

static bool add_run(struct runs *r, uint64_t off, uint64_t len)
{
    if (r->count == NODE_EXTENTS_MAX)
        coarsen(r);
    if (r->count == r->cap) {
        uint32_t cap = r->cap ? 2 * r->cap : 16;
        struct node_extent *v = reallocarray(r->v, cap, sizeof(*v));
        if (!v)
            return false;
        r->v = v;
        r->cap = cap;
    }
    r->v[r->count++] = (struct node_extent){off, len};
    return true;
}

/* Where the next data run at or behind off begins and ends; 0 = none, negative = errno. */
static int next_run(int fd, uint64_t off, uint64_t len, uint64_t *begin, uint64_t *end)
{
    off_t data = lseek(fd, (off_t)off, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? 0 : -errno;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        return errno == ENXIO ? 0 : -errno;
    if ((uint64_t)data >= len)
        return 0;
    *begin = (uint64_t)data;
    *end = (uint64_t)hole < len ? (uint64_t)hole : len;
    return 1;
}

/* 0, or an errno. */
static int find_runs(struct file_read *f, struct runs *r)
{
    uint64_t begin = 0, end = 0;

    for (uint64_t off = 0; off < f->len; off = end) {
        int got = next_run(f->fd, off, f->len, &begin, &end);
        if (got <= 0)
            return -got;
        if (!add_run(r, begin, end - begin))
            return ENOMEM;
    }
    return 0;
}

int file_read_extents(struct file_read *f, struct node_extent **extents, uint32_t *count,
                      struct error *e)
{
    struct runs r = {0};

    *extents = NULL;
    *count = 0;
    if (f->len == 0 || (uint64_t)f->st.st_blocks * 512 >= f->len)
        return 0;
    int sys = find_runs(f, &r);
    if (sys == 0 && r.count == 0)
        return 1;
    bool holes = sys == 0 && !(r.count == 1 && r.v[0].len == f->len);
    if (!holes) { /* or a file system that knows none: all of it is data */
        free(r.v);
        return sys == ENOMEM ? error_sys(e, sys, "cannot list the holes") : 0;
    }
    *extents = r.v;
    *count = r.count;
    return 0;
}
