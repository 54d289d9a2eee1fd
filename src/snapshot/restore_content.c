/* The content of files. A chunk is written where it belongs as soon as it was read and matched; a
 * long file is written by all workers at once, each at the offsets of its part. Where a chunk
 * belongs follows from the lengths in the lists of chunks, which the store holds against each
 * other: so the parts make up the whole when their bytes add up to its length. */
#include "snapshot/restore_job.h"

#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct content {
    struct restore_worker *worker;
    const struct node *node;
    int dir, fd; /* fd -1: not made yet */
    const char *name;
    uint64_t whole;        /* bytes of the stream */
    uint64_t pos, written; /* in the stream; bytes of it */
    uint32_t extent;       /* where pos stands in the node's data runs */
    uint64_t in_extent;
    bool target_failed; /* not the repository */
};

uint64_t restore_stream_len(const struct node *n)
{
    uint64_t sum = 0;

    if (n->extent_count == 0)
        return n->ref_count > 0 ? n->size : 0;
    for (uint32_t i = 0; i < n->extent_count; i++)
        sum += n->extents[i].len;
    return sum;
}

int restore_create(int dir, const char *name, const struct node *n, struct error *e)
{
    /* Nobody but us gets into the tree, so that the mode need not wait for the owner; but a file
     * that its owner may not write takes no attributes. */
    mode_t mode = (n->mode & 0777) | (n->xattr_count > 0 ? S_IWUSR : 0u);

    return safe_open(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode, e);
}

static int content_create(struct content *c, struct error *e)
{
    if (c->fd < 0)
        c->fd = restore_create(c->dir, c->name, c->node, e);
    return c->fd < 0 ? c->fd : 0;
}

static void seek_to(struct content *c, uint64_t pos)
{
    const struct node *n = c->node;
    uint64_t left = pos;

    c->pos = pos;
    c->extent = 0;
    while (c->extent < n->extent_count && left >= n->extents[c->extent].len)
        left -= n->extents[c->extent++].len;
    c->in_extent = left;
}

/* The next len bytes of the stream go where the data runs say. */
static int content_write(struct content *c, const uint8_t *p, uint64_t len, struct error *e)
{
    const struct node *n = c->node;
    int rc = 0;

    c->written += len;
    if (n->extent_count == 0) {
        rc = file_write_all(c->fd, p, (size_t)len, c->pos, e);
        c->pos += len;
        return rc;
    }
    while (rc == 0 && len > 0) {
        const struct node_extent *x = &n->extents[c->extent];
        uint64_t left = x->len - c->in_extent;
        uint64_t now = len < left ? len : left;
        rc = file_write_all(c->fd, p, (size_t)now, x->off + c->in_extent, e);
        p += now;
        len -= now;
        c->pos += now;
        c->in_extent += now;
        if (c->in_extent == x->len) {
            c->extent++;
            c->in_extent = 0;
        }
    }
    return rc;
}

static int wrong_length(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "its content is not as long as it says");
}

static int content_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct content *c = ctx;
    struct restore_job *j = c->worker->job;
    const uint8_t *p;
    size_t len;

    int rc = restore_stopped(j);
    if (rc == 0)
        rc = chunk_source_get(c->worker->source, &ref->id, &p, &len, e);
    if (rc != 0)
        return rc;
    if (len != ref->len || off > c->whole || len > c->whole - off)
        return wrong_length(e);
    if (off != c->pos)
        seek_to(c, off);
    rc = content_create(c, e);
    if (rc == 0)
        rc = content_write(c, p, len, e);
    c->target_failed = rc != 0;
    if (rc == 0 && j->req->progress)
        atomic_fetch_add(&j->req->progress->bytes_done, len);
    return rc;
}

/* Length and metadata of a file whose content stands; the descriptor is closed. */
static int finish(struct restore_worker *w, const struct node *n, int fd, struct error *e)
{
    struct restore_subject s = {.fd = fd, .path = (const char *)w->path.data};
    uint64_t end = restore_stream_len(n);
    int rc = 0;

    if (n->extent_count > 0)
        end = n->extents[n->extent_count - 1].off + n->extents[n->extent_count - 1].len;
    if (n->size > INT64_MAX)
        rc = wrong_length(e);
    else if (n->size != end && fileops->ftruncate(fd, (off_t)n->size) != 0)
        rc = error_sys(e, errno, "cannot set its length");
    if (rc == 0)
        rc = restore_metadata(w->job, &s, n, e);
    /* Some file systems tell only now that there was no room. */
    if (fileops->close(fd) != 0 && rc == 0)
        rc = error_sys(e, errno, "cannot write it out");
    return rc;
}

