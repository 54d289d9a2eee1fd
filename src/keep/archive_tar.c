/* The tree as a tar stream, cut into pieces that workers make from the packs and pack at once: this
 * thread walks the tree and hands out pieces (archive_piece.h), and writes what is ready in order.
 * A long file is cut over several pieces; its hash is taken in order, here. Pieces at work are
 * bounded, and so is the memory.
 *
 * What is walked is gathered in a window, without content, and dealt out to pieces in the order of
 * the packs, so that a block is expanded for one piece only; a piece has its members by kind, not
 * folder by folder, because they pack better so. Two things follow. A program that unpacks them
 * comes back to a folder after it has set its time: hence every such folder is named once more
 * behind everything, and gets its time again. And a folder that cannot be written into any more
 * once it has its mode, or that passes something on to what is made in it (a default ACL, its
 * group), is not come back to: it and all below it stand in the order of the walk.
 *
 * What has no content comes first in a window, as it was walked: a folder before what is in it.
 * Further names of a file come after its first, and long files have pieces of their own: both wait
 * until the window has been handed out.
 */
#include "keep/archive_piece.h"

#include "base/text.h"
#include "io/fileops.h"
#include "keep/tar_write.h"
#include "snapshot/number_set.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    PIECES_PER_WORKER = 2,
    WORKERS_MAX = 4,
    PIECES = 64,                      /* of an archive of middling length */
    WINDOW_BYTES = 128 * 1024 * 1024, /* of content; */
    WINDOW_NAMES = 8 * 1024 * 1024,   /* of names and what else is known of them, in memory */
    WAITING_BYTES = 1024 * 1024,
};

struct tar_job {
    struct repo *repo;
    struct archive_meta *meta;
    struct catalog *catalog;
    struct number_set nodes;
    struct task_pool pool;
    struct piece_worker workers[WORKERS_MAX];
    unsigned worker_count;
    uint64_t piece_bytes;
    struct piece *window; /* to be dealt out to pieces */
    struct piece *filling;
    struct piece *waiting;          /* long files and further names, not yet in pieces */
    bool in_order;                  /* below a folder that is not come back to */
    unsigned order_level;           /* of that folder */
    struct piece *oldest, **newest; /* handed out, in order */
    unsigned out, out_max;
    struct piece *spare;
    int fd;
    uint64_t *offset;
    struct node long_node; /* of a file that is cut */
    struct archive_hasher long_hash;
    bool in_long;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int cancelled(const struct tar_job *j, struct error *e)
{
    const atomic_bool *cancel = j->meta->order->cancel;

    if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "archive was interrupted");
    return 0;
}

/* ---- pieces that come back ---- */

static bool oldest_done(void *ctx)
{
    return ((struct tar_job *)ctx)->oldest->task.done;
}

/* A long file's bytes in this piece, in their order. */
static int hash_part(struct tar_job *j, struct piece *p, const struct piece_item *item,
                     struct error *e)
{
    const uint8_t *meta = p->bytes.data + item->meta;
    uint64_t end = p->raw.len;
    int rc = 0;

    if (item->first) {
        rc = node_decode(meta, item->meta_len, &j->long_node, e);
        if (rc == 0) {
            j->in_long = true;
            rc = archive_hash_begin(&j->long_hash, &j->long_node, e);
        }
    }
    uint64_t total = tar_content_len(&j->long_node);
    if (item->last)
        end -= (TAR_BLOCK - total % TAR_BLOCK) % TAR_BLOCK;
    if (rc == 0)
        rc = archive_hash_add(&j->long_hash, p->raw.data + p->part_at, end - p->part_at, e);
    return rc;
}

static int end_long(struct tar_job *j, struct piece_item *item, struct error *e)
{
    int rc = archive_hash_end(&j->long_hash, &item->sha256, e);

    archive_hash_release(&j->long_hash);
    node_release(&j->long_node);
    j->in_long = false;
    item->hashed = rc == 0;
    return rc;
}

