#include "snapshot/spoilt.h"

#include "base/banned.h"

const char *spoilt_reason(uint8_t flags, uint64_t size)
{
    enum content_class class = node_class(flags);

    if (size == 0)
        return "is empty";
    return class == CONTENT_JSON_BROKEN || class == CONTENT_SQLITE_BROKEN
               ? "is broken"
               : "is less than half of what it was";
}

static int count_classed(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                         size_t len)
{
    struct error ignored = ERROR_INIT;
    struct node_brief b;
    uint64_t *count = ctx;

    if (to != CATALOG_OPEN || node_brief_decode(meta, len, &b, &ignored) < 0)
        return 0;
    enum content_class class = node_class(b.flags);
    *count += class == CONTENT_TEXT || class == CONTENT_JSON || class == CONTENT_SQLITE;
    return 0;
}

int spoilt_count_classed(struct catalog *c, int64_t watch, uint64_t *count, struct error *e)
{
    *count = 0;
    return catalog_nodes(c, watch, count_classed, count, e);
}

struct first {
    uint64_t node, size;
    uint8_t flags;
};

static int take_first(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                      size_t len)
{
    struct error ignored = ERROR_INIT;
    struct node_brief b;
    struct first *f = ctx;

    if (node_brief_decode(meta, len, &b, &ignored) < 0 || !(b.flags & NODE_SPOILT))
        return 0;
    *f = (struct first){node, b.size, b.flags};
    return 1;
}

int spoilt_first(struct catalog *c, int64_t watch, struct buffer *path, const char **reason,
                 struct error *e)
{
    struct first f = {0};
    int rc = catalog_incomplete(c, watch, take_first, &f, e);

    *reason = "";
    if (rc < 0 || f.node == 0)
        return rc < 0 ? rc : 0;
    *reason = spoilt_reason(f.flags, f.size);
    return catalog_node_path(c, watch, f.node, CATALOG_OPEN, path, e);
}
