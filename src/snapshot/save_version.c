/* A touch alone makes no snapshot: times that differ wait in the catalog's cache, marked pending,
 * and ride in the next snapshot that is made for another reason. */
#include "snapshot/save_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int save_no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot save");
}

/* Whether a snapshot is certain, so that times need not wait. */
static bool commit_is_sure(const struct save *s)
{
    return s->must_commit || txn_changed(s->txn);
}

/* ---- times that wait ---- */

static struct waiting_times *find_times(struct save *s, uint64_t node)
{
    uint64_t *at = pair_map_get(&s->times_at, node, 0);

    return at ? &s->times[*at - 1] : NULL;
}

static int add_times(struct save *s, const struct waiting_times *t, struct error *e)
{
    if (s->times_count == s->times_cap) {
        size_t cap = s->times_cap ? 2 * s->times_cap : 64;
        struct waiting_times *v = reallocarray(s->times, cap, sizeof(*v));
        if (!v)
            return save_no_memory(e);
        s->times = v;
        s->times_cap = cap;
    }
    s->times[s->times_count++] = *t;
    return pair_map_put(&s->times_at, t->node, 0, s->times_count) ? 0 : save_no_memory(e);
}

static int wait_times(struct save *s, uint64_t node, const struct node *n, struct error *e)
{
    const struct waiting_times t = {
        .node = node, .mtime_s = n->mtime_s, .mtime_ns = n->mtime_ns, .now = true};
    struct waiting_times *old = find_times(s, node);

    if (!old)
        return add_times(s, &t, e);
    *old = t;
    return 0;
}

static void forget_times(struct save *s, uint64_t node)
{
    struct waiting_times *t = s->times_count ? find_times(s, node) : NULL;

    if (!t)
        return;
    t->node = 0;
    pair_map_remove(&s->times_at, node, 0);
}

int version_begin(struct save *s, struct error *e)
{
    uint64_t *nodes = NULL;
    size_t count = 0;
    int rc = s->fresh ? 0 : catalog_cache_pending(s->cat, s->watch, &nodes, &count, e);

    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = add_times(s, &(struct waiting_times){.node = nodes[i]}, e);
    free(nodes);
    return rc;
}

/* The times of a node that only the cache knows; its cached bytes are kept, no longer pending: they
 * tell the times themselves. */
static int cached_times(struct save *s, struct waiting_times *t, struct error *e)
{
    struct signature like = {0}, sig;
    struct cache_key key = {0};
    int rc;

    buffer_clear(&s->sig);
    rc = catalog_cache_get(s->cat, s->watch, t->node, &key.ino, &s->sig, e);
    if (rc == ERR_NOTFOUND ||
        (rc == 0 && !signature_decode(s->sig.data, s->sig.len, &like, &sig))) {
        t->node = 0;
        return 0;
    }
    if (rc < 0)
        return rc;
    t->mtime_s = sig.mtime_s;
    t->mtime_ns = sig.mtime_ns;
    return txn_cache_put(s->txn, t->node, &key, s->sig.data, s->sig.len, e);
}

/* What was found in this save stays marked until the next; by then its node has these times. */
static int put_times(struct save *s, struct waiting_times *t, struct error *e)
{
    struct node n;
    int rc = t->now ? 0 : cached_times(s, t, e);
    const bool pardoned = pair_map_get(&s->incomplete, t->node, 0) != NULL;

    if (rc < 0 || t->node == 0)
        return rc;
    buffer_clear(&s->meta);
    rc = catalog_node(s->cat, s->watch, t->node, CATALOG_OPEN, &s->meta, e);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc == 0)
        rc = node_decode(s->meta.data, s->meta.len, &n, e);
    if (rc < 0)
        return rc;
    if (n.mtime_s != t->mtime_s || n.mtime_ns != t->mtime_ns) {
        n.mtime_s = t->mtime_s;
        n.mtime_ns = t->mtime_ns;
        if (pardoned)
            n.flags &= (uint8_t)~NODE_SPOILT;
        rc = txn_node_put(s->txn, t->node, &n, e);
    }
    node_release(&n);
    return rc;
}

int version_put_times(struct save *s, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->times_count; i++) {
        if (s->times[i].node != 0)
            rc = put_times(s, &s->times[i], e);
    }
    return rc;
}

/* ---- versions ---- */

static int note_incomplete(struct save *s, uint64_t node, uint8_t before, uint8_t after,
                           struct error *e)
{
    const uint8_t told = NODE_INCOMPLETE | NODE_SPOILT;

    s->incomplete_count += ((after & NODE_INCOMPLETE) != 0) - ((before & NODE_INCOMPLETE) != 0);
    s->spoilt += ((after & NODE_SPOILT) != 0) - ((before & NODE_SPOILT) != 0);
    before &= told;
    after &= told;
    if (before == after && !(after & NODE_SPOILT))
        return 0;
    return pair_map_put(&s->incomplete, node, 0, after) ? 0 : save_no_memory(e);
}

static int put(struct save *s, uint64_t node, struct node *n, const uint8_t *old_meta,
               uint32_t old_meta_len, struct error *e)
{
    struct node_brief old = {0};
    int rc = old_meta_len ? node_brief_decode(old_meta, old_meta_len, &old, e) : 0;

    if (rc == 0 && n->type == NODE_FILE)
        rc = spoilt_judge(s, node, n, old_meta_len ? &old : NULL, e);
    if (rc == 0)
        rc = txn_node_put(s->txn, node, n, e);
    if (rc < 0)
        return rc;
    s->bytes += (int64_t)n->size - (int64_t)old.size;
    s->res->files_changed += old_meta_len && n->type != NODE_FOLDER;
    return note_incomplete(s, node, old.flags, n->flags, e);
}

