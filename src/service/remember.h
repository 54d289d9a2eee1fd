/* remember.h - which repository was at a path, kept outside of it.
 *
 * A repository on a disk that is not mounted must not be made anew in the empty folder below. One
 * small file a path, in $STATE_DIRECTORY, else /var/lib/watchkeep-state (root) or
 * $XDG_STATE_HOME/watchkeep-state; its name is a hash of the path. */
#ifndef WK_SERVICE_REMEMBER_H
#define WK_SERVICE_REMEMBER_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* 0 and the id of the repository that was at this path; ERR_NOTFOUND: none that we know of. */
int remember_get(const char *repo_path, uint8_t id[16], struct error *e);
int remember_put(const char *repo_path, const uint8_t id[16], struct error *e);

/* The folder of these files, where other state may stand too. Malloc'ed; NULL: there is no place.
 */
char *remember_folder(void);

#endif
