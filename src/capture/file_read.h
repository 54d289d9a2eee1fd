/* file_read.h - the stable bytes of one file of the source.
 *
 * A file is opened O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC (and O_NOATIME where allowed), taken
 * only when fstat says it is regular, and read between two signatures: when they differ, the
 * reader is told to begin again; a file that only grew is whole at the length first seen when a
 * second pass over it agrees. Never reads a device, FIFO or socket. One thread at a time. */
#ifndef WK_CAPTURE_FILE_READ_H
#define WK_CAPTURE_FILE_READ_H

#include "base/error.h"
#include "capture/signature.h"
#include "store/node.h"

struct file_read {
    int fd;
    struct stat st;
    struct signature before;
    uint64_t len; /* bytes to read: the size at open */
};

/* Open name in the folder dirfd. ERR_NOTFOUND: gone, or no regular file any more; ERR_DENIED;
 * ERR_FAILED (EIO and others). flush: the file was modified without a close - start write-back
 * first, so that the next store into a mapped page moves the stamps. */
int file_read_open(struct file_read *f, int dirfd, const char *name, bool flush, struct error *e);
/* Up to n bytes at off; less only at the end. */
int file_read_at(struct file_read *f, void *p, size_t n, uint64_t off, size_t *got,
                 struct error *e);
/* Whether the file, or one that begins with these n bytes, begins as an SQLite database does. */
bool file_read_is_database(const struct file_read *f);
bool file_begins_as_database(const void *p, size_t n);
/* After the last byte: FILE_STABLE, FILE_GREW (larger, same inode, the part read may still be what
 * it was: read again and compare), FILE_CHANGED (read again). st is refreshed. */
enum file_verdict { FILE_STABLE, FILE_GREW, FILE_CHANGED };
enum file_verdict file_read_check(struct file_read *f);
void file_read_close(struct file_read *f); /* fd -1 is fine */

/* Data runs of a sparse file (SEEK_DATA/SEEK_HOLE) within len; *count 0 when it has no hole.
 * 1: it is all hole, without a run. Caller frees. */
int file_read_extents(struct file_read *f, struct node_extent **extents, uint32_t *count,
                      struct error *e);

/* All xattrs of what fd (or, for a symlink, dirfd/name) is; one allocation, sorted by name. What
 * cannot be read is left out and told by ERR_INCOMPLETE (the rest is there). */
int xattrs_read(int fd, int dirfd, const char *name, struct node_xattr **xattrs, uint32_t *count,
                struct error *e);
void xattrs_free(struct node_xattr *xattrs);

#endif