/* The signature is kept as what differs from the version that stands from now on: while times wait
 * that is the one before. */
static int keep_signature(struct save *s, uint64_t node, const struct node *n,
                          const struct signature *sig, bool pending, const struct buffer *hashes,
                          struct error *e)
{
    const struct node_brief b = {.type = n->type,
                                 .mode = n->mode,
                                 .uid = n->uid,
                                 .gid = n->gid,
                                 .mtime_s = n->mtime_s,
                                 .mtime_ns = n->mtime_ns,
                                 .size = n->size};
    const struct signature waiting = {.ino = sig->ino, .size = n->size};
    const struct signature like = pending ? waiting : entry_like(&b, sig->ino);
    const struct cache_key key = {.ino = sig->ino, .pending = pending};
    uint8_t bytes[SIGNATURE_MAX];

    buffer_clear(&s->cached);
    buffer_append(&s->cached, bytes, signature_encode(sig, &like, bytes));
    if (hashes)
        buffer_append(&s->cached, hashes->data, hashes->len);
    if (!buffer_ok(&s->cached))
        return save_no_memory(e);
    return txn_cache_put(s->txn, node, &key, s->cached.data, s->cached.len, e);
}

int version_take(struct save *s, uint64_t node, struct node *n, enum file_outcome outcome,
                 const uint8_t *old_meta, uint32_t old_meta_len, const struct signature *sig,
                 const struct buffer *hashes, struct error *e)
{
    if (outcome == FILE_TIMES && n->flags & NODE_SPOILT && commit_is_sure(s))
        outcome = FILE_DIFFERS; /* to be judged anew */
    bool pending = outcome == FILE_TIMES && !commit_is_sure(s);
    int rc = 0;

    if (outcome == FILE_DIFFERS)
        rc = put(s, node, n, old_meta, old_meta_len, e);
    else if (outcome == FILE_TIMES && !pending)
        rc = txn_node_put(s->txn, node, n, e);
    if (rc == 0 && pending)
        rc = wait_times(s, node, n, e);
    else
        forget_times(s, node);
    if (rc < 0)
        return rc;
    return keep_signature(s, node, n, sig, pending, hashes, e);
}

int version_compare(struct save *s, uint64_t node, struct node *n, const struct known *old,
                    const struct signature *sig, struct error *e)
{
    struct buffer b = BUFFER_INIT;
    enum file_outcome outcome = FILE_DIFFERS;

    node_encode(n, &b);
    if (!buffer_ok(&b)) {
        buffer_release(&b);
        return error_set(e, ERR_FAILED, "cannot describe an entry");
    }
    if (old && b.len == old->meta_len && memcmp(b.data, old->meta, b.len) == 0)
        outcome = FILE_SAME;
    else if (old && node_equal_but_times(b.data, b.len, old->meta, old->meta_len))
        outcome = FILE_TIMES;
    buffer_release(&b);
    return version_take(s, node, n, outcome, old ? old->meta : NULL, old ? old->meta_len : 0, sig,
                        NULL, e);
}

int version_remove(struct save *s, uint64_t node, uint8_t type, uint8_t flags, uint64_t size,
                   struct error *e)
{
    int rc = txn_node_remove(s->txn, node, e);

    if (rc < 0)
        return rc;
    if (type == NODE_FILE)
        s->bytes -= (int64_t)size;
    s->databases_removed += (flags & NODE_SQLITE) != 0;
    forget_times(s, node);
    return note_incomplete(s, node, flags, 0, e);
}

/* ---- sound or not ---- */

static int was_read(void *ctx, uint64_t from, int64_t to, const void *meta, size_t len)
{
    struct error e = ERROR_INIT;
    struct node_brief b;
    bool *read = ctx;

    if (node_brief_decode(meta, len, &b, &e) == 0 && !(b.flags & (NODE_UNREAD | NODE_CHANGING)))
        *read = true;
    return *read;
}

static int judge(struct save *s, uint64_t node, uint8_t flags, bool *unsound, struct error *e)
{
    if (*unsound || !(flags & (NODE_UNREAD | NODE_CHANGING)))
        return 0;
    int rc = catalog_versions(s->cat, s->watch, node, was_read, unsound, e);
    return rc < 0 && rc != ERR_NOTFOUND ? rc : 0;
}

struct judging {
    struct save *s;
    bool *unsound;
    struct error *e;
    int rc;
};

static int judge_old(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                     size_t len)
{
    struct judging *j = ctx;
    struct node_brief b;

    if (pair_map_get(&j->s->incomplete, node, 0))
        return 0; /* another story by now */
    j->rc = node_brief_decode(meta, len, &b, j->e);
    if (j->rc == 0)
        j->rc = judge(j->s, node, b.flags, j->unsound, j->e);
    return j->rc < 0 || *j->unsound;
}

int version_unsound(struct save *s, bool *unsound, struct error *e)
{
    struct judging j = {.s = s, .unsound = unsound, .e = e};
    int rc = 0;

    *unsound = false;
    if (s->fresh)
        return 0;
    for (size_t i = 0; rc == 0 && i < s->incomplete.cap; i++) {
        const struct pair_slot *slot = &s->incomplete.slots[i];
        if (slot->used)
            rc = judge(s, slot->a, (uint8_t)slot->value, unsound, e);
    }
    if (rc < 0 || *unsound || txn_watch_row(s->txn)->incomplete_count == 0)
        return rc;
    rc = catalog_incomplete(s->cat, s->watch, judge_old, &j, e);
    return j.rc < 0 ? j.rc : rc < 0 ? rc : 0;
}
