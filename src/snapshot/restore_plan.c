/* The walk of what is to be restored, in the order in which it was saved. Memory follows the number
 * of folders and what stands in the queue, not the number of files; of files only node ids are
 * kept, to know a further name of one (a hard link). Where there are such, a second walk makes
 * them. */
#include "snapshot/number_set.h"
#include "snapshot/restore_plan_live.h"
#include "snapshot/tree.h"

#include "base/bytes.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/safe_path.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* Where one batch ends and the next begins, two workers expand the same blocks: batches are long,
 * but for a worker that has nothing to do. */
enum { BATCH_ITEMS = 4096, BATCH_BYTES = 64 * 1024 * 1024, BATCH_LEAST = 256 };

/* A file with more content than this is written by several workers. */
#define PART_BYTES (UINT64_C(32) * 1024 * 1024)

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- batches ---- */

void restore_batch_free(struct restore_batch *b)
{
    if (!b)
        return;
    buffer_release(&b->bytes);
    free(b->items);
    free(b);
}

static struct restore_batch *batch_new(void)
{
    struct restore_batch *b = calloc(1, sizeof(*b));

    if (b)
        b->items = calloc(BATCH_ITEMS, sizeof(*b->items));
    if (b && !b->items) {
        free(b);
        return NULL;
    }
    return b;
}

struct plan {
    struct restore_job *job;
    struct restore_folder **open; /* the folders above the entry, by level */
    size_t open_cap;
    struct restore_dir dir;
    struct restore_batch *batch;
    struct number_set nodes;
};

/* Hand the batch to the workers; waits while they are behind. */
static int send_batch(struct plan *p)
{
    struct restore_job *j = p->job;
    struct restore_batch *b = p->batch;

    p->batch = NULL;
    if (!b)
        return 0;
    int rc = restore_stopped(j);
    pthread_mutex_lock(&j->lock);
    while (j->code == 0 && j->queued >= j->queue_max)
        pthread_cond_wait(&j->room, &j->lock);
    if (rc == 0)
        rc = j->code;
    if (rc == 0) {
        *j->queue_end = b;
        j->queue_end = &b->next;
        j->queued++;
        pthread_cond_signal(&j->more);
        b = NULL;
    }
    pthread_mutex_unlock(&j->lock);
    restore_batch_free(b);
    return rc;
}

/* One more item, all zero; NULL on no memory. */
static struct restore_item *new_item(struct plan *p)
{
    if (!p->batch && !(p->batch = batch_new()))
        return NULL;
    return &p->batch->items[p->batch->count++];
}

static bool worker_waits(struct restore_job *j)
{
    pthread_mutex_lock(&j->lock);
    bool waits = j->waiting > j->queued;
    pthread_mutex_unlock(&j->lock);
    return waits;
}

/* An item was added; a full batch is sent. */
static int added(struct plan *p, uint64_t content)
{
    struct restore_batch *b = p->batch;

    b->content += content;
    bool full = b->count == BATCH_ITEMS || b->content >= BATCH_BYTES;
    bool ready = b->count % BATCH_LEAST == 0 || content >= PART_BYTES;
    return full || (ready && worker_waits(p->job)) ? send_batch(p) : 0;
}

static int add_item(struct plan *p, const struct tree_entry *t, struct restore_folder *folder,
                    uint64_t size, struct error *e)
{
    struct restore_item *item = new_item(p);

    if (!item)
        return no_memory(e);
    struct restore_batch *b = p->batch;
    item->folder = folder;
    item->name = b->bytes.len;
    buffer_append(&b->bytes, t->name, strlen(t->name) + 1);
    item->meta = b->bytes.len;
    item->meta_len = t->meta_len;
    buffer_append(&b->bytes, t->meta, t->meta_len);
    if (!buffer_ok(&b->bytes))
        return no_memory(e);
    return added(p, size);
}

/* ---- long files ---- */

static struct restore_split *split_new(struct plan *p, const struct tree_entry *t,
                                       struct restore_folder *folder)
{
    size_t len = strlen(t->name) + 1;
    struct restore_split *s = calloc(1, sizeof(*s) + len);

    if (s)
        s->meta = malloc(t->meta_len);
    if (!s || !s->meta) {
        free(s);
        return NULL;
    }
    memcpy(s->meta, t->meta, t->meta_len);
    memcpy(s->name, t->name, len);
    s->meta_len = t->meta_len;
    s->folder = folder;
    s->fd = -1;
    s->next = p->job->splits;
    p->job->splits = s;
    return s;
}