static int note_item(struct tar_job *j, struct piece *p, struct piece_item *item, struct error *e)
{
    struct node_brief b;
    int rc = 0;

    if (piece_is_part(item)) {
        rc = hash_part(j, p, item, e);
        if (rc == 0 && item->last)
            rc = end_long(j, item, e);
    }
    if (rc == 0 && item->hashed)
        rc = node_brief_decode(p->bytes.data + item->meta, item->meta_len, &b, e);
    if (rc == 0 && item->hashed) {
        archive_meta_file(j->meta, piece_path(p, item), b.size, &item->sha256);
        if (b.flags & NODE_SQLITE)
            archive_meta_database(j->meta, piece_path(p, item), b.size);
    }
    return rc == 0 ? 0 : archive_named(e, piece_path(p, item));
}

static void tell_progress(struct tar_job *j, const struct piece *p)
{
    struct archive_progress *g = j->meta->order->progress;

    if (!g)
        return;
    atomic_fetch_add(&g->files, p->count);
    atomic_fetch_add(&g->bytes, p->content);
}

static void keep_spare(struct tar_job *j, struct piece *p)
{
    piece_drop_bytes(p);
    p->next = j->spare;
    j->spare = p;
}

/* What is written is on its way to the disk while more is packed: the flush has less to wait for.
 */
static int write_piece(struct tar_job *j, const struct piece *p, struct error *e)
{
    int rc = archive_room(j->meta->order, j->fd, p->packed.len, e);

    if (rc == 0)
        rc = file_write_all(j->fd, p->packed.data, p->packed.len, *j->offset, e);
    if (rc == 0)
        sync_file_range(j->fd, (off_t)*j->offset, (off_t)p->packed.len, SYNC_FILE_RANGE_WRITE);
    *j->offset += p->packed.len;
    return rc;
}

/* The oldest piece is written, once it is ready. */
static int take_oldest(struct tar_job *j, struct error *e)
{
    struct piece *p = j->oldest;

    task_pool_wait(&j->pool, oldest_done, j, NULL);
    j->oldest = p->next;
    if (!j->oldest)
        j->newest = &j->oldest;
    j->out--;
    int rc = p->rc;
    if (rc != 0)
        *e = p->error;
    for (size_t i = 0; rc == 0 && i < p->count; i++)
        rc = note_item(j, p, &p->items[p->order[i]], e);
    if (rc == 0)
        rc = write_piece(j, p, e);
    tell_progress(j, p);
    keep_spare(j, p);
    return rc;
}

/* ---- pieces that are filled ---- */

static struct piece *next_piece(struct tar_job *j, bool sorted)
{
    struct piece *p = j->spare;

    if (p) {
        j->spare = p->next;
        piece_reset(p);
    } else {
        p = piece_new();
    }
    if (p) {
        p->sorted = sorted;
        p->cancel = j->meta->order->cancel;
    }
    return p;
}

static int hand_out(struct tar_job *j, struct error *e)
{
    struct piece *p = j->filling;
    int rc = 0;

    if (!p)
        return 0;
    j->filling = NULL;
    while (rc == 0 && j->out >= j->out_max)
        rc = take_oldest(j, e);
    if (rc != 0 || !buffer_ok(&p->bytes)) {
        piece_free(p);
        return rc != 0 ? rc : no_memory(e);
    }
    p->next = NULL;
    *j->newest = p;
    j->newest = &p->next;
    j->out++;
    task_pool_push(&j->pool, &p->task, false);
    return 0;
}

struct entry { /* what an item is made of */
    const char *path, *link;
    const uint8_t *meta;
    uint32_t meta_len;
    uint64_t len; /* of the content */
    struct storage_order stored;
};

static struct piece_item *new_item(struct tar_job *j, const struct entry *x, bool sorted)
{
    struct piece *p = j->filling ? j->filling : (j->filling = next_piece(j, sorted));

    if (!p)
        return NULL;
    struct piece_item *item = piece_add(p, j->meta->name, x->path, x->link, x->meta, x->meta_len);
    item->stored = x->stored;
    return item;
}

