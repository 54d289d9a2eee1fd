/* pin.h - snapshots that are never pruned.
 *
 * A pin is a mark in the store. What is saved with a name, or named later, is pinned by that; only
 * unpinning makes it prunable, and its name stays. */
#ifndef WK_KEEP_PIN_H
#define WK_KEEP_PIN_H

#include "base/error.h"
#include "store/repository.h"

/* Pin (or unpin) the snapshot that `text` names, as selector_resolve takes it, `watch` may be NULL.
 * It is looked up in `reader` by the thread that owns that handle, and marked in `writer`, which
 * may be the same. *row, to be released, is the snapshot as it was before: where row->pinned is
 * what was asked for nothing was written. */
int pin_snapshot(struct repo *reader, struct repo *writer, const char *text, const char *watch,
                 bool pin, struct snapshot_row *row, struct error *e);

/* Between these no snapshot of this process becomes pinned: who drops one has looked just before.
 */
void pin_hold(void);
void pin_release(void);

#endif
