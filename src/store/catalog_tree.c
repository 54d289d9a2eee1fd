/* The tree of a watch at one of its snapshots: intervals [from_, to_) that contain the number. */
#include "store/catalog_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define OPEN_TEXT "9223372036854775807" /* CATALOG_OPEN */

enum {
    DEPTH_MAX = 1 << 20, /* of a path; beyond it the names form a ring */
};

/* ---- children ---- */

struct name_iter {
    struct catalog *catalog;
    struct name_iter *next;
    sqlite3_stmt *now, *then, *in_use;
    char name[NAME_LEN_MAX + 1];
};

static const char children_now[] =
    "SELECT n.name,n.node,d.meta,c.sig,c.ino FROM names n CROSS JOIN nodes d ON d.id=?3+n.node "
    "LEFT JOIN cache c ON c.id=?3+n.node WHERE n.watch=?1 AND n.parent=?2 ORDER BY n.name";
/* Of a node's old versions only the first that ended later can be the one: they do not overlap. */
static const char children_then[] =
    "SELECT n.name,n.node,coalesce((SELECT meta FROM nodes WHERE id=?3+n.node AND from_<=?4),"
    "(SELECT CASE WHEN from_<=?4 THEN meta END FROM old_nodes WHERE watch=?1 AND node=n.node AND "
    "to_>?4 ORDER BY to_ LIMIT 1)),NULL,NULL FROM ("
    "SELECT name,node FROM names WHERE watch=?1 AND parent=?2 AND from_<=?4 UNION ALL "
    "SELECT name,node FROM old_names WHERE watch=?1 AND parent=?2 AND to_>?4 AND from_<=?4) n "
    "ORDER BY n.name";

static void iter_free(struct name_iter *it)
{
    sqlite3_finalize(it->now);
    sqlite3_finalize(it->then);
    free(it);
}

void cat_iters_free(struct catalog *c)
{
    while (c->idle_iters) {
        struct name_iter *it = c->idle_iters;
        c->idle_iters = it->next;
        iter_free(it);
    }
}

static struct name_iter *iter_take(struct catalog *c)
{
    struct name_iter *it = c->idle_iters;

    if (it) {
        c->idle_iters = it->next;
        return it;
    }
    it = calloc(1, sizeof(*it));
    if (it)
        it->catalog = c;
    return it;
}

int catalog_children(struct catalog *c, int64_t watch, uint64_t parent, int64_t at,
                     struct name_iter **out, struct error *e)
{
    struct name_iter *it = iter_take(c);

    *out = NULL;
    if (!it)
        return cat_no_memory(e);
    bool now = at >= CATALOG_OPEN;
    sqlite3_stmt **s = now ? &it->now : &it->then;
    if (!*s && !(*s = cat_prepare(c, now ? children_now : children_then, e))) {
        iter_free(it);
        return e->code;
    }
    it->in_use = *s;
    sqlite3_bind_int64(*s, 1, watch);
    sqlite3_bind_int64(*s, 2, (int64_t)parent);
    sqlite3_bind_int64(*s, 3, cat_node_id(watch, 0));
    if (!now)
        sqlite3_bind_int64(*s, 4, at);
    *out = it;
    return 0;
}

int name_iter_step(struct name_iter *it, struct name_row *row, struct error *e)
{
    sqlite3_stmt *s = it->in_use;
    int rc;

    do
        rc = cat_step(it->catalog, s, e);
    while (rc == 1 && sqlite3_column_type(s, 2) == SQLITE_NULL); /* no version: not there */
    if (rc <= 0)
        return rc;
    int len = sqlite3_column_bytes(s, 0);
    if (len < 1 || len > NAME_LEN_MAX)
        return error_set(e, ERR_CATALOG, "catalog: a name is damaged");
    memcpy(it->name, sqlite3_column_blob(s, 0), (size_t)len);
    it->name[len] = '\0';
    row->name = it->name;
    row->name_len = (uint8_t)len;
    row->node = (uint64_t)sqlite3_column_int64(s, 1);
    row->meta = sqlite3_column_blob(s, 2);
    row->meta_len = (uint32_t)sqlite3_column_bytes(s, 2);
    row->signature = sqlite3_column_blob(s, 3);
    row->signature_len = (uint32_t)sqlite3_column_bytes(s, 3);
    row->ino = (uint64_t)sqlite3_column_int64(s, 4);
    return 1;
}

