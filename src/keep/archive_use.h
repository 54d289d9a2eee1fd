/* archive_use.h - what is done with an archive as with a snapshot: restore, cat, ls.
 *
 * Needs no repository. path counts from the root of the tree, as in a snapshot; "" is all of it. */
#ifndef WK_KEEP_ARCHIVE_USE_H
#define WK_KEEP_ARCHIVE_USE_H

#include "keep/archive_read.h"
#include "snapshot/restore.h"

/* As restore_run, whose results it gives; repo and snapshot of the request are not looked at. */
int archive_restore(const struct archive_item *item, const struct restore_request *req,
                    struct restore_result *result, struct error *e);

/* The content of one file to fd, holes as zeros. ERR_NOTFOUND; ERR_USAGE: no regular file. */
int archive_cat(const struct archive_item *item, const char *path, int fd, struct error *e);

/* The entry at path and all below it, in the order of their paths; all are held in memory until
 * then, without content. A node of a sparse file is without its runs, that of a further name is
 * that of its first. ERR_NOTFOUND. */
typedef int (*archive_entry_visit)(void *ctx, const struct archive_entry *entry, struct error *e);
int archive_each(const struct archive_item *item, const char *path, archive_entry_visit visit,
                 void *ctx, struct error *e);

#endif
