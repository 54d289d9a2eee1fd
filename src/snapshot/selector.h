/* selector.h - what people write for a snapshot: 42, name, latest, latest~2, good, @TIME, :PATH. */
#ifndef WK_SNAPSHOT_SELECTOR_H
#define WK_SNAPSHOT_SELECTOR_H

#include "base/error.h"
#include "store/repository.h"

/* Resolve text ("SNAPSHOT" or "SNAPSHOT:PATH"). watch may be NULL; then latest, good and @TIME are
 * ERR_USAGE when the repository has several watches. *path is what stands behind the ':' (the
 * caller frees it) or NULL when there is no ':'; "./" and slashes at either end are taken off, ".."
 * is ERR_USAGE. path may be NULL where a ':' is not wanted (ERR_USAGE). *row is to be released.
 * latest and good never give a suspect or safety snapshot. ERR_NOTFOUND with what there is instead.
 * The thread that owns the handle. */
int selector_resolve(struct repo *r, const char *text, const char *watch, struct snapshot_row *row,
                     char **path, struct error *e);

/* Path as people write it -> path inside a snapshot: as above. *out is to be freed. */
int selector_path(const char *text, char **out, struct error *e);

/* Whether a snapshot counts: verified whole, sound, not suspect, and nothing in it is spoilt.
 * Unknown: not verified yet, and nothing speaks against it. */
enum snapshot_good { SNAPSHOT_NOT_GOOD, SNAPSHOT_GOOD, SNAPSHOT_GOOD_UNKNOWN };
enum snapshot_good snapshot_good(const struct snapshot_row *s);

#endif