/* Bytes of content, 0 when that cannot be told. */
static uint64_t content_len(const struct tree_entry *t)
{
    struct error ignored = ERROR_INIT;
    struct node n;

    if (node_decode(t->meta, t->meta_len, &n, &ignored) != 0)
        return 0;
    uint64_t len = restore_stream_len(&n);
    node_release(&n);
    return len;
}

static int add_parts(struct plan *p, const struct tree_entry *t, struct restore_folder *folder,
                     uint64_t len, struct error *e)
{
    struct restore_split *s = split_new(p, t, folder);
    int rc = s ? 0 : no_memory(e);

    if (rc == 0)
        s->left = (unsigned)((len - 1) / PART_BYTES + 1);
    for (uint64_t from = 0; rc == 0 && from < len; from += PART_BYTES) {
        struct restore_item *item = new_item(p);
        if (!item)
            return no_memory(e);
        *item =
            (struct restore_item){.folder = folder,
                                  .meta_len = s->meta_len,
                                  .split = s,
                                  .from = from,
                                  .to = len - from > PART_BYTES ? from + PART_BYTES : UINT64_MAX};
        rc = added(p, PART_BYTES);
    }
    return rc;
}

static int add_file(struct plan *p, const struct tree_entry *t, struct restore_folder *folder,
                    uint64_t size, struct error *e)
{
    uint64_t len = size > PART_BYTES ? content_len(t) : 0;

    if (len > PART_BYTES && len / PART_BYTES < UINT_MAX)
        return add_parts(p, t, folder, len, e);
    return add_item(p, t, folder, size, e);
}

/* ---- folders ---- */

static struct restore_folder *folder_new(struct restore_job *j, struct restore_folder *parent,
                                         const char *name, const struct tree_entry *t)
{
    size_t len = strlen(name) + 1;
    struct restore_folder *f = calloc(1, sizeof(*f) + len);

    if (!f)
        return NULL;
    memcpy(f->name, name, len);
    f->parent = parent;
    f->made = !parent;
    f->before = j->last;
    j->last = f;
    if (t) {
        f->meta = malloc(t->meta_len ? t->meta_len : 1);
        if (!f->meta)
            return NULL;
        memcpy(f->meta, t->meta, t->meta_len);
        f->meta_len = t->meta_len;
    }
    return f;
}

/* Remember the folder as the one open at its level. */
static int open_level(struct plan *p, size_t level, struct restore_folder *f, struct error *e)
{
    if (!f)
        return no_memory(e);
    if (level >= p->open_cap) {
        size_t cap = 2 * level + 16;
        struct restore_folder **open = reallocarray(p->open, cap, sizeof(struct restore_folder *));
        if (!open)
            return no_memory(e);
        p->open = open;
        p->open_cap = cap;
    }
    p->open[level] = f;
    return 0;
}

/* What went wrong with one entry: a problem of its own, or the end of everything. */
static int entry_failed(struct plan *p, const struct tree_entry *t, struct error *e)
{
    if (restore_fatal(e->sys))
        return restore_target_failed(p->job, t->path, e);
    restore_problem(p->job, t->path, e);
    error_clear(e);
    return TREE_SKIP;
}

/* Of a restore in place the tree holds only folders with something in them. */
static int make_above(struct plan *p, struct restore_folder *f, struct error *e)
{
    while (!f->made) {
        struct restore_folder *at = f;
        while (!at->parent->made)
            at = at->parent;
        int dirfd = restore_dir_open(p->job->tree, &p->dir, at->parent, e);
        if (dirfd < 0)
            return dirfd;
        if (fileops->mkdirat(dirfd, at->name, 0700) != 0)
            return error_sys(e, errno, "cannot make the folder it is written in");
        at->made = true;
    }
    return 0;
}

static int make_folder(struct plan *p, const struct tree_entry *t, const struct node_brief *brief,
                       struct error *e)
{
    struct restore_job *j = p->job;
    struct restore_folder *parent = p->open[t->level - 1];
    bool plain = (brief->mode & 0700) == 0700; /* it can have its mode while it is filled */

    int rc = make_above(p, parent, e);
    int dirfd = rc == 0 ? restore_dir_open(j->tree, &p->dir, parent, e) : rc;
    if (dirfd < 0)
        return entry_failed(p, t, e);
    if (fileops->mkdirat(dirfd, t->name, plain ? brief->mode & 0777 : 0700) != 0) {
        error_sys(e, errno, "cannot make the folder");
        return entry_failed(p, t, e);
    }
    struct restore_folder *f = folder_new(j, parent, t->name, t);
    if (f)
        f->made = true;
    return open_level(p, t->level, f, e);
}