/* Each part ends its piece, so that its bytes are the last in it. */
static int add_parts(struct tar_job *j, const struct entry *x, struct error *e)
{
    int rc = 0;

    for (uint64_t from = 0; rc == 0 && from < x->len; from += PIECE_PART) {
        struct piece_item *item = new_item(j, x, false);
        if (!item)
            return no_memory(e);
        item->first = from == 0;
        item->last = x->len - from <= PIECE_PART;
        item->from = from;
        item->to = item->last ? UINT64_MAX : from + PIECE_PART;
        j->filling->content += item->last ? x->len - from : PIECE_PART;
        rc = hand_out(j, e);
    }
    return rc;
}

static int add_plain(struct tar_job *j, const struct entry *x, bool sorted, struct error *e)
{
    if (x->len > PIECE_LONG && !x->link)
        return add_parts(j, x, e);
    if (!new_item(j, x, sorted))
        return no_memory(e);
    struct piece *p = j->filling;
    p->content += x->len + TAR_BLOCK;
    bool full = !sorted && p->content >= j->piece_bytes;
    return full || p->count == PIECE_ITEMS ? hand_out(j, e) : 0;
}

/* Items that were kept back. */
static int add_kept(struct tar_job *j, const struct piece *from, const struct piece_item *item,
                    bool sorted, struct error *e)
{
    const uint8_t *bytes = from->bytes.data;
    const struct entry x = {.path = (const char *)bytes + item->path,
                            .link = item->link ? (const char *)bytes + item->link : NULL,
                            .meta = bytes + item->meta,
                            .meta_len = item->meta_len,
                            .len = item->to,
                            .stored = item->stored};

    return buffer_ok(&from->bytes) ? add_plain(j, &x, sorted, e) : no_memory(e);
}

static bool same_block(const struct storage_order *a, const struct storage_order *b)
{
    return a->pack_id != 0 && a->pack_id == b->pack_id && a->offset == b->offset;
}

/* In the order of the packs, and a block goes to one piece: it is expanded once, by one worker. */
static int deal_out_window(struct tar_job *j, struct error *e)
{
    struct piece *w = j->window;
    int rc = 0;

    if (!w)
        return 0;
    piece_order_reads(w);
    for (size_t i = 0; rc == 0 && i < w->count; i++) {
        const struct piece_item *item = w->reads[i];
        if (j->filling && j->filling->content >= j->piece_bytes &&
            !same_block(&item->stored, &w->reads[i - 1]->stored))
            rc = hand_out(j, e);
        if (rc == 0)
            rc = add_kept(j, w, item, true, e);
    }
    piece_reset(w);
    return rc;
}

/* Hand out the window and what is being filled, then what has waited for that. */
static int hand_out_all(struct tar_job *j, struct error *e)
{
    int rc = deal_out_window(j, e);

    if (rc == 0)
        rc = hand_out(j, e);
    struct piece *w = j->waiting;
    j->waiting = NULL;
    for (size_t i = 0; rc == 0 && w && i < w->count; i++)
        rc = add_kept(j, w, &w->items[i], false, e);
    if (w)
        keep_spare(j, w);
    return rc == 0 ? hand_out(j, e) : rc;
}

static struct piece *keep_back(struct tar_job *j, struct piece **where, const struct entry *x)
{
    if (!*where && !(*where = next_piece(j, false)))
        return NULL;
    struct piece *p = *where;
    struct piece_item *item = piece_add(p, "", x->path, x->link, x->meta, x->meta_len);
    item->to = x->len;
    item->stored = x->stored;
    p->content += x->len + TAR_BLOCK;
    return p;
}

/* Where the packs have it; what cannot be found there is told when it is read. */
static struct storage_order stored_at(struct tar_job *j, const struct node *n)
{
    struct error ignored = ERROR_INIT;
    struct chunk_place at;

    if (n->type != NODE_FILE || n->ref_count == 0 ||
        catalog_chunk(j->catalog, &n->refs[0].id, &at, &ignored) != 0)
        return (struct storage_order){0};
    return (struct storage_order){at.pack_id, at.offset, at.raw_off};
}

