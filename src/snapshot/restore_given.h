/* restore_given.h - bring back a tree that somebody else reads, an archive, the way of restore.h:
 * beneath a scratch folder, flushed, put in place; no link followed, nothing opened outside of it,
 * whatever paths are given. */
#ifndef WK_SNAPSHOT_RESTORE_GIVEN_H
#define WK_SNAPSHOT_RESTORE_GIVEN_H

#include "snapshot/restore.h"
#include "store/node.h"

struct given_entry {
    const char *path;        /* plain parts between slashes; "" the root */
    const char *link;        /* a further name of the file at that path, or NULL */
    const struct node *node; /* refs are not looked at */
};
struct restore_source {
    void *ctx;
    bool single; /* the one entry is no folder: it goes into the target under its path */
    /* 1: the next entry; 0: the end; negative: everything ends. Folders need not come before what
     * is in them. */
    int (*next)(void *ctx, struct given_entry *out, struct error *e);
    /* More of its content, the data runs end to end; *len 0 at its end. */
    int (*data)(void *ctx, const uint8_t **p, size_t *len, struct error *e);
};

/* Of the request: target, overwrite, progress, cancel; path only in messages. Results as of
 * restore_run; an error of the source puts nothing in place. */
int restore_given_run(const struct restore_request *req, const struct restore_source *source,
                      struct restore_result *result, struct error *e);

#endif
