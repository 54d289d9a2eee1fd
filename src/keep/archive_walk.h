/* archive_walk.h - the entries of a folder on the disk, as archive_read.h gives them. */
#ifndef WK_KEEP_ARCHIVE_WALK_H
#define WK_KEEP_ARCHIVE_WALK_H

#include "keep/archive_read.h"

struct archive_walk;
/* top: open, taken over. metadata: the name of that file in it, "" for none. */
int archive_walk_open(int top, const char *metadata, bool past_cache, struct archive_walk **out,
                      struct error *e);
void archive_walk_close(struct archive_walk *w);
int archive_walk_next(struct archive_walk *w, const struct archive_entry **out, struct error *e);
int archive_walk_data(struct archive_walk *w, const uint8_t **p, size_t *len, struct error *e);

#endif
