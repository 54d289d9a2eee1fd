#include "snapshot/restore_test.h"

#include "base/text.h"
#include "io/safe_path.h"
#include "snapshot/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/banned.h"

static const char prefix[] = "restore-test-";
static const char inner[] = "tree";

/* ---- comparing ---- */

struct compare {
    struct restore_test *out;
    struct chunk_source *source;
    const atomic_bool *cancel;
    const struct node *node; /* of the file at hand */
    int rootfd, fd;
    uint32_t extent;
    uint64_t in_extent;
    uint8_t *data;
    size_t cap;
    const char *wrong; /* with this file, or NULL */
};

static void tell(struct compare *c, const char *path, const char *reason)
{
    struct restore_test *t = c->out;

    if (t->errors++ > 0)
        return;
    t->path = strdup(path);
    t->reason = strdup(reason);
}

static bool read_exact(int fd, uint8_t *p, uint64_t len, uint64_t off)
{
    while (len > 0) {
        ssize_t n = pread(fd, p, (size_t)len, (off_t)off);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return false;
        if (n > 0) {
            p += n;
            off += (uint64_t)n;
            len -= (uint64_t)n;
        }
    }
    return true;
}

/* The next len bytes of the stream, from where the data runs put them. */
static bool read_stream(struct compare *c, uint64_t off, uint8_t *p, uint64_t len)
{
    const struct node *n = c->node;

    if (n->extent_count == 0)
        return read_exact(c->fd, p, len, off);
    while (len > 0 && c->extent < n->extent_count) {
        const struct node_extent *x = &n->extents[c->extent];
        uint64_t left = x->len - c->in_extent;
        uint64_t now = len < left ? len : left;
        if (!read_exact(c->fd, p, now, x->off + c->in_extent))
            return false;
        p += now;
        len -= now;
        c->in_extent += now;
        if (c->in_extent == x->len) {
            c->extent++;
            c->in_extent = 0;
        }
    }
    return len == 0;
}

static int compare_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct compare *c = ctx;
    struct hash hash;

    if (c->cancel && atomic_load_explicit(c->cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "the test of a restore was interrupted");
    if (ref->len > c->cap) {
        free(c->data);
        c->data = malloc((size_t)ref->len);
        c->cap = c->data ? (size_t)ref->len : 0;
        if (!c->data)
            return error_sys(e, ENOMEM, "cannot test a restore");
    }
    if (c->wrong)
        return 0;
    if (!read_stream(c, off, c->data, ref->len)) {
        c->wrong = "it cannot be read back";
        return 0;
    }
    hash_sha256(c->data, (size_t)ref->len, &hash);
    if (!hash_equal(&hash, &ref->id))
        c->wrong = "its content is not what was saved";
    return 0;
}

static int compare_content(struct compare *c, const char *path, struct error *e)
{
    struct error why = ERROR_INIT;
    struct stat st;
    int rc = 0;

    c->fd = safe_open(c->rootfd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
    if (c->fd < 0) {
        tell(c, path, why.message);
        return 0;
    }
    posix_fadvise(c->fd, 0, 0, POSIX_FADV_DONTNEED);
    c->extent = 0;
    c->in_extent = 0;
    c->wrong = NULL;
    if (fstat(c->fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != c->node->size)
        c->wrong = "it has not the length that was saved";
    else
        rc = content_walk(c->source, c->node, compare_chunk, c, e);
    close(c->fd);
    if (c->wrong)
        tell(c, path, c->wrong);
    else if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND)
        tell(c, path, e->message);
    if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    c->out->files++;
    c->out->bytes += c->node->size;
    return rc;
}

static int visit(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct compare *c = ctx;
    struct error why = ERROR_INIT;
    struct node n;
    struct stat st;
    int rc = 0;

    if (node_decode(t->meta, t->meta_len, &n, &why) != 0) {
        tell(c, t->path, why.message);
        return 0;
    }
    c->node = &n;
    if (n.type == NODE_FILE && !((n.flags & NODE_UNREAD) && n.ref_count == 0))
        rc = compare_content(c, t->path, e);
    else if ((n.type == NODE_FOLDER || n.type == NODE_SYMLINK) &&
             safe_stat(c->rootfd, t->path, &st, &why) != 0)
        tell(c, t->path, why.message);
    node_release(&n);
    return rc;
}

static int compare(struct repo *r, const struct snapshot_row *s, int rootfd,
                   const atomic_bool *cancel, struct restore_test *out, struct error *e)
{
    struct compare c = {.out = out, .cancel = cancel, .rootfd = rootfd};
    struct catalog *catalog = NULL;

    int rc = chunk_source_open(r, &c.source, e);
    if (rc == 0)
        rc = repo_catalog_open(r, &catalog, e);
    if (rc == 0)
        rc = tree_walk(catalog, s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX, visit, &c,
                       e);
    if (catalog)
        repo_catalog_close(r, catalog);
    chunk_source_close(c.source);
    free(c.data);
    return rc;
}

/* ---- the folder ---- */

/* A test that runs holds a lock on its folder. */
static bool is_left(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return false;
    bool left = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return left;
}

static void remove_left(int dir)
{
    struct error ignored = ERROR_INIT;
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;

    if (!d && copy >= 0)
        close(copy);
    while (d && (entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, prefix, sizeof(prefix) - 1) == 0 && is_left(dir, entry->d_name))
            remove_tree(dir, entry->d_name, &ignored);
    }
    if (d)
        closedir(d);
}

