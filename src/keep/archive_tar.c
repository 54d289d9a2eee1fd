/* The tree as a tar stream, cut into members that workers make from the packs and compress at once:
 * this thread walks the tree and hands out pieces, a worker reads their content, checks it, hashes
 * it and packs it, and this thread writes what is ready in order. A long file is cut over several
 * pieces; its hash is taken in order, here. Pieces at work are bounded, and so is the memory. */
#include "keep/archive_private.h"

#include "base/text.h"
#include "io/fileops.h"
#include "keep/gzip.h"
#include "keep/tar_write.h"
#include "snapshot/number_set.h"
#include "snapshot/task_pool.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* Long pieces compress better, short ones let the workers end together. */
enum {
    PIECE_BYTES = 2 * 1024 * 1024,
    PIECE_ITEMS = 2048,
    PIECES_PER_WORKER = 3,
    WORKERS_MAX = 4,
};

struct item {
    size_t path, meta, link; /* offsets in piece.bytes; link 0: none */
    uint32_t meta_len;
    uint64_t from, to;  /* of the stream */
    bool first, last;   /* with the header; with the padding, and the file is whole */
    struct hash sha256; /* of a file that lies whole in this piece */
    bool hashed;
};

struct piece {
    struct task task; /* first */
    struct piece *next;
    struct tar_job *job;
    struct item *items;
    size_t count;
    uint64_t content; /* as planned */
    struct buffer bytes;
    struct buffer raw, packed;
    size_t part_at; /* where in raw the content of the last item begins, of a long file */
    int rc;
    struct error error;
};

struct worker {
    struct chunk_source *source;
    struct gzip_packer *packer;
};

struct tar_job {
    struct repo *repo;
    struct archive_meta *meta;
    struct catalog *catalog;
    struct number_set nodes;
    struct task_pool pool;
    struct worker workers[WORKERS_MAX];
    unsigned worker_count;
    struct piece *filling;
    struct piece *oldest, **newest; /* handed out, in order */
    unsigned out, out_max;
    struct piece *spare;
    int fd;
    uint64_t *offset;
    struct node long_node; /* of a file that is cut */
    struct archive_hasher long_hash;
    bool in_long;
    struct buffer path;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* People see which file it was. */
static int named(struct error *e, const char *path)
{
    char quoted[256], text[sizeof(e->message)];
    int code = e->code, sys = e->sys;

    if (e->path[0] || code == ERR_CANCELLED || code == ERR_CATALOG)
        return code;
    memcpy(text, e->message, sizeof(text));
    error_set(e, code, "cannot archive '%s': %.400s", text_escape(path, quoted, sizeof(quoted)),
              text);
    e->sys = sys;
    return error_path(e, path);
}

static int cancelled(const struct tar_job *j, struct error *e)
{
    const atomic_bool *cancel = j->meta->order->cancel;

    if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "archive was interrupted");
    return 0;
}

/* The path below the top folder of a member. */
static const char *below_top(const struct tar_job *j, const char *path)
{
    size_t top = strlen(j->meta->name);

    return path + top + (path[top] == '/');
}

/* ---- a worker ---- */

struct content {
    struct piece *piece; /* NULL: the content is only hashed */
    struct worker *worker;
    struct archive_hasher *hash; /* or NULL */
};

static int put_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct content *c = ctx;
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(c->worker->source, &ref->id, &p, &len, e);
    if (rc == 0 && len != ref->len)
        rc = error_set(e, ERR_DAMAGED, "its content is not as long as it says");
    if (rc == 0 && c->hash)
        rc = archive_hash_add(c->hash, p, len, e);
    if (rc != 0)
        return rc;
    if (!c->piece)
        return 0;
    buffer_append(&c->piece->raw, p, len);
    return buffer_ok(&c->piece->raw) ? 0 : no_memory(e);
}

/* A file of one chunk and no holes has that chunk's id as its SHA-256. */
static bool is_its_chunk(const struct node *n)
{
    return n->ref_count == 1 && n->depth == 0 && n->extent_count == 0;
}

static int put_whole(struct content *c, struct item *item, const struct node *n, struct error *e)
{
    struct archive_hasher hash = {0};
    size_t before = c->piece ? c->piece->raw.len : 0;
    bool alone = is_its_chunk(n);
    int rc = alone ? 0 : archive_hash_begin(&hash, n, e);

    c->hash = alone ? NULL : &hash;
    if (rc == 0 && (c->piece || !alone))
        rc = content_walk(c->worker->source, n, put_chunk, c, e);
    if (rc == 0 && c->piece && c->piece->raw.len - before != tar_content_len(n))
        rc = error_set(e, ERR_DAMAGED, "its content is not as long as it says");
    if (rc == 0 && alone)
        item->sha256 = n->refs[0].id;
    else if (rc == 0)
        rc = archive_hash_end(&hash, &item->sha256, e);
    item->hashed = rc == 0;
    archive_hash_release(&hash);
    return rc;
}