static int add_database(struct restore_job *j, const struct restore_folder *f, const char *name,
                        struct error *e)
{
    struct buffer path = BUFFER_INIT;

    if (j->database_count == j->database_cap) {
        size_t cap = j->database_cap ? 2 * j->database_cap : 16;
        char **databases = reallocarray(j->databases, cap, sizeof(char *));
        if (!databases)
            return no_memory(e);
        j->databases = databases;
        j->database_cap = cap;
    }
    if (!restore_path(f, name, &path))
        return no_memory(e);
    j->databases[j->database_count++] = (char *)path.data;
    return 0;
}

/* ---- files ---- */

static void count_total(struct restore_job *j, uint64_t size)
{
    if (!j->req->progress)
        return;
    atomic_fetch_add(&j->req->progress->files_total, 1);
    atomic_fetch_add(&j->req->progress->bytes_total, size);
}

static int plan_file(struct plan *p, const struct tree_entry *t, const struct node_brief *brief,
                     struct error *e)
{
    struct restore_job *j = p->job;
    struct restore_folder *folder = p->open[t->level ? t->level - 1 : 0];

    if (brief->flags & NODE_SQLITE) {
        int rc = add_database(j, folder, t->name, e);
        if (rc != 0)
            return rc;
    }
    int is_new = number_set_add(&p->nodes, t->node);
    if (is_new < 0)
        return no_memory(e);
    if (!is_new) {
        put_u64(&j->repeated, t->node);
        return buffer_ok(&j->repeated) ? 0 : no_memory(e);
    }
    count_total(j, brief->size);
    return brief->type == NODE_FILE ? add_file(p, t, folder, brief->size, e)
                                    : add_item(p, t, folder, 0, e);
}

/* ---- in place ---- */

/* What is restored in it changes the times of a folder, so that it is given its own again. */
static void changes_in(const struct restore_job *j, struct restore_folder *f)
{
    struct buffer path = BUFFER_INIT;

    if (restore_path(f, NULL, &path) && live_where(j->live, (const char *)path.data) == LIVE_IN)
        f->done = false;
    buffer_release(&path);
}

/* A folder that stands there already. */
static int pass_folder(struct plan *p, const struct tree_entry *t, struct error *e)
{
    const struct live_plan *live = p->job->live;
    struct restore_folder *parent = t->level > 0 ? p->open[t->level - 1] : NULL;
    struct restore_folder *f = folder_new(p->job, parent, t->level > 0 ? t->name : "", t);

    if (f) {
        bool root = t->level == 0 && live_where(live, "") == LIVE_IN;
        f->done = !root && !number_set_has(&live->touched, t->node);
    }
    return open_level(p, t->level, f, e);
}

static int plan_live(struct plan *p, const struct tree_entry *t, const struct node_brief *brief,
                     struct error *e)
{
    bool folder = brief->type == NODE_FOLDER;
    enum live_pick pick = live_pick(p->job->live, t, folder);

    if (t->level == 0 || (folder && pick == LIVE_PASS)) {
        int rc = pass_folder(p, t, e);
        if (rc == 0 && t->level == 0)
            p->job->top = p->open[0];
        return rc;
    }
    if (pick != LIVE_WRITE)
        return folder ? TREE_SKIP : 0;
    struct restore_folder *parent = p->open[t->level - 1];
    changes_in(p->job, parent);
    if (folder)
        return make_folder(p, t, brief, e);
    if (make_above(p, parent, e) != 0)
        return entry_failed(p, t, e) == TREE_SKIP ? 0 : e->code;
    return plan_file(p, t, brief, e);
}

/* ---- the walk ---- */

static int plan_entry(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct plan *p = ctx;
    struct restore_job *j = p->job;
    struct node_brief brief;

    if (j->req->cancel && atomic_load_explicit(j->req->cancel, memory_order_relaxed))
        return restore_stopped(j);
    if (node_brief_decode(t->meta, t->meta_len, &brief, e) != 0)
        return entry_failed(p, t, e) == TREE_SKIP ? 0 : e->code;
    if (j->live)
        return plan_live(p, t, &brief, e);
    if (t->level == 0) {
        bool folder = brief.type == NODE_FOLDER;
        j->top = folder_new(j, NULL, "", folder ? t : NULL);
        int rc = open_level(p, 0, j->top, e);
        if (rc != 0 || folder)
            return rc;
    }
    return brief.type == NODE_FOLDER ? make_folder(p, t, &brief, e) : plan_file(p, t, &brief, e);
}

