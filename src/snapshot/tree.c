#include "snapshot/tree.h"

#include "base/text.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* Deeper than any folder a person makes; a ring in a damaged catalog ends here. */
enum { TREE_DEPTH_MAX = 32768, QUOTE_MAX = 512 };

/* ---- finding one path ---- */

static int no_such_path(const char *path, size_t len, int64_t at, struct error *e)
{
    char quoted[QUOTE_MAX];
    char *part = strndup(path, len);

    text_escape(part ? part : path, quoted, sizeof(quoted));
    free(part);
    if (at == CATALOG_OPEN)
        error_set(e, ERR_NOTFOUND, "'%s' is not in the last snapshot", quoted);
    else
        error_set(e, ERR_NOTFOUND, "'%s' is not in snapshot %" PRId64, quoted, at);
    return error_path(e, path);
}

int tree_find_since(struct catalog *c, int64_t watch, int64_t at, const char *path, uint64_t *node,
                    uint64_t *since, struct error *e)
{
    const char *part = path;
    uint64_t from = 0;

    *node = NODE_ROOT;
    *since = 0;
    while (*part) {
        size_t len = strcspn(part, "/");
        int rc = ERR_NOTFOUND;
        if (len > 0 && len <= NAME_LEN_MAX)
            rc = catalog_lookup_since(c, watch, *node, part, len, at, node, &from, e);
        if (rc == ERR_NOTFOUND)
            return no_such_path(path, (size_t)(part - path) + len, at, e);
        if (rc != 0)
            return rc;
        if (*since < from)
            *since = from;
        part += len + (part[len] == '/');
    }
    return 0;
}

int tree_find(struct catalog *c, int64_t watch, int64_t at, const char *path, uint64_t *node,
              struct error *e)
{
    uint64_t since;

    return tree_find_since(c, watch, at, path, node, &since, e);
}

/* ---- walking ---- */

struct level {
    struct name_iter *it;
    uint64_t node;   /* the folder whose names it gives */
    size_t path_len; /* of that folder's path, in walk.path */
};

struct walk {
    struct catalog *catalog;
    int64_t watch, at;
    unsigned depth;
    tree_visit visit;
    void *ctx;
    struct buffer path; /* NUL-terminated */
    struct level *levels;
    size_t count, cap;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static bool is_folder(const struct tree_entry *t)
{
    struct error ignored = ERROR_INIT;
    struct node_brief brief;

    return node_brief_decode(t->meta, t->meta_len, &brief, &ignored) == 0 &&
           brief.type == NODE_FOLDER;
}

/* Go down into the folder whose path stands in w->path. */
static int enter(struct walk *w, uint64_t node, struct error *e)
{
    if (w->count == TREE_DEPTH_MAX)
        return error_set(e, ERR_DAMAGED, "folders nest deeper than %d: the catalog is damaged",
                         TREE_DEPTH_MAX);
    if (w->count == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 16;
        struct level *levels = reallocarray(w->levels, cap, sizeof(*levels));
        if (!levels)
            return no_memory(e);
        w->levels = levels;
        w->cap = cap;
    }
    struct level *level = &w->levels[w->count];
    int rc = catalog_children(w->catalog, w->watch, node, w->at, &level->it, e);
    if (rc != 0)
        return rc;
    level->node = node;
    level->path_len = w->path.len - 1;
    w->count++;
    return 0;
}

/* Set w->path to the first len bytes of what it is, then name. */
static int set_path(struct walk *w, size_t len, const char *name, struct error *e)
{
    w->path.len = len;
    if (len > 0)
        buffer_append(&w->path, "/", 1);
    buffer_append(&w->path, name, strlen(name) + 1);
    return buffer_ok(&w->path) ? 0 : no_memory(e);
}

/* Visit one entry and go below it where that is wanted. */
static int show(struct walk *w, struct tree_entry *t, struct error *e)
{
    t->path = (const char *)w->path.data;
    int rc = w->visit(w->ctx, t, e);
    if (rc == TREE_SKIP)
        return 0;
    if (rc != 0)
        return rc;
    return t->level < w->depth && is_folder(t) ? enter(w, t->node, e) : 0;
}

static int step(struct walk *w, struct error *e)
{
    struct level *level = &w->levels[w->count - 1];
    struct name_row row;

    int rc = name_iter_step(level->it, &row, e);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        name_iter_close(level->it);
        w->count--;
        return 0;
    }
    if (!node_name_ok(row.name, row.name_len) || strlen(row.name) != row.name_len)
        return error_set(e, ERR_DAMAGED,
                         "a name in folder %" PRIu64 " is none: the catalog is"
                         " damaged",
                         level->node);
    if ((rc = set_path(w, level->path_len, row.name, e)) != 0)
        return rc;
    struct tree_entry t = {.node = row.node,
                           .parent = level->node,
                           .name = row.name,
                           .meta = row.meta,
                           .meta_len = row.meta_len,
                           .level = (unsigned)w->count};
    return show(w, &t, e);
}

/* What stands for a root whose own row was lost with a damaged list, so that the rest is reached.
 */
static void plain_folder(struct buffer *meta)
{
    struct node folder = {.type = NODE_FOLDER, .mode = 0700};

    buffer_clear(meta);
    node_encode(&folder, meta);
}

static int show_start(struct walk *w, uint64_t node, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct tree_entry t = {.node = node};

    int rc = catalog_node(w->catalog, w->watch, node, w->at, &meta, e);
    if (rc == ERR_NOTFOUND && node == NODE_ROOT) {
        plain_folder(&meta);
        rc = 0;
    }
    if (rc == 0 && !buffer_ok(&meta))
        rc = no_memory(e);
    if (rc == 0) {
        const char *slash = strrchr((const char *)w->path.data, '/');
        t.name = slash ? slash + 1 : (const char *)w->path.data;
        t.meta = meta.data;
        t.meta_len = (uint32_t)meta.len;
        rc = show(w, &t, e);
    }
    buffer_release(&meta);
    return rc;
}

int tree_walk(struct catalog *c, int64_t watch, int64_t at, const char *path, unsigned depth,
              tree_visit visit, void *ctx, struct error *e)
{
    struct walk w = {
        .catalog = c, .watch = watch, .at = at, .depth = depth, .visit = visit, .ctx = ctx};
    uint64_t node;

    int rc = tree_find(c, watch, at, path, &node, e);
    if (rc == 0)
        rc = set_path(&w, 0, path, e);
    if (rc == 0)
        rc = show_start(&w, node, e);
    while (rc == 0 && w.count > 0)
        rc = step(&w, e);
    while (w.count > 0)
        name_iter_close(w.levels[--w.count].it);
    free(w.levels);
    buffer_release(&w.path);
    return rc;
}
