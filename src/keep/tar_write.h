/* tar_write.h - headers of a pax archive (POSIX.1-2001), as stock tar and Python read them.
 *
 * Pure functions that append to a buffer. What a plain ustar header cannot say stands in an
 * extended header before it: paths too long even for both fields of a path, nanoseconds, large
 * numbers, extended attributes (SCHILY.xattr.*, ACLs and capabilities with them) and the map of a
 * sparse file (GNU.sparse 1.0). Names are bytes; owners are numbers. */
#ifndef WK_KEEP_TAR_WRITE_H
#define WK_KEEP_TAR_WRITE_H

#include "base/buffer.h"
#include "store/node.h"

#define TAR_BLOCK 512u
#define TAR_METADATA_COMMENT "watchkeep metadata" /* marks the member that is not of the tree */

struct tar_member {
    const char *path; /* no slash at its end */
    const struct node *node;
    const char *link;    /* a further name of that path's file, or NULL */
    const char *comment; /* or NULL */
};

/* Whether tar has a form for it: everything but sockets. */
bool tar_can_hold(const struct node *n);

/* Append all that stands before the content. The content follows as the data runs end to end (none
 * for a link), then tar_put_padding. */
void tar_put_header(const struct tar_member *m, struct buffer *out);
/* Zeros up to the next block after `len` bytes of content. */
void tar_put_padding(uint64_t len, struct buffer *out);
/* What ends an archive. */
void tar_put_end(struct buffer *out);

/* Bytes of content: of the data runs. */
uint64_t tar_content_len(const struct node *n);

#endif