static int add_entry(struct tar_job *j, const struct tree_entry *t, const struct node *n,
                     const char *link, struct error *e)
{
    struct entry x = {.path = t->path, .link = link, .meta = t->meta, .meta_len = t->meta_len};
    const struct piece *p;
    bool full;

    x.len = link ? 0 : tar_content_len(n);
    if (!link && x.len <= PIECE_LONG)
        x.stored = stored_at(j, n);
    if (j->in_order)
        return add_plain(j, &x, false, e);
    if (link || x.len > PIECE_LONG) {
        p = keep_back(j, &j->waiting, &x);
        full = p && p->bytes.len >= WAITING_BYTES;
    } else {
        p = keep_back(j, &j->window, &x);
        full = p && (p->content >= WINDOW_BYTES || p->bytes.len >= WINDOW_NAMES);
    }
    if (!p)
        return no_memory(e);
    return full || p->count == PIECE_ITEMS ? hand_out_all(j, e) : 0;
}

/* ---- hard links: the name that the walk met first ---- */

struct first_name {
    struct tar_job *job;
    struct buffer best, path;
    struct error *e;
    int rc;
};

static int consider_name(void *ctx, uint64_t parent, const char *name, size_t len)
{
    struct first_name *f = ctx;
    const struct snapshot_row *s = f->job->meta->order->snapshot;

    buffer_clear(&f->path);
    f->rc = catalog_node_path(f->job->catalog, s->watch_serial, parent, (int64_t)s->commit.number,
                              &f->path, f->e);
    if (f->rc != 0)
        return f->rc;
    size_t at =
        f->path.len > 0 && f->path.data[f->path.len - 1] == 0 ? f->path.len - 1 : f->path.len;
    f->path.len = at;
    if (at > 0)
        buffer_append(&f->path, "/", 1);
    buffer_append(&f->path, name, len);
    const char *path = buffer_cstr(&f->path);
    if (f->best.len == 0 || text_path_order(path, (const char *)f->best.data) < 0) {
        buffer_clear(&f->best);
        buffer_append(&f->best, path, strlen(path) + 1);
    }
    return 0;
}

static int add_link(struct tar_job *j, const struct tree_entry *t, const struct node *n,
                    struct error *e)
{
    const struct snapshot_row *s = j->meta->order->snapshot;
    struct first_name f = {.job = j, .e = e};

    int rc = catalog_links(j->catalog, s->watch_serial, t->node, (int64_t)s->commit.number,
                           consider_name, &f, e);
    if (rc == 0)
        rc = f.rc;
    if (rc == 0) {
        bool ok = buffer_ok(&f.best) && buffer_ok(&f.path) && f.best.len > 0;
        rc = ok ? add_entry(j, t, n, (const char *)f.best.data, e) : no_memory(e);
    }
    buffer_release(&f.best);
    buffer_release(&f.path);
    return rc;
}

/* ---- an entry ---- */

static const char *why_left_out(const struct node *n)
{
    if (!tar_can_hold(n))
        return "a socket: an archive has no form for it";
    if (n->type == NODE_FILE && (n->flags & NODE_UNREAD) && n->ref_count == 0)
        return n->reason ? n->reason : "it could not be read when it was saved";
    return NULL;
}

/* Whether more can be put into the folder after it has all that is told of it. */
static bool can_come_back(const struct node *n)
{
    for (uint32_t i = 0; i < n->xattr_count; i++)
        if (strcmp(n->xattrs[i].name, "system.posix_acl_default") == 0)
            return false;
    return (n->mode & S_IRWXU) == S_IRWXU && !(n->mode & S_ISGID);
}

static int visit_folder(struct tar_job *j, const struct tree_entry *t, const struct node *n,
                        struct error *e)
{
    int rc = 0;

    if (!j->in_order && !can_come_back(n)) {
        rc = hand_out_all(j, e);
        j->in_order = true;
        j->order_level = t->level;
    } else if (!j->in_order) {
        rc = archive_tail_folder(&j->meta->tail, j->meta->name, t->path, n, e);
    }
    return rc == 0 ? add_entry(j, t, n, NULL, e) : rc;
}

static int visit_node(struct tar_job *j, const struct tree_entry *t, const struct node *n,
                      struct error *e)
{
    const char *reason = why_left_out(n);
    int rc = 0;

