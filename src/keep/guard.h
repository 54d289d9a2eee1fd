/* guard.h - look, before a prune, whether what froze a watch is gone, and whether its root is
 * there.
 *
 * Freezes are marks (snapshot/freeze.h). Losses and damage are marked by the save and the
 * verification that find them; a missing root by the prune that does. */
#ifndef WK_KEEP_GUARD_H
#define WK_KEEP_GUARD_H

#include "base/error.h"
#include "store/repository.h"

/* Set and lift freezes of the watch as things are now; *w follows. thaw: lift all, and set none.
 * dry: *w says what would be, and nothing is written. `c` is a catalog of `r` as it stands.
 * - missing: no folder at the root, or nothing in it although the newest snapshot that is not
 *   suspect has files (an empty mount point). A root that cannot be looked at says nothing.
 * - emptied: gone when more than half of the files that were there are there again, and every
 *   database.
 * - scrambled: gone when more than half of the files that were text, JSON or SQLite are so again.
 * - damaged: gone when no snapshot of the watch is marked so. */
int guard_look(struct repo *r, struct catalog *c, bool thaw, bool dry, struct watch_row *w,
               struct error *e);

/* What is wrong with the root: 1 and a text of at most cap bytes, or 0. */
int guard_root(struct catalog *c, const struct watch_row *w, char *text, size_t cap,
               struct error *e);

#endif
