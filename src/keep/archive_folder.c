/* The tree as plain files: a restore of the snapshot into the temporary folder, whose content is
 * then compared with the snapshot chunk by chunk and hashed for the metadata. */
#include "keep/archive_private.h"

#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"
#include "snapshot/restore.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

struct folder_job {
    struct repo *repo;
    struct archive_meta *meta;
    struct chunk_source *source;
    struct catalog *catalog;
    int tree;
    uint64_t stored;
    struct buffer bytes; /* of one chunk */
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int restore_tree(struct repo *r, struct archive_meta *m, struct archive_place *p,
                        struct error *e)
{
    struct restore_result result = {0};
    char *target = text_format("%s/%s/" ARCHIVE_TREE, p->folder, p->temp);
    struct restore_request request = {.repo = r,
                                      .snapshot = m->order->snapshot,
                                      .target = target,
                                      .workers = m->order->workers,
                                      .cancel = m->order->cancel};

    if (!target)
        return no_memory(e);
    int rc = restore_run(&request, &result, e);
    if (rc == ERR_INCOMPLETE && result.finished) { /* the walk below names them */
        error_clear(e);
        rc = 0;
    }
    restore_result_release(&result);
    free(target);
    return rc;
}

/* ---- hashes of what stands there ---- */

struct reading {
    struct folder_job *job;
    struct archive_hasher hash;
    const struct node *node;
    int fd;
};

/* Bytes of the file at a place of the stream, which are the data runs end to end. */
static int read_stream(struct reading *r, uint64_t off, uint8_t *to, uint64_t len, struct error *e)
{
    const struct node *n = r->node;
    int rc = 0;

    if (n->extent_count == 0)
        return file_read_all(r->fd, to, (size_t)len, off, e);
    for (uint32_t i = 0; rc == 0 && i < n->extent_count && len > 0; i++) {
        const struct node_extent *x = &n->extents[i];
        if (off >= x->len) {
            off -= x->len;
            continue;
        }
        uint64_t now = len < x->len - off ? len : x->len - off;
        rc = file_read_all(r->fd, to, (size_t)now, x->off + off, e);
        to += now;
        len -= now;
        off = 0;
    }
    return rc == 0 && len > 0 ? error_set(e, ERR_DAMAGED, "its list of content is too long") : rc;
}

static int check_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct reading *r = ctx;
    struct buffer *b = &r->job->bytes;
    struct hash found;

    buffer_clear(b);
    uint8_t *to = ref->len <= BLOCK_RAW_MAX ? buffer_grow(b, (size_t)ref->len) : NULL;
    int rc = to ? read_stream(r, off, to, ref->len, e) : no_memory(e);
    if (rc != 0)
        return rc;
    hash_sha256(to, (size_t)ref->len, &found);
    if (!hash_equal(&found, &ref->id))
        return error_set(e, ERR_DAMAGED, "it does not read back as it was written");
    return archive_hash_add(&r->hash, to, ref->len, e);
}

static int hash_file(struct folder_job *j, const char *path, const struct node *n, struct error *e)
{
    struct reading r = {.job = j, .node = n};
    struct hash sum;
    struct stat st;

    r.fd = safe_open(j->tree, path, O_RDONLY | O_NOFOLLOW, 0, e);
    if (r.fd < 0)
        return r.fd;
    int rc = archive_hash_begin(&r.hash, n, e);
    if (rc == 0)
        rc = content_walk(j->source, n, check_chunk, &r, e);
    if (rc == 0)
        rc = archive_hash_end(&r.hash, &sum, e);
    archive_hash_release(&r.hash);
    if (rc == 0 && fstat(r.fd, &st) == 0)
        j->stored += (uint64_t)st.st_blocks * 512;
    close(r.fd);
    if (rc == 0)
        archive_meta_file(j->meta, path, n->size, &sum);
    return rc;
}

static int visit_node(struct folder_job *j, const char *path, const struct node *n, struct error *e)
{
    if (n->type != NODE_FILE)
        return 0;
    if ((n->flags & NODE_UNREAD) && n->ref_count == 0)
        return archive_meta_left_out(
            j->meta, path, n->reason ? n->reason : "it could not be read when it was saved", e);
    if (n->flags & NODE_SQLITE)
        archive_meta_database(j->meta, path, n->size);
    return hash_file(j, path, n, e);
}

