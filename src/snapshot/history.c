/* The versions of one path. A path is followed through its node: a node found at the path in some
 * snapshot gives all its versions, wherever it stood; before it came to the path, the next older
 * snapshot that has the path gives the node before. */
#include "snapshot/compare.h"

#include "base/text.h"
#include "snapshot/tree.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct version {
    uint64_t node, from;
    int64_t to;
    uint8_t *meta;
    uint32_t meta_len;
};

struct history {
    struct catalog *catalog;
    int64_t watch;
    const char *path;
    uint64_t node;  /* the one being gathered */
    uint64_t limit; /* only versions that begin at or before it */
    uint64_t came;  /* that node, to the path */
    void *gathered; /* nodes, of tsearch: what took turns at the path gives its versions once */
    struct version *versions;
    size_t count, cap;
    struct error *e;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int gather(void *ctx, uint64_t from, int64_t to, const void *meta, size_t len)
{
    struct history *h = ctx;

    if (from > h->limit)
        return 0;
    if (h->count == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 32;
        struct version *versions = reallocarray(h->versions, cap, sizeof(*versions));
        if (!versions)
            return no_memory(h->e);
        h->versions = versions;
        h->cap = cap;
    }
    struct version *v = &h->versions[h->count];
    *v = (struct version){.node = h->node,
                          .from = from,
                          .to = to,
                          .meta = malloc(len ? len : 1),
                          .meta_len = (uint32_t)len};
    if (!v->meta)
        return no_memory(h->e);
    memcpy(v->meta, meta, len);
    h->count++;
    return 0;
}

/* Visits snapshots, newest first, until one has the path. */
static int has_path(void *ctx, const struct snapshot_row *s)
{
    struct history *h = ctx;

    int rc = tree_find_since(h->catalog, h->watch, (int64_t)s->commit.number, h->path, &h->node,
                             &h->came, h->e);
    if (rc == ERR_NOTFOUND)
        return 0;
    return rc != 0 ? rc : 1;
}

static int by_number(const void *a, const void *b)
{
    return (uintptr_t)a < (uintptr_t)b ? -1 : (uintptr_t)a > (uintptr_t)b;
}

static int gather_node(struct history *h)
{
    const void *key = (const void *)(uintptr_t)h->node;

    if (tfind(key, &h->gathered, by_number))
        return 0;
    if (!tsearch(key, &h->gathered, by_number))
        return no_memory(h->e);
    return catalog_versions(h->catalog, h->watch, h->node, gather, h, h->e);
}

static void keep_key(void *key)
{
}

static int gather_all(struct history *h)
{
    h->limit = UINT64_MAX;
    while (h->limit > 0) {
        int rc = catalog_snapshots(h->catalog, h->watch, 1, h->limit, true, has_path, h, h->e);
        if (rc <= 0)
            return rc;
        rc = gather_node(h);
        if (rc != 0)
            return rc;
        if (h->came == 0 || h->came > h->limit)
            break;
        h->limit = h->came - 1;
    }
    return 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct version *x = a;
    const struct version *y = b;

    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

struct holders { /* kept snapshots that hold a version */
    uint64_t newest;
    struct wall_time time; /* of the oldest */
};

static int see_newest(void *ctx, const struct snapshot_row *s)
{
    ((struct holders *)ctx)->newest = s->commit.number;
    return 1;
}

static int see_oldest(void *ctx, const struct snapshot_row *s)
{
    ((struct holders *)ctx)->time = s->commit.time;
    return 1;
}

static int show(struct history *h, const struct version *v, history_visit visit, void *ctx)
{
    struct holders holders = {0};
    struct buffer path = BUFFER_INIT;
    uint64_t last = v->to == CATALOG_OPEN ? UINT64_MAX : (uint64_t)v->to - 1;

    int rc =
        catalog_snapshots(h->catalog, h->watch, v->from, last, true, see_newest, &holders, h->e);
    if (rc < 0 || holders.newest == 0)
        return rc < 0 ? rc : 0;
    rc = catalog_snapshots(h->catalog, h->watch, v->from, last, false, see_oldest, &holders, h->e);
    if (rc < 0)
        return rc;
    rc = catalog_node_path(h->catalog, h->watch, v->node, (int64_t)holders.newest, &path, h->e);
    if (rc == 0 && !buffer_ok(&path))
        rc = no_memory(h->e);
    if (rc == 0) {
        struct history_entry entry = {.from = v->from,
                                      .to = v->to,
                                      .newest = holders.newest,
                                      .time = holders.time,
                                      .path = (const char *)path.data,
                                      .meta = v->meta,
                                      .meta_len = v->meta_len};
        rc = visit(ctx, &entry, h->e);
    } else if (rc == ERR_NOTFOUND) {
        rc = 0; /* a version whose names are gone by then */
    }
    buffer_release(&path);
    return rc;
}

int history_run(struct repo *r, const char *watch, const char *path, history_visit visit, void *ctx,
                struct error *e)
{
    struct history h = {.catalog = repo_catalog(r), .path = path, .e = e};
    struct watch_row row;
    char quoted[256];

    int rc = catalog_watch_by_name(h.catalog, watch, &row, e);
    if (rc != 0)
        return rc;
    h.watch = row.serial;
    watch_row_release(&row);
    rc = gather_all(&h);
    tdestroy(h.gathered, keep_key);
    if (rc == 0 && h.count == 0) {
        error_set(e, ERR_NOTFOUND, "no snapshot of watch '%s' holds '%s'", watch,
                  text_escape(path, quoted, sizeof(quoted)));
        rc = error_path(e, path);
    }
    if (rc == 0)
        qsort(h.versions, h.count, sizeof(*h.versions), by_begin);
    for (size_t i = 0; i < h.count && rc == 0; i++)
        rc = show(&h, &h.versions[i], visit, ctx);
    for (size_t i = 0; i < h.count; i++)
        free(h.versions[i].meta);
    free(h.versions);
    return rc;
}
