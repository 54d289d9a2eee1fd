/* restore_live.h - put a snapshot's state over the live data of its watch.
 *
 * What stands there was saved just before (`base`), so that the difference of two snapshots is the
 * plan: what is the same is not touched. Everything that differs is written into a scratch folder
 * inside the root first (the way of restore.h) and flushed; then `begin` may keep a record; only
 * then is anything changed: what has to go is removed, each new file is renamed over the old one,
 * folders get their metadata, and all is flushed. All in one batch and not in several: a failure
 * while writing leaves the data as it was, and who watches the folder sees one change. Killed
 * before its end it is finished by running it again, or taken back by putting `base` back: both
 * begin by saving what stands there. The side files of a database that is replaced or removed are
 * moved away with it. No link is followed, nothing outside the root is opened.
 *
 * Never touched: what the rules of today leave out, and what changed since base (unless forced). */
#ifndef WK_SNAPSHOT_RESTORE_LIVE_H
#define WK_SNAPSHOT_RESTORE_LIVE_H

#include "snapshot/restore.h"
#include "snapshot/rules.h"

enum live_remove {             /* what becomes of what the snapshot does not have */
                   LIVE_KEEP,  /* it stays, unless it is a folder where the snapshot has a file */
                   LIVE_RULES, /* it goes, when the rules of the snapshot capture it too */
                   LIVE_ADDED, /* it goes, when `added` has it */
};

enum live_change { LIVE_ADD, LIVE_REPLACE, LIVE_METADATA, LIVE_DELETE };

struct live_request {
    struct repo *repo;
    const struct snapshot_row *snapshot; /* what is put back */
    /* The content of the folder `from` of the snapshot goes into the folder `into` below the root,
     * made where it is missing; one that is there keeps its own metadata. Both "" or NULL: each
     * entry goes where it stood. All paths below count from there. ERR_REFUSED: the rules of today
     * leave `into` out. */
    const char *from, *into;
    const char *path; /* in it, "" = everything. What it does not have is removed where `remove`
                         says so, else ERR_NOTFOUND */
    const char *const *only;         /* these paths alone, NULL-terminated; or NULL */
    const struct snapshot_row *base; /* the state that stands there. NULL: live_preview */
    /* The state before another run that was cut off, or NULL: folders that only lie on the way are
     * given the looks that they had then. */
    const struct snapshot_row *before;
    const char *root;    /* absolute */
    struct rules *rules; /* of today */
    bool sqlite;         /* databases have side files that are no files of their own */
    enum live_remove remove;
    const struct snapshot_row *added[2]; /* of LIVE_ADDED, NULL: none; both NULL: all of it */
    const char *added_from, *added_into; /* how the first of them was put there; or NULL */
    bool force;                          /* also what changed since base */
    /* Called once, before the first change to what stands there; not where nothing is to do. */
    int (*begin)(void *ctx, struct error *e);
    /* Each change that is planned, in path order, or NULL. size: of the new content. */
    int (*change)(void *ctx, enum live_change what, const char *path, uint8_t type, uint64_t size,
                  struct error *e);
    void *ctx;
    unsigned workers;
    struct restore_progress *progress;
    const atomic_bool *cancel;
};

struct live_result {
    struct restore_result written;               /* as of restore_run */
    uint64_t added, replaced, metadata, removed; /* planned; removed: done, once begun */
    uint64_t unchanged, left_out;
    bool begun; /* something that stood there may have been changed */
};

/* What would change, by looking at what stands there; nothing is written. */
int live_preview(const struct live_request *req, struct live_result *result, struct error *e);

/* As restore_run. ERR_NOTFOUND: no such path, or the root is gone. After an error with !begun
 * nothing has changed; else run it again, or put base back. */
int live_restore(const struct live_request *req, struct live_result *result, struct error *e);
void live_result_release(struct live_result *r);

#endif