    if (j->in_order && t->level <= j->order_level) {
        rc = hand_out(j, e);
        j->in_order = false;
    }
    if (rc != 0)
        return rc;
    if (reason)
        return archive_meta_left_out(j->meta, t->path, reason, e);
    if (n->type == NODE_FOLDER)
        return visit_folder(j, t, n, e);
    int fresh = number_set_add(&j->nodes, t->node);
    if (fresh < 0)
        return no_memory(e);
    if (!fresh)
        return add_link(j, t, n, e);
    return add_entry(j, t, n, NULL, e);
}

static int visit(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct tar_job *j = ctx;
    struct node n;

    int rc = cancelled(j, e);
    if (rc == 0)
        rc = node_decode(t->meta, t->meta_len, &n, e);
    if (rc != 0)
        return archive_named(e, t->path);
    rc = visit_node(j, t, &n, e);
    node_release(&n);
    return rc;
}

/* ---- the whole ---- */

/* Longer pieces pack better; of a few, the last keeps one worker busy long after the others. Taken
 * from what there is alone: the archive must not depend on the machine. */
static uint64_t choose_piece_bytes(const struct archive_order *o)
{
    uint64_t bytes = o->snapshot->commit.bytes / PIECES;

    bytes = bytes > PIECE_BYTES_MIN ? bytes : PIECE_BYTES_MIN;
    return bytes < PIECE_BYTES_MAX ? bytes : PIECE_BYTES_MAX;
}

unsigned archive_workers(const struct archive_order *o)
{
    long n = o->workers ? (long)o->workers : sysconf(_SC_NPROCESSORS_ONLN);

    return n < 2 ? 2 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
}

static int start(struct tar_job *j, struct error *e)
{
    unsigned wanted = archive_workers(j->meta->order);
    int rc = repo_catalog_open(j->repo, &j->catalog, e);

    if (rc != 0)
        j->catalog = NULL;
    while (rc == 0 && j->worker_count < wanted) {
        struct piece_worker *w = &j->workers[j->worker_count];
        rc = chunk_source_open(j->repo, &w->source, e);
        if (rc != 0)
            break;
        j->worker_count++;
        w->packer = gzip_packer_new(j->meta->order->level);
        rc = w->packer ? task_pool_start(&j->pool, w, e) : no_memory(e);
    }
    j->out_max = wanted * PIECES_PER_WORKER;
    return rc;
}

static void free_list(struct piece *p)
{
    while (p) {
        struct piece *next = p->next;
        piece_free(p);
        p = next;
    }
}

static void stop(struct tar_job *j)
{
    task_pool_release(&j->pool);
    for (unsigned i = 0; i < j->worker_count; i++) {
        gzip_packer_free(j->workers[i].packer);
        chunk_source_close(j->workers[i].source);
        buffer_release(&j->workers[i].raw);
    }
    piece_free(j->window);
    piece_free(j->filling);
    piece_free(j->waiting);
    free_list(j->oldest);
    free_list(j->spare);
    if (j->in_long) {
        archive_hash_release(&j->long_hash);
        node_release(&j->long_node);
    }
    if (j->catalog)
        repo_catalog_close(j->repo, j->catalog);
    number_set_release(&j->nodes);
}

int archive_tar_write(struct repo *r, struct archive_meta *m, int fd, uint64_t *offset,
                      struct error *e)
{
    const struct snapshot_row *s = m->order->snapshot;
    struct tar_job j = {.repo = r,
                        .meta = m,
                        .fd = fd,
                        .offset = offset,
                        .piece_bytes = choose_piece_bytes(m->order)};

    *offset = 0;
    j.newest = &j.oldest;
    task_pool_init(&j.pool);
    int rc = start(&j, e);
    if (rc == 0)
        rc = tree_walk(j.catalog, s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX, visit,
                       &j, e);
    if (rc == 0)
        rc = hand_out_all(&j, e);
    while (rc == 0 && j.oldest)
        rc = take_oldest(&j, e);
    stop(&j);
    return rc;
}