static int check_room(int dir, const char *folder, uint64_t bytes, struct error *e)
{
    struct statvfs fs;
    uint64_t need = bytes + bytes / 20;
    char size[16];

    if (fstatvfs(dir, &fs) != 0)
        return error_sys(e, errno, "cannot test a restore in '%s'", folder);
    if ((uint64_t)fs.f_bavail * fs.f_frsize >= need)
        return 0;
    text_size(need, size, sizeof(size));
    return error_set(e, ERR_NOSPACE, "no room to test a restore: '%s' has less than %s free",
                     folder, size);
}

static int restore_and_compare(struct repo *r, const struct snapshot_row *s, const char *target,
                               struct restore_progress *progress, const atomic_bool *cancel,
                               struct restore_test *out, struct error *e)
{
    struct restore_request request = {
        .repo = r, .snapshot = s, .target = target, .progress = progress, .cancel = cancel};
    struct restore_result result = {0};

    int rc = restore_run(&request, &result, e);
    out->seconds = result.seconds;
    if (result.finished && (rc == ERR_DAMAGED || rc == ERR_INCOMPLETE)) {
        error_clear(e); /* comparing tells what is missing */
        rc = 0;
    }
    restore_result_release(&result);
    int rootfd = rc == 0 ? long_path_open(target, O_PATH | O_DIRECTORY, e) : -1;
    if (rc == 0)
        rc = rootfd < 0 ? rootfd : compare(r, s, rootfd, cancel, out, e);
    if (rootfd >= 0)
        close(rootfd);
    return rc;
}

int restore_test_run(struct repo *r, const struct snapshot_row *s, const char *folder,
                     struct restore_progress *progress, const atomic_bool *cancel,
                     struct restore_test *out, struct error *e)
{
    struct error ignored = ERROR_INIT;
    int rc = make_dirs(folder, 0700, e), dir = -1, lock = -1;
    char *own = text_format("%s/%sXXXXXX", folder, prefix), *target = NULL;

    *out = (struct restore_test){0};
    if (rc == 0 && !own)
        rc = error_sys(e, ENOMEM, "cannot test a restore");
    if (rc == 0 && (dir = long_path_open(folder, O_RDONLY | O_DIRECTORY, e)) < 0)
        rc = dir;
    if (rc == 0) {
        remove_left(dir);
        rc = check_room(dir, folder, s->commit.bytes, e);
    }
    if (rc == 0 && (!mkdtemp(own) || (lock = open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
                    flock(lock, LOCK_EX | LOCK_NB) != 0))
        rc = error_sys(e, errno, "cannot make a folder in '%s'", folder);
    if (rc == 0) {
        target = text_format("%s/%s", own, inner);
        rc = target ? restore_and_compare(r, s, target, progress, cancel, out, e)
                    : error_sys(e, ENOMEM, "cannot test a restore");
    }
    if (lock >= 0) {
        remove_tree(dir, strrchr(own, '/') + 1, &ignored);
        close(lock);
    }
    if (dir >= 0)
        close(dir);
    free(target);
    free(own);
    return rc;
}

void restore_test_release(struct restore_test *t)
{
    free(t->path);
    free(t->reason);
    *t = (struct restore_test){0};
}
