/* tar_read.h - a tar stream, entry by entry, whoever wrote it.
 *
 * ustar, pax (long names, numbers, nanoseconds, SCHILY.xattr, GNU.sparse 1.0) and GNU's long names.
 * The input is anybody's: every length is bounded before it is used, checksums of headers are
 * compared, and a path that is absolute, goes up, or cannot be a path in a snapshot is refused
 * (ERR_REFUSED); what else is wrong is ERR_DAMAGED. One thread. */
#ifndef WK_KEEP_TAR_READ_H
#define WK_KEEP_TAR_READ_H

#include "base/error.h"
#include "store/node.h"

/* The next bytes of the stream, borrowed until the next call; *len 0 at its end. */
typedef int (*tar_source)(void *ctx, const uint8_t **p, size_t *len, struct error *e);

struct tar_entry {
    const char *path; /* "a/b": no slash at its end, no empty part, no "." */
    const char *link; /* a further name of that path's file, or NULL */
    struct node node; /* refs are none: the content is read below. xattrs sorted by name */
    uint64_t content; /* bytes of it: the data runs end to end */
    bool metadata;    /* marked as no part of the tree (TAR_METADATA_COMMENT) */
};

struct tar_reader;
int tar_reader_open(tar_source source, void *ctx, struct tar_reader **out, struct error *e);
void tar_reader_close(struct tar_reader *r);
/* 1: *out is the next entry, valid until the next call; 0: the end, and nothing but zeros behind
 * it. What was not read of the content is passed over. */
int tar_reader_next(struct tar_reader *r, const struct tar_entry **out, struct error *e);
/* More of the entry's content, borrowed until the next call; *len 0 at its end. */
int tar_reader_data(struct tar_reader *r, const uint8_t **p, size_t *len, struct error *e);

#endif