static int never_read(const struct node *n, struct error *e)
{
    char quoted[256];

    return error_set(e, ERR_INCOMPLETE, "it could not be read when it was saved%s%s",
                     n->reason ? ": " : "",
                     n->reason ? text_escape(n->reason, quoted, sizeof(quoted)) : "");
}

/* What stands from..to of the stream. */
static int write_range(struct content *c, uint64_t from, uint64_t to, struct error *e)
{
    if ((c->node->flags & NODE_UNREAD) && c->node->ref_count == 0)
        return never_read(c->node, e);
    int rc = content_walk_range(c->worker->source, c->node, from, to, content_chunk, c, e);
    if (rc != 0 && !c->target_failed)
        e->sys = 0; /* what the repository cannot give costs this file alone */
    return rc;
}

int restore_file(struct restore_worker *w, const struct node *n, int dir, const char *name,
                 struct error *e)
{
    struct content c = {
        .worker = w, .node = n, .dir = dir, .fd = -1, .name = name, .whole = restore_stream_len(n)};

    int rc = write_range(&c, 0, UINT64_MAX, e);
    if (rc == 0 && c.written != c.whole)
        rc = wrong_length(e);
    if (rc == 0)
        rc = content_create(&c, e);
    if (c.fd < 0)
        return rc;
    if (rc == 0)
        rc = finish(w, n, c.fd, e);
    else
        close(c.fd);
    if (rc != 0)
        fileops->unlinkat(dir, name, 0);
    else
        atomic_fetch_add_explicit(&w->job->bytes, c.written, memory_order_relaxed);
    return rc;
}

/* ---- in parts ---- */

void restore_split_free(struct restore_split *s)
{
    if (s->fd >= 0)
        close(s->fd);
    free(s->meta);
    free(s);
}

static void give_up(struct restore_split *s, const struct error *why)
{
    if (s->code == 0) {
        s->code = why->code;
        s->why = *why;
    }
}

/* The descriptor all parts write through; made by whoever comes first. */
static int split_open(struct restore_worker *w, struct restore_split *s, const struct node *n,
                      int dir, struct error *e)
{
    pthread_mutex_lock(&w->job->lock);
    if (s->code == 0 && s->fd < 0) {
        s->fd = restore_create(dir, s->name, n, e);
        s->made = s->fd >= 0;
        if (s->fd < 0)
            give_up(s, e);
    }
    int fd = s->code == 0 ? s->fd : s->code;
    pthread_mutex_unlock(&w->job->lock);
    return fd;
}

/* One part more is done, rc telling how. Whether it was the last. */
static bool split_done(struct restore_worker *w, struct restore_split *s, uint64_t written, int rc,
                       const struct error *e)
{
    pthread_mutex_lock(&w->job->lock);
    if (rc != 0)
        give_up(s, e);
    s->written += written;
    bool last = --s->left == 0;
    pthread_mutex_unlock(&w->job->lock);
    return last;
}

/* Nobody else has it any more. */
static int split_end(struct restore_worker *w, struct restore_split *s, const struct node *n,
                     int dir, struct error *e)
{
    int fd = s->fd;
    int rc = s->code;

    s->fd = -1;
    if (rc != 0)
        *e = s->why;
    else if (s->written != restore_stream_len(n))
        rc = wrong_length(e);
    if (rc == 0)
        rc = finish(w, n, fd, e);
    else if (fd >= 0)
        close(fd);
    if (rc == 0)
        atomic_fetch_add_explicit(&w->job->bytes, s->written, memory_order_relaxed);
    else if (s->made && (dir < 0 || fileops->unlinkat(dir, s->name, 0) != 0))
        restore_fail(w->job, e); /* what is half-written must not be put in place */
    return rc;
}

int restore_part(struct restore_worker *w, const struct restore_item *item, const struct node *n,
                 int dir, bool *last, struct error *e)
{
    struct restore_split *s = item->split;
    struct content c = {
        .worker = w, .node = n, .dir = dir, .name = s->name, .whole = restore_stream_len(n)};
    int rc = dir;

    if (dir >= 0)
        c.fd = rc = split_open(w, s, n, dir, e);
    if (rc >= 0)
        rc = write_range(&c, item->from, item->to, e);
    *last = split_done(w, s, c.written, rc, e);
    return *last ? split_end(w, s, n, dir, e) : 0;
}
