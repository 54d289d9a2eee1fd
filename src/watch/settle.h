/* settle.h - paths that have changed, until they are quiet enough to be saved. No loop, no clock:
 * moments are given (clock_mono_ns).
 *
 * A path is ripe when nothing happened to it for the quiet time, or when its first unsaved change
 * is older than the latest moment. The two halves of a rename, and all that is chained to them by
 * further renames, are ripe together. The set is bounded: beyond a number of paths they become
 * their parent folders, as trees, and at last the root. One thread at a time. */
#ifndef WK_WATCH_SETTLE_H
#define WK_WATCH_SETTLE_H

#include "watch/watch_tree.h"

#define SETTLE_PATHS_MAX 50000

struct settle;

struct settle_path {
    char *path;
    unsigned how;      /* enum watch_how */
    uint64_t first_ns; /* its first unsaved change */
    bool with_next;    /* must be saved together with the one that follows */
};
struct settle_set {
    struct settle_path *paths;
    size_t count;
    uint64_t first_ns; /* the smallest of them, 0 when empty */
};

struct settle *settle_new(uint64_t quiet_ns, uint64_t latest_ns); /* NULL on no memory */
void settle_free(struct settle *s);
void settle_tune(struct settle *s, uint64_t quiet_ns, uint64_t latest_ns);
void settle_limit(struct settle *s, size_t paths_max); /* default SETTLE_PATHS_MAX */

/* Something happened to path: enum watch_how. Without memory it becomes the whole tree. */
void settle_touch(struct settle *s, const char *path, unsigned how, uint64_t now_ns);
/* A rename. */
void settle_touch_pair(struct settle *s, const char *from, const char *to, unsigned how,
                       uint64_t now_ns);

size_t settle_count(const struct settle *s);
uint64_t settle_oldest(const struct settle *s); /* first unsaved change, 0 when none */

/* When the next path is ripe; UINT64_MAX: never. */
uint64_t settle_deadline(const struct settle *s);

/* Take all ripe paths (all: every one). False: none. Release the set, or give it back. */
bool settle_take(struct settle *s, uint64_t now_ns, bool all, struct settle_set *out);
/* They were not saved: as if they had never been taken. The set is empty afterwards. */
void settle_return(struct settle *s, struct settle_set *set, uint64_t now_ns);
void settle_set_release(struct settle_set *set);

#endif