static int walk(struct restore_job *j, tree_visit visit, void *ctx, struct error *e)
{
    const struct snapshot_row *s = j->req->snapshot;
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = tree_walk(c, s->watch_serial, (int64_t)s->commit.number, j->req->path ? j->req->path : "",
                   UINT_MAX, visit, ctx, e);
    repo_catalog_close(j->req->repo, c);
    return rc;
}

int restore_plan(struct restore_job *j, struct error *e)
{
    struct plan p = {.job = j, .dir = RESTORE_DIR_INIT};

    int rc = walk(j, plan_entry, &p, e);
    if (rc == 0)
        rc = send_batch(&p);
    if (rc != 0 && restore_stopped(j) != 0)
        *e = j->why; /* the workers' reason came first */
    restore_batch_free(p.batch);
    restore_dir_close(&p.dir);
    number_set_release(&p.nodes);
    free(p.open);
    return rc;
}

/* ---- hard links ---- */

struct link_source {
    uint64_t node;
    char *path; /* below the top, once it was seen */
};

struct linking {
    struct restore_job *job;
    struct link_source *sources; /* sorted by node */
    size_t count;
    size_t strip; /* length of what stands before the top in a walk's paths */
};

static int by_node(const void *a, const void *b)
{
    const struct link_source *x = a;
    const struct link_source *y = b;

    return x->node < y->node ? -1 : x->node > y->node;
}

static int link_one(struct linking *l, const char *from, const char *to, struct error *e)
{
    const char *from_name, *to_name;
    char quoted[256];
    int rc = 0;

    int from_dir = safe_open_parent(l->job->tree, from, &from_name, e);
    if (from_dir < 0)
        return from_dir;
    int to_dir = safe_open_parent(l->job->tree, to, &to_name, e);
    if (to_dir < 0) {
        close(from_dir);
        return to_dir;
    }
    if (fileops->linkat(from_dir, from_name, to_dir, to_name) != 0)
        rc = error_sys(e, errno, "cannot link to '%s'", text_escape(from, quoted, sizeof(quoted)));
    close(from_dir);
    close(to_dir);
    return rc;
}

static int link_entry(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct linking *l = ctx;
    struct link_source key = {.node = t->node};

    int rc = restore_stopped(l->job);
    if (rc != 0) {
        *e = l->job->why;
        return rc;
    }
    struct link_source *s = bsearch(&key, l->sources, l->count, sizeof(key), by_node);
    if (!s)
        return 0;
    if (l->job->live && live_pick(l->job->live, t, false) != LIVE_WRITE)
        return 0;
    const char *path = t->path + l->strip;
    if (!s->path) {
        s->path = strdup(path);
        return s->path ? 0 : no_memory(e);
    }
    rc = link_one(l, s->path, path, e);
    if (rc == 0) {
        atomic_fetch_add(&l->job->files, 1);
        return 0;
    }
    if (restore_fatal(e->sys))
        return restore_target_failed(l->job, t->path, e);
    if (e->code == ERR_NOTFOUND)
        error_set(e, ERR_DAMAGED, "what it is a hard link to could not be restored");
    restore_problem(l->job, t->path, e);
    error_clear(e);
    return 0;
}

/* The node ids in j->repeated as sorted sources, each once. */
static int gather_sources(struct linking *l, struct error *e)
{
    const struct buffer *b = &l->job->repeated;
    size_t n = b->len / sizeof(uint64_t);

    l->sources = calloc(n, sizeof(*l->sources));
    if (!l->sources)
        return no_memory(e);
    for (size_t i = 0; i < n; i++)
        l->sources[i].node = load_u64(b->data + i * sizeof(uint64_t));
    qsort(l->sources, n, sizeof(*l->sources), by_node);
    for (size_t i = 0; i < n; i++) {
        if (l->count == 0 || l->sources[l->count - 1].node != l->sources[i].node)
            l->sources[l->count++] = l->sources[i];
    }
    return 0;
}

int restore_links(struct restore_job *j, struct error *e)
{
    const char *path = j->req->path ? j->req->path : "";
    struct linking l = {.job = j, .strip = *path ? strlen(path) + 1 : 0};

    if (j->repeated.len == 0)
        return 0;
    int rc = gather_sources(&l, e);
    if (rc == 0)
        rc = walk(j, link_entry, &l, e);
    for (size_t i = 0; i < l.count; i++)
        free(l.sources[i].path);
    free(l.sources);
    return rc;
}