static int put_part(struct content *c, struct item *item, const struct node *n, struct error *e)
{
    c->hash = NULL;
    c->piece->part_at = c->piece->raw.len;
    return content_walk_range(c->worker->source, n, item->from, item->to, put_chunk, c, e);
}

static int put_item(struct piece *p, struct worker *w, struct item *item, const struct node *n,
                    struct error *e)
{
    const char *text = (const char *)p->bytes.data;
    struct content c = {.piece = p, .worker = w};
    struct tar_member m = {
        .path = text + item->path, .node = n, .link = item->link ? text + item->link : NULL};
    uint64_t len = m.link ? 0 : tar_content_len(n);
    int rc = 0;

    if (item->first)
        tar_put_header(&m, &p->raw);
    if (m.link)
        c.piece = NULL;
    if (n->type == NODE_FILE)
        rc = item->first && item->last ? put_whole(&c, item, n, e) : put_part(&c, item, n, e);
    if (rc == 0 && item->last)
        tar_put_padding(len, &p->raw);
    return rc == 0 && !buffer_ok(&p->raw) ? no_memory(e) : rc;
}

/* A worker's reserve for what chunks add beyond a piece's plan. */
static int pack_all(struct piece *p, struct worker *w, struct error *e)
{
    size_t at = 0;
    int rc = 0;

    while (rc == 0 && at < p->raw.len) {
        size_t left = p->raw.len - at;
        size_t now = left < GZIP_MEMBER_RAW_MAX ? left : GZIP_MEMBER_RAW_MAX;
        rc = gzip_pack(w->packer, p->raw.data + at, now, &p->packed, e);
        at += now;
    }
    return rc;
}

static void run_piece(struct task *t, void *worker)
{
    struct piece *p = (struct piece *)t;
    struct error *e = &p->error;

    for (size_t i = 0; p->rc == 0 && i < p->count; i++) {
        struct item *item = &p->items[i];
        struct node n;
        p->rc = cancelled(p->job, e);
        if (p->rc == 0)
            p->rc = node_decode(p->bytes.data + item->meta, item->meta_len, &n, e);
        if (p->rc != 0)
            break;
        p->rc = put_item(p, worker, item, &n, e);
        node_release(&n);
        if (p->rc != 0)
            named(e, below_top(p->job, (const char *)p->bytes.data + item->path));
    }
    if (p->rc == 0)
        p->rc = pack_all(p, worker, e);
}

/* ---- pieces ---- */

static void piece_free(struct piece *p)
{
    if (!p)
        return;
    buffer_release(&p->bytes);
    buffer_release(&p->raw);
    buffer_release(&p->packed);
    free(p->items);
    free(p);
}

static struct piece *piece_new(struct tar_job *j)
{
    struct piece *p = j->spare;

    if (p) {
        j->spare = p->next;
        struct piece kept = *p;
        *p = (struct piece){
            .items = kept.items, .bytes = kept.bytes, .raw = kept.raw, .packed = kept.packed};
        buffer_clear(&p->bytes);
        buffer_clear(&p->raw);
        buffer_clear(&p->packed);
    } else if ((p = calloc(1, sizeof(*p)))) {
        p->items = calloc(PIECE_ITEMS, sizeof(*p->items));
        if (!p->items) {
            free(p);
            return NULL;
        }
    } else {
        return NULL;
    }
    p->job = j;
    p->task.run = run_piece;
    buffer_append(&p->bytes, "", 1); /* offset 0 is none */
    return p;
}

static bool oldest_done(void *ctx)
{
    return ((struct tar_job *)ctx)->oldest->task.done;
}

/* A long file's bytes in this piece, in their order. */
static int hash_part(struct tar_job *j, struct piece *p, const struct item *item, struct error *e)
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

static int end_long(struct tar_job *j, struct item *item, struct error *e)
{
    int rc = archive_hash_end(&j->long_hash, &item->sha256, e);

    archive_hash_release(&j->long_hash);
    node_release(&j->long_node);
    j->in_long = false;
    item->hashed = rc == 0;
    return rc;
}

static int note_item(struct tar_job *j, struct piece *p, struct item *item, struct error *e)
{
    const char *path = (const char *)p->bytes.data + item->path;
    struct node_brief b;
    int rc = 0;

    if (!(item->first && item->last)) {
        rc = hash_part(j, p, item, e);
        if (rc == 0 && item->last)
            rc = end_long(j, item, e);
    }
    if (rc == 0 && item->hashed)
        rc = node_brief_decode(p->bytes.data + item->meta, item->meta_len, &b, e);
    if (rc == 0 && item->hashed)
        archive_meta_file(j->meta, below_top(j, path), b.size, &item->sha256);
    return rc == 0 ? 0 : named(e, below_top(j, path));
}

