/* places.h - where things are unless told otherwise: for root in /etc, /var/lib and /run, for a
 * user in the folders of the XDG base directory specification. Results are malloc'ed. */
#ifndef WK_CONFIG_PLACES_H
#define WK_CONFIG_PLACES_H

#include <stdbool.h>

/* NULL when there is no home, or no memory. */
char *place_repository(void);

/* Does path lie in folder, or is it that? Absolute paths; links are followed as far as they exist.
 */
bool place_inside(const char *path, const char *folder);

/* The part of path below folder, which it lies in, "" for the folder itself; malloc'ed. */
char *place_below(const char *path, const char *folder);

#endif
