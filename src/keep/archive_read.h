/* archive_read.h - an archive of either form, entry by entry, in the order of a walk.
 *
 * Made for hostile input: nothing is believed that is not bounded (tar_read.h); of a folder no link
 * is followed. One thread. */
#ifndef WK_KEEP_ARCHIVE_READ_H
#define WK_KEEP_ARCHIVE_READ_H

#include "base/error.h"
#include "keep/archive.h"
#include "store/node.h"

struct archive_entry {
    const char *path;        /* in the tree, "" = its root */
    const char *link;        /* a further name of that path's file, or NULL */
    const struct node *node; /* without refs */
    uint64_t content;        /* bytes: the data runs end to end; 0 for a further name */
    bool metadata;           /* metadata.json of the archive: no part of the tree */
};

struct archive_reader;
/* path: the file or folder. past_cache: from the disk. ERR_NOTFOUND; ERR_USAGE: neither a tar.gz
 * nor a folder. */
int archive_reader_open(const char *path, bool past_cache, struct archive_reader **out,
                        struct error *e);
/* A tree that was restored from one, from the disk: nothing in it is metadata of ours. */
int archive_reader_open_tree(const char *path, struct archive_reader **out, struct error *e);
void archive_reader_close(struct archive_reader *r);
/* 1: *out, valid until the next call; 0: the end. ERR_DAMAGED, ERR_REFUSED, ERR_FAILED. */
int archive_reader_next(struct archive_reader *r, const struct archive_entry **out,
                        struct error *e);
/* More of the content, borrowed until the next call; *len 0 at its end. */
int archive_reader_data(struct archive_reader *r, const uint8_t **p, size_t *len, struct error *e);

/* Whether a text where a snapshot is asked for can only be an archive: a path (with a '/' before
 * any
 * ':'), or a name as `list --archives` gives it ("backup_..."). */
bool archive_is_meant(const char *text);
/* Such a text, "ARCHIVE" or "ARCHIVE:PATH", as an item, to be released; *path is malloc'ed, or NULL
 * where there is no ':'. A name is looked for in the folder, of that watch (NULL: of any).
 * ERR_NOTFOUND; ERR_USAGE: several watches have it. */
int archive_resolve(const char *text, const char *folder, const char *watch,
                    struct archive_item *item, char **path, struct error *e);

#endif