static void tell_progress(struct tar_job *j, const struct piece *p)
{
    struct archive_progress *g = j->meta->order->progress;

    if (!g)
        return;
    atomic_fetch_add(&g->files, p->count);
    atomic_fetch_add(&g->bytes, p->content);
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
        rc = note_item(j, p, &p->items[i], e);
    if (rc == 0)
        rc = file_write_all(j->fd, p->packed.data, p->packed.len, *j->offset, e);
    *j->offset += p->packed.len;
    tell_progress(j, p);
    p->next = j->spare;
    j->spare = p;
    return rc;
}

static int send_piece(struct tar_job *j, struct error *e)
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

/* ---- the walk ---- */

static struct item *new_item(struct tar_job *j, const struct tree_entry *t, const char *link)
{
    struct piece *p = j->filling ? j->filling : (j->filling = piece_new(j));

    if (!p)
        return NULL;
    struct item *item = &p->items[p->count++];
    *item = (struct item){.path = p->bytes.len, .meta_len = t->meta_len, .to = UINT64_MAX};
    buffer_printf(&p->bytes, "%s%s%s", j->meta->name, *t->path ? "/" : "", t->path);
    buffer_append(&p->bytes, "", 1);
    if (link) {
        item->link = p->bytes.len;
        buffer_append_str(&p->bytes, link);
        buffer_append(&p->bytes, "", 1);
    }
    item->meta = p->bytes.len;
    buffer_append(&p->bytes, t->meta, t->meta_len);
    item->first = item->last = true;
    return item;
}

static int added(struct tar_job *j, uint64_t content, struct error *e)
{
    struct piece *p = j->filling;

    p->content += content + TAR_BLOCK;
    return p->count == PIECE_ITEMS || p->content >= PIECE_BYTES ? send_piece(j, e) : 0;
}

/* Each part ends its piece, so that its bytes are the last in it. */
static int add_parts(struct tar_job *j, const struct tree_entry *t, uint64_t len, struct error *e)
{
    int rc = 0;

    for (uint64_t from = 0; rc == 0 && from < len; from += PIECE_BYTES) {
        struct item *item = new_item(j, t, NULL);
        if (!item)
            return no_memory(e);
        item->first = from == 0;
        item->last = len - from <= PIECE_BYTES;
        item->from = from;
        item->to = item->last ? UINT64_MAX : from + PIECE_BYTES;
        j->filling->content += PIECE_BYTES;
        rc = send_piece(j, e);
    }
    return rc;
}

static int add_entry(struct tar_job *j, const struct tree_entry *t, uint64_t len, const char *link,
                     struct error *e)
{
    if (len > PIECE_BYTES && !link)
        return add_parts(j, t, len, e);
    return new_item(j, t, link) ? added(j, len, e) : no_memory(e);
}

/* ---- hard links: the name that the walk met first ---- */

struct first_name {
    struct tar_job *job;
    struct buffer best, path;
    struct error *e;
    int rc;
};

/* The order of the walk: by name in each folder, so '/' is below every byte. */
static int walk_order(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    int x = *a == '/' ? 1 : *a ? (uint8_t)*a + 1 : 0;
    int y = *b == '/' ? 1 : *b ? (uint8_t)*b + 1 : 0;
    return x - y;
}

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
    if (f->best.len == 0 || walk_order(path, (const char *)f->best.data) < 0) {
        buffer_clear(&f->best);
        buffer_append(&f->best, path, strlen(path) + 1);
    }
    return 0;
}

