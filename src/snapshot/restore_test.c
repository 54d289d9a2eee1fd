#include "snapshot/restore_test.h"

#include "io/safe_path.h"
#include "snapshot/test_folder.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

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

/* ---- all of it ---- */

/* A catalog that fails is replaced, and what was restored is looked at once more. */
static int compare_all(struct repo *r, const struct snapshot_row *s, int rootfd,
                       const atomic_bool *cancel, struct restore_test *out, struct error *e)
{
    const double seconds = out->seconds;
    struct catalog_try tried = repo_catalog_try(r);
    int rc;

    while (rc = compare(r, s, rootfd, cancel, out, e), repo_catalog_replaced(r, rc, &tried)) {
        restore_test_release(out);
        out->seconds = seconds;
    }
    return rc;
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
        rc = rootfd < 0 ? rootfd : compare_all(r, s, rootfd, cancel, out, e);
    if (rootfd >= 0)
        close(rootfd);
    return rc;
}

int restore_test_run(struct repo *r, const struct snapshot_row *s, const char *folder,
                     struct restore_progress *progress, const atomic_bool *cancel,
                     struct restore_test *out, struct error *e)
{
    struct test_folder t;
    int rc = test_folder_open(&t, folder, s->commit.bytes, e);

    *out = (struct restore_test){0};
    if (rc == 0)
        rc = restore_and_compare(r, s, t.target, progress, cancel, out, e);
    test_folder_close(&t);
    return rc;
}

void restore_test_release(struct restore_test *t)
{
    free(t->path);
    free(t->reason);
    *t = (struct restore_test){0};
}
