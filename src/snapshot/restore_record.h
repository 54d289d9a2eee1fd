/* restore_record.h - what the repository remembers of restores in place, so that they can be taken
 * back: marks of the log (FORMAT.md, safety and undo).
 *
 * The record is written before the first change to the live data and again when all is done: one
 * that was never ended tells of a restore that was cut off. The next restore of that watch takes
 * its way back over, so that `undo` leads to the state before the first change, not to half of one.
 * What a record leads back to is pinned until the second next restore in place. */
#ifndef WK_SNAPSHOT_RESTORE_RECORD_H
#define WK_SNAPSHOT_RESTORE_RECORD_H

#include "base/error.h"
#include "store/repository.h"

#include <stdbool.h>

struct restore_record {
    uint64_t restored; /* the snapshot that was put back */
    uint64_t back;     /* the state before: what undo puts back */
    uint64_t base;     /* the safety snapshot of this run; back, unless it went on with another */
    uint64_t added[2]; /* of an undo: what these have was added by what it takes back; 0: none */
    /* How `restored`, or of an undo the first of `added`, was put into another folder than it stood
     * in: from that of the snapshot into that below the root. NULL: it was not. */
    char *from, *into;
    char *path;  /* what was restored, "" = everything: as it stands below the root */
    char **only; /* these paths alone (string_list.h), or NULL */
    bool undo;   /* it was itself an undo */
    bool done;
    struct wall_time time; /* when it was written */
};
void restore_record_release(struct restore_record *r);

/* As it stands in the mark, and as the service is asked to write it. */
int restore_record_text(const struct restore_record *r, char **text, struct error *e);
int restore_record_parse(const char *text, struct restore_record *r, struct error *e);

/* The last one of the watch. ERR_NOTFOUND: there is none. */
int restore_record_last(struct catalog *c, const uint8_t *watch_id, struct restore_record *out,
                        struct error *e);

/* Write one, and pin and unpin what follows from it; c reads the same repository. Writer only. */
int restore_record_put(struct repo *r, struct catalog *c, const uint8_t *watch_id,
                       const struct restore_record *rec, struct error *e);

#endif
