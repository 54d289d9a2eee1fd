/* compare.h - diff between two snapshots of a watch, and the versions of one path. */
#ifndef WK_SNAPSHOT_COMPARE_H
#define WK_SNAPSHOT_COMPARE_H

#include "base/error.h"
#include "store/repository.h"

enum diff_kind {
    DIFF_ADDED,
    DIFF_REMOVED,
    DIFF_CHANGED,
    DIFF_METADATA,
    DIFF_MOVED,
    DIFF_EXCLUDED, /* not in B because B's rules leave it out */
};

struct diff_entry {
    enum diff_kind kind;
    const char *path;     /* in B; for removed and excluded: in A */
    const char *old_path; /* DIFF_MOVED: where it was, else NULL */
    uint8_t type;         /* enum node_type */
    uint64_t old_size, new_size;
};
typedef int (*diff_visit)(void *ctx, const struct diff_entry *d, struct error *e);

/* Entries that differ, in path order; prefix limits ("" = all). A folder that moved is one entry.
 * ERR_USAGE when a and b are of different watches. */
int diff_run(struct repo *r, const struct snapshot_row *a, const struct snapshot_row *b,
             const char *prefix, diff_visit visit, void *ctx, struct error *e);

struct history_entry {
    uint64_t from;         /* first snapshot that holds this version */
    int64_t to;            /* first that does not, or CATALOG_OPEN */
    uint64_t newest;       /* newest kept snapshot that holds it */
    struct wall_time time; /* of `from` (or of the oldest kept one that holds it) */
    const char *path;
    const uint8_t *meta;
    uint32_t meta_len;
};
typedef int (*history_visit)(void *ctx, const struct history_entry *h, struct error *e);

/* Versions of path, oldest first, across moves of its node. A path that no longer exists is found
 * in the newest snapshot that has it. */
int history_run(struct repo *r, const char *watch, const char *path, history_visit visit, void *ctx,
                struct error *e);

#endif
