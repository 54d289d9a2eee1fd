/* save.h - make a snapshot of a watch: find what changed, store it, commit.
 *
 * The walk compares each folder with the open rows of the catalog (one range per folder, in name
 * order); files whose signature changed go in batches to worker threads, which read, cut, hash,
 * compress and put; databases go through the helper. Unchanged content makes no snapshot. Memory
 * is bounded by workers x batch size. */
#ifndef WK_SNAPSHOT_SAVE_H
#define WK_SNAPSHOT_SAVE_H

#include "base/error.h"
#include "capture/sqlite_capture.h"
#include "snapshot/rules.h"
#include "snapshot/watch_spec.h"
#include "store/repository.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What to look at. A path names an entry relative to the root, "" the root itself. */
enum dirty_how {
    DIRTY_ENTRY = 1 << 0, /* the entry itself: content, metadata, or that it is gone */
    DIRTY_TREE = 1 << 1,  /* it and everything below it, by signature */
    DIRTY_FLUSH = 1 << 2, /* modified without a close: flush before reading */
};
struct dirty_path {
    const char *path;
    unsigned how;
};
struct dirty_set {
    const struct dirty_path *paths; /* any order, no duplicates needed */
    size_t count;
};

struct save_progress { /* written by the save, read by anybody */
    atomic_uint_least64_t files_seen, files_read, bytes_read, bytes_stored;
    atomic_uint_least64_t files_expected, bytes_expected; /* of the last snapshot; 0 = unknown */
};

struct save_request {
    struct repo *repo;
    const struct watch_spec *watch;
    struct rules *rules;
    struct sqlite_helper *helper;
    const struct dirty_set *dirty; /* NULL: the whole tree, by signature */
    bool rehash;                   /* trust no signature: read everything */
    int kind;                      /* enum snapshot_kind */
    const char *name, *note, *gap; /* or NULL. A name always makes a snapshot, with all times */
    /* What is left of an almost empty root is right: not suspect. So are files that are empty or
     * broken: not spoilt. */
    bool accept;
    unsigned workers;               /* 0 = number of processors, at most 4 */
    struct save_progress *progress; /* or NULL */
    const atomic_bool *cancel;      /* or NULL: stop soon, ERR_CANCELLED, nothing saved */
};

struct incomplete_path {
    char *path; /* bytes */
    char *reason;
};

struct save_result {
    uint64_t snapshot; /* the one made, 0 when nothing had changed */
    uint64_t current;  /* the one that holds the state now (0: the watch has none) */
    uint64_t files_new, files_changed, files_removed, files_unchanged;
    uint64_t files_excluded; /* not removed: changed rules leave them out */
    uint64_t bytes_read, bytes_stored;
    uint64_t files, bytes; /* totals of the watch */
    double seconds;
    bool suspect;                       /* the state now: the root is almost empty */
    uint64_t trusted_files;             /* then: files in the last snapshot that was not suspect */
    struct incomplete_path *incomplete; /* of the state now, at most 1000 */
    size_t incomplete_count;            /* in the list */
    uint64_t incomplete_total;
    struct incomplete_path *spoilt; /* files for which that state is not good, at most 1000 */
    size_t spoilt_count;            /* in the list */
    uint64_t spoilt_total;
    char **retry; /* paths to look at again soon (kept changing, racy): relative, or NULL */
    size_t retry_count;
};

/* 0, or: ERR_NOTFOUND the root is not there (nothing is saved: a vanished source is no change);
 * ERR_DENIED root unreadable; ERR_REFUSED name taken, or another root on record; ERR_NOSPACE;
 * ERR_CANCELLED; ... After an error nothing of it is listed. Incomplete entries are no error here:
 * see result. Release the result in every case. */
int save_run(const struct save_request *req, struct save_result *result, struct error *e);
void save_result_release(struct save_result *r);

#endif
