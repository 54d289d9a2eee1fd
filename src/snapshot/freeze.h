/* freeze.h - while something is wrong with a watch, nothing of it is pruned.
 *
 * A freeze is a mark in the log for one cause (enum freeze_cause); its text says why. Each cause is
 * lifted alone, when it is gone, or all of them by a person (prune --thaw). */
#ifndef WK_SNAPSHOT_FREEZE_H
#define WK_SNAPSHOT_FREEZE_H

#include "base/error.h"
#include "store/repository.h"

/* Freeze the watch for that cause; `before` is the last snapshot of which all was right, or 0.
 * Writer only. */
int freeze_set(struct repo *r, const uint8_t *watch_id, enum freeze_cause cause, uint64_t before,
               struct error *e, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* Lift one cause, or all (0). Writer only. */
int freeze_lift(struct repo *r, const uint8_t *watch_id, unsigned cause, struct error *e);

/* Whether some snapshot of the watch is known to be damaged: 1, 0 or an error. */
int freeze_damage_left(struct catalog *c, const struct watch_row *w, struct error *e);
/* Lift FREEZE_DAMAGED of each watch in which none is any more. Writer only. */
int freeze_lift_mended(struct repo *r, struct error *e);

struct freeze_reason {
    struct wall_time since; /* of the oldest cause in force; 0: the log does not tell */
    char text[512];         /* the reasons, without their first words, separated by "; " */
    uint64_t before;        /* of the newest freeze among the causes asked for, or 0 */
};
/* Why the watch is frozen, as far as `causes` go (~0u: all that are in force). */
int freeze_why(struct catalog *c, const struct watch_row *w, unsigned causes,
               struct freeze_reason *why, struct error *e);

/* Whether the cause is gone: 1 when, of what there was before, more than half of the files (and
 * every database) have their names again (FREEZE_EMPTIED), or more than half of the text, JSON and
 * SQLite files are such again (FREEZE_SCRAMBLED). Reads the tree as it was. */
int freeze_files_back(struct catalog *c, const struct watch_row *w, enum freeze_cause cause,
                      struct error *e);

#endif
