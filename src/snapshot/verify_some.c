/* Only what some snapshots need: their trees are walked, each chunk is noted once, in the order of
 * the walk, and the workers read them in neighbouring runs through chunk sources. */
#include "snapshot/tree.h"
#include "snapshot/verify_job.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { WORKERS_MAX = 4, RUN = 256 };

struct need {
    struct verify_job *job;
    struct verify_snapshot *now; /* whose tree is walked */
    struct chunk_source *source;
    struct hash *ids;
    size_t count, cap;
    struct number_set keys;
    atomic_size_t next;          /* the first that no worker took */
    atomic_uint_least64_t bytes; /* read */
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int add_id(struct need *n, const struct hash *id, struct error *e)
{
    int fresh = number_set_add(&n->keys, verify_key(id));

    if (fresh <= 0)
        return fresh < 0 ? no_memory(e) : 0;
    if (n->count == n->cap) {
        size_t cap = n->cap ? 2 * n->cap : 1024;
        struct hash *ids = reallocarray(n->ids, cap, sizeof(*ids));
        if (!ids)
            return no_memory(e);
        n->ids = ids;
        n->cap = cap;
    }
    n->ids[n->count++] = *id;
    return 0;
}

static int add_content(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    return add_id(ctx, &ref->id, e);
}

/* What stands beneath a list that the disk did not give is not known. */
static int unread_list(struct need *n, struct error *e)
{
    struct error why = *e;
    size_t fault = verify_fault_of(n->job, 0, 0, 0, true, &why);

    error_clear(e);
    if (fault == NO_FAULT)
        return no_memory(e);
    n->now->unsure = true;
    return verify_touch(n->job, fault, &n->now->number, 1, e);
}

/* All chunks of one node. List chunks are read on the way; one that cannot be is noted as such. */
static int add_node(struct need *n, const struct tree_entry *t, struct error *e)
{
    struct error why = ERROR_INIT;
    struct node node;

    int rc = node_decode(t->meta, t->meta_len, &node, &why);
    if (rc == ERR_FAILED) { /* no memory */
        *e = why;
        return rc;
    }
    if (rc != 0)
        return 0; /* the audit of nodes tells */
    for (uint32_t i = 0; rc == 0 && i < node.ref_count; i++)
        rc = add_id(n, &node.refs[i].id, e);
    if (rc == 0 && node.depth > 0) {
        rc = content_walk(n->source, &node, add_content, n, e);
        if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND) {
            error_clear(e);
            rc = 0;
        } else if (rc == ERR_FAILED && e->sys != 0) {
            rc = unread_list(n, e);
        }
    }
    node_release(&node);
    return rc;
}

static int visit_entry(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct need *n = ctx;

    int rc = verify_stopped(n->job, e);
    return rc != 0 ? rc : add_node(n, t, e);
}

static int gather(struct need *n, struct error *e)
{
    struct verify_job *j = n->job;
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        struct verify_snapshot *s = &j->snapshots[i];
        n->now = s;
        if (s->wanted)
            rc = tree_walk(c, s->watch, (int64_t)s->number, "", UINT_MAX, visit_entry, n, e);
    }
    if (c)
        repo_catalog_close(j->req->repo, c);
    return rc;
}

/* ---- reading ---- */

static bool pack_there(const struct verify_job *j, const struct chunk_place *p)
{
    for (size_t i = 0; i < j->pack_count; i++) {
        if (j->packs[i].id == p->pack_id)
            return p->offset < j->packs[i].bytes;
    }
    return false;
}

/* What a worker reads with. */
struct reading {
    struct chunk_source *source;
    struct catalog *catalog;
};

/* *len: of what was read. */
static int is_there(struct verify_job *j, struct reading *r, const struct hash *id, size_t *len,
                    struct error *e)
{
    bool full = j->req->level == VERIFY_FULL;
    struct chunk_place place;
    const uint8_t *p;
    int rc = 0;

    *len = 0;
    if (!full || j->marks.len > 0)
        rc = catalog_chunk(r->catalog, id, &place, e);
    if (rc == 0 && !full && !pack_there(j, &place))
        rc = error_set(e, ERR_DAMAGED, "the pack that held it is missing or cut off");
    if (rc != 0 || !full)
        return rc;
    if (j->marks.len > 0 && place.offset < verify_mark_of(j, place.pack_id) &&
        pack_there(j, &place))
        return 0;
    return chunk_source_get(r->source, id, &p, len, e);
}

static int note_bad(struct verify_job *j, struct reading *r, const struct hash *id,
                    const struct error *why, struct error *e)
{
    struct chunk_place place = {0};
    struct error ignored = ERROR_INIT;
    bool fresh;

    if (catalog_chunk(r->catalog, id, &place, &ignored) != 0)
        place = (struct chunk_place){0};
    size_t fault = verify_fault_of(j, place.pack_id, place.offset, place.offset + 1, true, why);
    pthread_mutex_lock(&j->lock);
    struct verify_bad *b = fault == NO_FAULT ? NULL : id_map_put(&j->bad, id, &fresh);
    if (b) {
        b->fault = fault;
        b->content = true;
    }
    pthread_mutex_unlock(&j->lock);
    return b ? 0 : no_memory(e);
}

static int read_run(struct need *n, struct reading *r, size_t from, size_t to, struct error *e)
{
    struct verify_job *j = n->job;

    for (size_t i = from; i < to; i++) {
        struct error why = ERROR_INIT;
        size_t len;
        int rc = is_there(j, r, &n->ids[i], &len, &why);
        if (rc != 0)
            rc = note_bad(j, r, &n->ids[i], &why, e);
        if (rc != 0)
            return rc;
        atomic_fetch_add_explicit(&n->bytes, len, memory_order_relaxed);
        verify_progress(j, len);
    }
    return verify_stopped(j, e);
}

static void *read_runs(void *need)
{
    struct need *n = need;
    struct repo *repo = n->job->req->repo;
    struct reading r = {0};
    struct error e = ERROR_INIT;

    int rc = chunk_source_open(repo, &r.source, &e);
    if (rc == 0)
        rc = repo_catalog_open(repo, &r.catalog, &e);
    while (rc == 0) {
        size_t from = atomic_fetch_add(&n->next, RUN);
        if (from >= n->count)
            break;
        rc = read_run(n, &r, from, from + RUN < n->count ? from + RUN : n->count, &e);
    }
    if (rc != 0)
        verify_fail(n->job, &e);
    if (r.catalog)
        repo_catalog_close(repo, r.catalog);
    chunk_source_close(r.source);
    return NULL;
}

static int read_all(struct need *n, struct error *e)
{
    pthread_t threads[WORKERS_MAX];
    unsigned wanted = verify_workers(n->job->req);
    unsigned started = 0;

    while (started < wanted && pthread_create(&threads[started], NULL, read_runs, n) == 0)
        started++;
    if (started == 0)
        read_runs(n);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return verify_stopped(n->job, e);
}

int verify_some(struct verify_job *j, struct error *e)
{
    struct need n = {.job = j};

    verify_drop_cache(j);
    int rc = chunk_source_open(j->req->repo, &n.source, e);
    if (rc == 0)
        rc = gather(&n, e);
    if (rc == 0)
        rc = read_all(&n, e);
    j->chunks = n.count;
    j->result->bytes = atomic_load(&n.bytes);
    chunk_source_close(n.source);
    number_set_release(&n.keys);
    free(n.ids);
    return rc;
}
