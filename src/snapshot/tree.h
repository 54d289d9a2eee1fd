/* tree.h - the tree of one snapshot: paths, walks in path order. */
#ifndef WK_SNAPSHOT_TREE_H
#define WK_SNAPSHOT_TREE_H

#include "base/error.h"
#include "store/catalog.h"

struct tree_entry {
    const char *path; /* relative to the watch's root, bytes; "" = the root */
    uint64_t node, parent;
    const char *name;
    const uint8_t *meta; /* encoded node */
    uint32_t meta_len;
    unsigned level; /* 0 = where the walk began */
};
/* Non-zero stops; TREE_SKIP (only for folders) does not go below. */
#define TREE_SKIP 1
typedef int (*tree_visit)(void *ctx, const struct tree_entry *t, struct error *e);

/* Find path ("" = root) at snapshot. ERR_NOTFOUND names the first part that is missing. */
int tree_find(struct catalog *c, int64_t watch, int64_t at, const char *path, uint64_t *node,
              struct error *e);
/* And *since which snapshot the path has led there (0: the root). */
int tree_find_since(struct catalog *c, int64_t watch, int64_t at, const char *path, uint64_t *node,
                    uint64_t *since, struct error *e);

/* Visit the entry at path and all below it, a folder before its content, names in byte order.
 * depth limits levels (0: only the entry; UINT_MAX: all). Uses no recursion on the C stack. */
int tree_walk(struct catalog *c, int64_t watch, int64_t at, const char *path, unsigned depth,
              tree_visit visit, void *ctx, struct error *e);

#endif