static int add_link(struct tar_job *j, const struct tree_entry *t, struct error *e)
{
    const struct snapshot_row *s = j->meta->order->snapshot;
    struct first_name f = {.job = j, .e = e};
    char *link = NULL;

    int rc = catalog_links(j->catalog, s->watch_serial, t->node, (int64_t)s->commit.number,
                           consider_name, &f, e);
    if (rc == 0)
        rc = f.rc;
    if (rc == 0) {
        buffer_clear(&j->path);
        buffer_printf(&j->path, "%s/%s", j->meta->name,
                      f.best.data ? (const char *)f.best.data : "");
        link = buffer_ok(&f.best) && buffer_ok(&f.path) && buffer_ok(&j->path)
                   ? strdup((const char *)j->path.data)
                   : NULL;
        rc = link ? add_entry(j, t, 0, link, e) : no_memory(e);
    }
    free(link);
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

static int visit_node(struct tar_job *j, const struct tree_entry *t, const struct node *n,
                      struct error *e)
{
    const char *reason = why_left_out(n);

    if (reason)
        return archive_meta_left_out(j->meta, t->path, reason, e);
    if (n->type != NODE_FOLDER) {
        int fresh = number_set_add(&j->nodes, t->node);
        if (fresh < 0)
            return no_memory(e);
        if (!fresh)
            return add_link(j, t, e);
    }
    if (n->type == NODE_FILE && (n->flags & NODE_SQLITE))
        buffer_append(&j->meta->databases, t->path, strlen(t->path) + 1);
    return add_entry(j, t, tar_content_len(n), NULL, e);
}

static int visit(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct tar_job *j = ctx;
    struct node n;

    int rc = cancelled(j, e);
    if (rc == 0)
        rc = node_decode(t->meta, t->meta_len, &n, e);
    if (rc != 0)
        return named(e, t->path);
    rc = visit_node(j, t, &n, e);
    node_release(&n);
    return rc;
}

/* ---- the whole ---- */

static unsigned worker_count(const struct archive_order *o)
{
    long n = o->workers ? (long)o->workers : sysconf(_SC_NPROCESSORS_ONLN);

    return n < 2 ? 2 : n > WORKERS_MAX ? WORKERS_MAX : (unsigned)n;
}

static int start(struct tar_job *j, struct error *e)
{
    unsigned wanted = worker_count(j->meta->order);
    int rc = repo_catalog_open(j->repo, &j->catalog, e);

    if (rc != 0)
        j->catalog = NULL;
    while (rc == 0 && j->worker_count < wanted) {
        struct worker *w = &j->workers[j->worker_count];
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

static void stop(struct tar_job *j)
{
    task_pool_release(&j->pool);
    for (unsigned i = 0; i < j->worker_count; i++) {
        gzip_packer_free(j->workers[i].packer);
        chunk_source_close(j->workers[i].source);
    }
    piece_free(j->filling);
    while (j->oldest) {
        struct piece *p = j->oldest;
        j->oldest = p->next;
        piece_free(p);
    }
    while (j->spare) {
        struct piece *p = j->spare;
        j->spare = p->next;
        piece_free(p);
    }
    if (j->in_long) {
        archive_hash_release(&j->long_hash);
        node_release(&j->long_node);
    }
    if (j->catalog)
        repo_catalog_close(j->repo, j->catalog);
    number_set_release(&j->nodes);
    buffer_release(&j->path);
}

int archive_tar_write(struct repo *r, struct archive_meta *m, int fd, uint64_t *offset,
                      struct error *e)
{
    const struct snapshot_row *s = m->order->snapshot;
    struct tar_job j = {.repo = r, .meta = m, .fd = fd, .offset = offset};

    *offset = 0;
    j.newest = &j.oldest;
    task_pool_init(&j.pool);
    int rc = start(&j, e);
    if (rc == 0)
        rc = tree_walk(j.catalog, s->watch_serial, (int64_t)s->commit.number, "", UINT_MAX, visit,
                       &j, e);
    if (rc == 0)
        rc = send_piece(&j, e);
    while (rc == 0 && j.oldest)
        rc = take_oldest(&j, e);
    stop(&j);
    return rc;
}

int archive_tar_finish(struct archive_meta *m, const struct buffer *text, int fd, uint64_t *offset,
                       struct error *e)
{
    struct gzip_packer *packer = gzip_packer_new(m->order->level);
    struct buffer raw = BUFFER_INIT, packed = BUFFER_INIT, path = BUFFER_INIT;
    struct node n = {.type = NODE_FILE,
                     .mode = 0600,
                     .uid = geteuid(),
                     .gid = getegid(),
                     .mtime_s = m->time.s,
                     .size = text->len,
                     .ref_count = 1}; /* it has content, wherever that is */
    int rc = packer ? 0 : no_memory(e);

    buffer_printf(&path, "%s/%s", m->name, m->inside);
    struct tar_member member = {
        .path = buffer_cstr(&path), .node = &n, .comment = TAR_METADATA_COMMENT};
    tar_put_header(&member, &raw);
    buffer_append(&raw, text->data, text->len);
    tar_put_padding(text->len, &raw);
    tar_put_end(&raw);
    if (rc == 0 && (!buffer_ok(&raw) || !buffer_ok(&path)))
        rc = no_memory(e);
    for (size_t at = 0; rc == 0 && at < raw.len; at += PIECE_BYTES) {
        size_t left = raw.len - at;
        rc = gzip_pack(packer, raw.data + at, left < PIECE_BYTES ? left : PIECE_BYTES, &packed, e);
    }
    if (rc == 0)
        rc = file_write_all(fd, packed.data, packed.len, *offset, e);
    *offset += packed.len;
    gzip_packer_free(packer);
    buffer_release(&raw);
    buffer_release(&packed);
    buffer_release(&path);
    return rc;
}