void name_iter_close(struct name_iter *it)
{
    if (!it)
        return;
    struct catalog *c = it->catalog;
    sqlite3_reset(it->in_use);
    it->next = c->idle_iters;
    c->idle_iters = it;
}

/* ---- one name, one node ---- */

/* Of a row of names, open or closed: 1 if it began by then. */
static int take_name(struct catalog *c, sqlite3_stmt *s, int64_t at, uint64_t *node,
                     uint64_t *since, struct error *e)
{
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc != 1)
        return rc;
    uint64_t v = (uint64_t)sqlite3_column_int64(s, 0);
    int64_t from = sqlite3_column_int64(s, 1);
    sqlite3_reset(s);
    if (from > cat_at(at))
        return 0;
    *node = v;
    if (since)
        *since = (uint64_t)from;
    return 1;
}

int catalog_lookup_since(struct catalog *c, int64_t watch, uint64_t parent, const char *name,
                         size_t len, int64_t at, uint64_t *node, uint64_t *since, struct error *e)
{
    int rc = take_name(c, cat_bind(c, e, CAT_LOOKUP_OPEN, "iib", watch, (int64_t)parent, name, len),
                       at, node, since, e);
    if (rc == 0 && at < CATALOG_OPEN)
        rc = take_name(
            c, cat_bind(c, e, CAT_LOOKUP_CLOSED, "iiib", watch, (int64_t)parent, at, name, len), at,
            node, since, e);
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "no such name in the snapshot");
    return rc < 0 ? rc : 0;
}

int catalog_lookup(struct catalog *c, int64_t watch, uint64_t parent, const char *name, size_t len,
                   int64_t at, uint64_t *node, struct error *e)
{
    return catalog_lookup_since(c, watch, parent, name, len, at, node, NULL, e);
}

int catalog_node(struct catalog *c, int64_t watch, uint64_t node, int64_t at, struct buffer *meta,
                 struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_NODE_OPEN, "i", cat_node_id(watch, node));
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc == 1 && sqlite3_column_int64(s, 0) > cat_at(at)) {
        sqlite3_reset(s);
        rc = 0;
    }
    if (rc == 0 && at < CATALOG_OPEN) {
        s = cat_bind(c, e, CAT_NODE_CLOSED, "iii", watch, (int64_t)node, at);
        rc = s ? cat_step(c, s, e) : e->code;
    }
    if (rc < 0)
        return rc;
    bool found = rc == 1 && sqlite3_column_int64(s, 0) <= cat_at(at);
    if (found)
        buffer_append(meta, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    if (rc == 1)
        sqlite3_reset(s);
    if (!found)
        return error_set(e, ERR_NOTFOUND, "no node %llu in the snapshot", (unsigned long long)node);
    return buffer_ok(meta) ? 0 : cat_no_memory(e);
}

int catalog_node_name(struct catalog *c, int64_t watch, uint64_t node, int64_t at, uint64_t *parent,
                      struct buffer *name, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_NODE_NAME, "iii", watch, (int64_t)node, cat_at(at));
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "node %llu has no name in the snapshot",
                         (unsigned long long)node);
    *parent = (uint64_t)sqlite3_column_int64(s, 0);
    buffer_append(name, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    sqlite3_reset(s);
    return buffer_ok(name) ? 0 : cat_no_memory(e);
}

static void reverse(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        uint8_t t = p[i];
        p[i] = p[n - 1 - i];
        p[n - 1 - i] = t;
    }
}

/* Built from the leaf up, each name backwards, and turned round at the end. */
int catalog_node_path(struct catalog *c, int64_t watch, uint64_t node, int64_t at,
                      struct buffer *out, struct error *e)
{
    struct buffer name = BUFFER_INIT;
    size_t begin = out->len;
    int rc = 0, depth = 0;

