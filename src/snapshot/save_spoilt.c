/* A JSON file or a database that was whole and is empty, broken or cut short is *spoilt*, and what
 * holds it is not good. It does not get better by staying so: the flag stays with the node's
 * versions until the content is whole again. But what nobody has put right in seven days is how the
 * file is; else one file could keep all that comes after it from being good, for ever.
 *
 * What a file was in these seven days is looked up at some of their snapshots, evenly spread, and
 * only for one that shrank or broke. The median is that of these. */
#include "snapshot/save_state.h"

#include <stdlib.h>

#include "base/banned.h"

enum { WEEK_S = 7 * 86400, SAMPLES = 31, PARDONS_MAX = 16 };

static bool is_whole(enum content_class c)
{
    return c == CONTENT_JSON || c == CONTENT_SQLITE;
}

static bool is_broken(enum content_class c)
{
    return c == CONTENT_JSON_BROKEN || c == CONTENT_SQLITE_BROKEN;
}

/* ---- seven days ---- */

struct newest {
    uint64_t number;
    int64_t time;
};

static int take_newest(void *ctx, const struct snapshot_row *row)
{
    struct newest *n = ctx;

    *n = (struct newest){row->commit.number, row->commit.time.s};
    return 1;
}

/* The newest snapshot that is seven days old, 0 = none; by halves. */
static int find_week(struct save *s, struct error *e)
{
    uint64_t low = 0, high = txn_watch_row(s->txn)->last;
    int64_t limit = clock_wall().s - WEEK_S;

    while (low < high && !s->week_known) {
        uint64_t middle = low + (high - low + 1) / 2;
        struct newest n = {0};
        int rc = catalog_snapshots(s->cat, s->watch, low + 1, middle, true, take_newest, &n, e);
        if (rc < 0)
            return rc;
        if (n.number > 0 && n.time > limit)
            high = n.number - 1;
        else
            low = middle;
    }
    if (!s->week_known)
        s->week_ago = low;
    s->week_known = true;
    return 0;
}

struct week { /* whole states of a file */
    uint64_t sizes[SAMPLES];
    size_t count;
};

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static int look_back(struct save *s, uint64_t node, struct week *w, struct error *e)
{
    uint64_t last = txn_watch_row(s->txn)->last, before = 0;
    struct buffer meta = BUFFER_INIT;
    struct node_brief b;
    int rc = find_week(s, e);
    uint64_t first = s->week_ago > 0 ? s->week_ago : 1;

    w->count = 0;
    for (uint64_t i = 0; rc == 0 && i < SAMPLES; i++) {
        uint64_t at = first + (last - first) * i / (SAMPLES - 1);
        if (at == before)
            continue;
        before = at;
        buffer_clear(&meta);
        rc = catalog_node(s->cat, s->watch, node, (int64_t)at, &meta, e);
        if (rc == 0 && node_brief_decode(meta.data, meta.len, &b, e) == 0 &&
            is_whole(node_class(b.flags)))
            w->sizes[w->count++] = b.size;
        if (rc == ERR_NOTFOUND)
            rc = 0;
    }
    qsort(w->sizes, w->count, sizeof(w->sizes[0]), by_size);
    buffer_release(&meta);
    return rc;
}

/* ---- one file ---- */

static int is_spoilt(struct save *s, uint64_t node, enum content_class class, uint64_t size,
                     bool *spoilt, struct error *e)
{
    struct week w;
    int rc = look_back(s, node, &w, e);

    if (is_whole(class))
        *spoilt = rc == 0 && w.count > 0 && 2 * size < w.sizes[w.count / 2];
    else
        *spoilt = rc == 0 && w.count > 0;
    return rc;
}

int spoilt_judge(struct save *s, uint64_t node, struct node *n, const struct node_brief *old,
                 struct error *e)
{
    enum content_class was = old ? node_class(old->flags) : CONTENT_OTHER,
                       is = node_class(n->flags);
    bool before = old && old->flags & NODE_SPOILT;
    bool spoilt = false;
    int rc = 0;

    if (old && !is_whole(is) && (is_whole(was) || (was == CONTENT_TEXT && n->size > 0)) &&
        is != CONTENT_TEXT)
        s->declassed++;
    if (s->req->accept || (!is_whole(is) && !is_broken(is)))
        spoilt = false;
    else if (is_broken(is) && is_whole(was))
        spoilt = true;
    else if (before || (is_whole(is) && is_whole(was) && n->size < old->size))
        rc = is_spoilt(s, node, is, n->size, &spoilt, e);
    n->flags = (uint8_t)(spoilt ? n->flags | NODE_SPOILT : n->flags & ~NODE_SPOILT);
    return rc;
}

/* ---- those left alone ---- */

struct candidates {
    const struct save *s;
    uint64_t *nodes;
    size_t count, cap;
};

static int take_candidate(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                          size_t len)
{
    struct candidates *c = ctx;
    struct error ignored = ERROR_INIT;
    struct node_brief b;
    bool waits = (uint64_t)from > c->s->week_ago && !c->s->req->accept;

    if (waits || node_brief_decode(meta, len, &b, &ignored) < 0 || !(b.flags & NODE_SPOILT) ||
        pair_map_get(&c->s->incomplete, node, 0))
        return 0;
    c->nodes[c->count++] = node;
    return c->count == c->cap;
}

static int pardon(struct save *s, uint64_t node, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct node n = {0};
    bool spoilt = false;
    int rc = catalog_node(s->cat, s->watch, node, CATALOG_OPEN, &meta, e);

    if (rc == 0)
        rc = node_decode(meta.data, meta.len, &n, e);
    if (rc == 0 && !s->req->accept)
        rc = is_spoilt(s, node, node_class(n.flags), n.size, &spoilt, e);
    if (rc == 0 && !spoilt) {
        n.flags &= (uint8_t)~NODE_SPOILT;
        s->spoilt--;
        rc = txn_node_put(s->txn, node, &n, e);
        if (rc == 0 && !pair_map_put(&s->incomplete, node, 0, n.flags & NODE_INCOMPLETE))
            rc = save_no_memory(e);
    }
    node_release(&n);
    buffer_release(&meta);
    return rc;
}

int spoilt_pardon(struct save *s, uint64_t before, struct error *e)
{
    struct candidates c = {.s = s, .cap = s->req->accept ? before : PARDONS_MAX};

    if (before == 0)
        return 0;
    int rc = find_week(s, e);
    c.nodes = rc == 0 ? calloc(c.cap, sizeof(*c.nodes)) : NULL;
    if (rc == 0 && !c.nodes)
        return save_no_memory(e);
    if (rc == 0)
        rc = catalog_incomplete(s->cat, s->watch, take_candidate, &c, e);
    rc = rc < 0 ? rc : 0;
    for (size_t i = 0; rc == 0 && i < c.count; i++)
        rc = pardon(s, c.nodes[i], e);
    free(c.nodes);
    return rc;
}
