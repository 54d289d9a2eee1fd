#include "snapshot/restore.h"

#include "base/text.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

struct output {
    struct chunk_source *source;
    const struct node *node;
    int fd;
    uint64_t *given; /* bytes that were written, by an earlier call too: those are passed over */
    uint64_t stream; /* bytes of the stream written */
    uint64_t pos;    /* in the file, holes counted */
    uint32_t extent;
    uint64_t in_extent;
};

static int put(struct output *o, const uint8_t *p, uint64_t len, struct error *e)
{
    if (o->pos < *o->given) {
        uint64_t known = *o->given - o->pos < len ? *o->given - o->pos : len;
        o->pos += known;
        p += known;
        len -= known;
    }
    while (len > 0) {
        ssize_t n = write(o->fd, p, (size_t)len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_sys(e, errno, "cannot write the content");
        p += n;
        len -= (uint64_t)n;
        o->pos += (uint64_t)n;
        *o->given = o->pos;
    }
    return 0;
}

static int put_hole(struct output *o, uint64_t until, struct error *e)
{
    static const uint8_t zeros[65536];
    int rc = 0;

    while (rc == 0 && o->pos < until) {
        uint64_t left = until - o->pos;
        rc = put(o, zeros, left < sizeof(zeros) ? left : sizeof(zeros), e);
    }
    return rc;
}

static int wrong_length(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "its content is not as long as it says");
}

/* The next bytes of the stream, holes before and between them filled. */
static int put_stream(struct output *o, const uint8_t *p, uint64_t len, struct error *e)
{
    const struct node *n = o->node;
    int rc = 0;

    o->stream += len;
    if (n->extent_count == 0)
        return len <= n->size - o->pos ? put(o, p, len, e) : wrong_length(e);
    while (rc == 0 && len > 0) {
        if (o->extent == n->extent_count)
            return wrong_length(e);
        const struct node_extent *x = &n->extents[o->extent];
        uint64_t left = x->len - o->in_extent;
        uint64_t now = len < left ? len : left;
        rc = put_hole(o, x->off + o->in_extent, e);
        if (rc == 0)
            rc = put(o, p, now, e);
        p += now;
        len -= now;
        o->in_extent += now;
        if (o->in_extent == x->len) {
            o->extent++;
            o->in_extent = 0;
        }
    }
    return rc;
}

static int put_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct output *o = ctx;
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(o->source, &ref->id, &p, &len, e);
    if (rc != 0)
        return rc;
    if (off != o->stream || len != ref->len)
        return wrong_length(e);
    return put_stream(o, p, len, e);
}

static int put_content(struct repo *r, const struct node *n, int fd, uint64_t *given,
                       struct error *e)
{
    uint64_t none = 0;
    struct output o = {.node = n, .fd = fd, .given = given ? given : &none};

    int rc = chunk_source_open(r, &o.source, e);
    if (rc != 0)
        return rc;
    rc = content_walk(o.source, n, put_chunk, &o, e);
    if (rc == 0 && n->extent_count == 0 && o.pos != n->size && n->ref_count > 0)
        rc = wrong_length(e);
    if (rc == 0 && o.extent != n->extent_count)
        rc = wrong_length(e);
    if (rc == 0)
        rc = put_hole(&o, n->size, e);
    chunk_source_close(o.source);
    return rc;
}

/* Only what has content to show. */
static int check_kind(const struct node *n, const char *path, struct error *e)
{
    char quoted[256];
    int rc = 0;

    text_escape(path, quoted, sizeof(quoted));
    if (n->type == NODE_FOLDER)
        rc = error_set(e, ERR_USAGE, "'%s' is a folder", quoted);
    else if (n->type == NODE_SYMLINK)
        rc = error_set(e, ERR_USAGE, "'%s' is a symbolic link", quoted);
    else if (n->type != NODE_FILE)
        rc = error_set(e, ERR_USAGE, "'%s' is no regular file", quoted);
    else if ((n->flags & NODE_UNREAD) && n->ref_count == 0)
        rc = error_set(e, ERR_INCOMPLETE, "'%s' could not be read when it was saved", quoted);
    return rc == 0 ? 0 : error_path(e, path);
}

static int find_node(struct repo *r, const struct snapshot_row *s, const char *path,
                     struct buffer *meta, struct error *e)
{
    struct catalog *c = repo_catalog(r);
    int64_t at = (int64_t)s->commit.number;
    uint64_t node;

    int rc = tree_find(c, s->watch_serial, at, path, &node, e);
    if (rc == 0)
        rc = catalog_node(c, s->watch_serial, node, at, meta, e);
    if (rc == 0 && !buffer_ok(meta))
        rc = error_set(e, ERR_FAILED, "out of memory");
    return rc;
}

int restore_cat(struct repo *r, const struct snapshot_row *s, const char *path, int fd,
                uint64_t *given, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct node n = {0};

    int rc = repo_lease(r, s->commit.number, e);
    if (rc != 0)
        return rc;
    rc = find_node(r, s, path, &meta, e);
    if (rc == 0)
        rc = node_decode(meta.data, meta.len, &n, e);
    if (rc == 0)
        rc = check_kind(&n, path, e);
    if (rc == 0) {
        rc = put_content(r, &n, fd, given, e);
        if (rc != 0 && !e->path[0])
            error_path(e, path);
    }
    repo_lease_end(r, s->commit.number);
    node_release(&n);
    buffer_release(&meta);
    return rc;
}