    while (rc == 0 && node != NODE_ROOT) {
        buffer_clear(&name);
        rc = catalog_node_name(c, watch, node, at, &node, &name, e);
        if (rc < 0)
            break;
        if (out->len > begin)
            buffer_append(out, "/", 1);
        reverse(name.data, name.len);
        buffer_append(out, name.data, name.len);
        if (++depth > DEPTH_MAX)
            rc = error_set(e, ERR_CATALOG, "catalog: the names of a folder form a ring");
    }
    buffer_release(&name);
    if (rc == 0 && buffer_ok(out) && out->len > begin)
        reverse(out->data + begin, out->len - begin);
    buffer_append(out, "", 1);
    if (rc == 0 && !buffer_ok(out))
        rc = cat_no_memory(e);
    if (rc == 0)
        out->len--; /* the NUL stands behind the end */
    else
        out->len = begin;
    return rc;
}

int catalog_node_names(struct catalog *c, int64_t watch, uint64_t node, int64_t at, size_t *count,
                       struct error *e)
{
    int64_t v = 0;
    int rc = cat_number(c, e, &v, CAT_NODE_NAMES, "iii", watch, (int64_t)node, cat_at(at));

    *count = (size_t)v;
    return rc;
}

/* ---- visits ---- */

int catalog_links(struct catalog *c, int64_t watch, uint64_t node, int64_t at, link_visit visit,
                  void *ctx, struct error *e)
{
    int rc;

    sqlite3_stmt *s =
        cat_prepare(c, "SELECT parent,name FROM (" NAMES_OF_NODE ") ORDER BY parent,name", e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, watch);
    sqlite3_bind_int64(s, 2, (int64_t)node);
    sqlite3_bind_int64(s, 3, cat_at(at));
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = visit(ctx, (uint64_t)sqlite3_column_int64(s, 0), sqlite3_column_blob(s, 1),
                   (size_t)sqlite3_column_bytes(s, 1));
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

int catalog_versions(struct catalog *c, int64_t watch, uint64_t node, version_visit visit,
                     void *ctx, struct error *e)
{
    int rc;

    sqlite3_stmt *s =
        cat_prepare(c,
                    "SELECT from_,to_,meta FROM old_nodes WHERE watch=?1 AND node=?2 UNION ALL "
                    "SELECT from_," OPEN_TEXT ",meta FROM nodes WHERE id=?3 ORDER BY 2",
                    e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, watch);
    sqlite3_bind_int64(s, 2, (int64_t)node);
    sqlite3_bind_int64(s, 3, cat_node_id(watch, node));
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = visit(ctx, (uint64_t)sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1),
                   sqlite3_column_blob(s, 2), (size_t)sqlite3_column_bytes(s, 2));
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

#define OPEN_NODES "SELECT id,from_," OPEN_TEXT ",meta FROM nodes "

/* ?1 and ?2 stand for the watch's least and greatest id, ?3 for the watch. */
static int visit_nodes(struct catalog *c, const char *sql, int64_t watch, node_visit visit,
                       void *ctx, struct error *e)
{
    int rc;

    sqlite3_stmt *s = cat_prepare(c, sql, e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, cat_node_id(watch, 0));
    sqlite3_bind_int64(s, 2, cat_node_id(watch, NODE_NUMBER_MAX));
    sqlite3_bind_int64(s, 3, watch);
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = visit(ctx, cat_node_of(sqlite3_column_int64(s, 0)), sqlite3_column_int64(s, 1),
                   sqlite3_column_int64(s, 2), sqlite3_column_blob(s, 3),
                   (size_t)sqlite3_column_bytes(s, 3));
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

int catalog_incomplete(struct catalog *c, int64_t watch, node_visit visit, void *ctx,
                       struct error *e)
{
    return visit_nodes(c,
                       OPEN_NODES "INDEXED BY nodes_incomplete WHERE incomplete AND id>=?1 AND "
                                  "id<=?2 ORDER BY id",
                       watch, visit, ctx, e);
}

int catalog_nodes(struct catalog *c, int64_t watch, node_visit visit, void *ctx, struct error *e)
{
    int rc =
        visit_nodes(c, "SELECT node,from_,to_,meta FROM old_nodes WHERE watch=?3 ORDER BY node,to_",
                    watch, visit, ctx, e);

    return rc != 0 ? rc
                   : visit_nodes(c, OPEN_NODES "WHERE id>=?1 AND id<=?2 ORDER BY id", watch, visit,
                                 ctx, e);
}