static int visit(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct folder_job *j = ctx;
    const atomic_bool *cancel = j->meta->order->cancel;
    struct node n;

    if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "archive was interrupted");
    int rc = node_decode(t->meta, t->meta_len, &n, e);
    if (rc != 0)
        return rc;
    rc = visit_node(j, t->path, &n, e);
    node_release(&n);
    if (rc != 0 && !e->path[0])
        error_path(e, t->path);
    return rc;
}

static int open_tree(const struct archive_place *p, struct error *e)
{
    return safe_open(p->lock, ARCHIVE_TREE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, e);
}

/* ---- how much it will be ---- */

struct measure {
    int64_t number;
    uint64_t bytes;
};

static int add_data(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                    size_t len)
{
    struct error ignored = ERROR_INIT;
    struct measure *m = ctx;
    struct node n;

    if (from > m->number || to <= m->number || node_decode(meta, len, &n, &ignored) != 0)
        return 0;
    for (uint32_t i = 0; n.type == NODE_FILE && i < n.extent_count; i++)
        m->bytes += n.extents[i].len;
    m->bytes += n.type == NODE_FILE && n.extent_count == 0 && n.ref_count > 0 ? n.size : 0;
    node_release(&n);
    return 0;
}

/* Holes take no room. */
static int check_room(struct repo *r, const struct archive_meta *m, const struct archive_place *p,
                      struct error *e)
{
    const struct snapshot_row *s = m->order->snapshot;
    struct measure all = {.number = (int64_t)s->commit.number};
    struct catalog *c;

    if (m->order->leave_free == 0)
        return 0;
    int rc = repo_catalog_open(r, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_nodes(c, s->watch_serial, add_data, &all, e);
    repo_catalog_close(r, c);
    return rc == 0 ? archive_room(m->order, p->lock, all.bytes, e) : rc;
}

int archive_folder_write(struct repo *r, struct archive_meta *m, struct archive_place *p,
                         uint64_t *stored, struct error *e)
{
    const struct snapshot_row *s = m->order->snapshot;
    struct folder_job j = {.repo = r, .meta = m, .tree = -1};

    int rc = check_room(r, m, p, e);
    if (rc == 0)
        rc = restore_tree(r, m, p, e);
    if (rc == 0 && (j.tree = open_tree(p, e)) < 0)
        rc = j.tree;
    if (rc == 0)
        rc = chunk_source_open(r, &j.source, e);
    if (rc == 0)
        rc = repo_catalog_open(r, &j.catalog, e);
    if (rc == 0) {
        rc = tree_walk(j.catalog, s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX, visit,
                       &j, e);
        repo_catalog_close(r, j.catalog);
    }
    *stored = j.stored;
    chunk_source_close(j.source);
    buffer_release(&j.bytes);
    if (j.tree >= 0)
        close(j.tree);
    return rc;
}

/* A folder that may not be written is opened for it. */
static int open_up(int tree, struct stat *st, struct error *e)
{
    if (fstat(tree, st) != 0)
        return error_sys(e, errno, "cannot look at the archive");
    if ((st->st_mode & 0300) != 0300 &&
        fileops->set_mode(tree, NULL, (st->st_mode & 07777) | 0300) != 0)
        return error_sys(e, errno, "cannot write into the archive");
    return 0;
}

/* Its own mode and time are those of the root again. */
static int close_up(int tree, const struct stat *st, struct error *e)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, st->st_mtim};

    if (((st->st_mode & 0300) != 0300 && fileops->set_mode(tree, NULL, st->st_mode & 07777) != 0) ||
        fileops->set_times(tree, NULL, times) != 0)
        return error_sys(e, errno, "cannot set the metadata of the archive");
    return 0;
}

static int add_file(int tree, const char *name, const struct buffer *text, struct error *e)
{
    struct stat st;
    int fd = -1;

    int rc = open_up(tree, &st, e);
    if (rc == 0)
        fd = fileops->openat(tree, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (rc == 0 && fd < 0)
        rc = error_sys(e, errno, "cannot make '%s' in the archive", name);
    if (rc == 0)
        rc = file_write_all(fd, text->data, text->len, 0, e);
    if (fd >= 0 && fileops->close(fd) != 0 && rc == 0)
        rc = error_sys(e, errno, "cannot write '%s' in the archive", name);
    return rc == 0 ? close_up(tree, &st, e) : rc;
}

int archive_folder_finish(struct archive_meta *m, struct archive_place *p,
                          const struct buffer *text, struct error *e)
{
    int tree = open_tree(p, e);

    if (tree < 0)
        return tree;
    int rc = add_file(tree, m->inside, text, e);
    close(tree);
    return rc;
}
