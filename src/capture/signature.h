/* signature.h - what tells, without reading, that a file may have changed.
 *
 * Device and inode are compared only to say "same"; a difference costs a read, never more. A
 * signature whose ctime is not older than the reading by more than the clock's grain is racy: it
 * must not be trusted later (git's rule, by ctime). */
#ifndef WK_CAPTURE_SIGNATURE_H
#define WK_CAPTURE_SIGNATURE_H

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct signature {
    uint64_t dev, ino, size;
    int64_t mtime_s, ctime_s;
    uint32_t mtime_ns, ctime_ns;
    uint32_t mode, uid, gid, nlink;
    uint64_t wal; /* hash of the -wal file's signature for a live database, else 0 */
    bool racy;
};

void signature_of(const struct stat *st, struct signature *s);
/* Same object with the same content and metadata, as far as stamps can tell (racy is ignored). */
bool signature_same(const struct signature *a, const struct signature *b);
/* Whether a change right after read_at could have left the same stamps: grain 10 ms, or 2 s where
 * both stamps have no sub-second part. */
bool signature_is_racy(const struct signature *s, struct wall_time read_at);

/* One is kept of every file, so that it says only what is not as in `like`: most of a signature
 * stands in the file's other rows too. It is to be decoded with the same one. Returns its length:
 * 3 bytes for a plain file as it was saved. */
#define SIGNATURE_MAX 112
size_t signature_encode(const struct signature *s, const struct signature *like,
                        uint8_t out[SIGNATURE_MAX]);
/* How long the one is that p begins with, whatever `like` is; 0: none that is known. */
size_t signature_decode(const uint8_t *p, size_t n, const struct signature *like,
                        struct signature *s);

#endif
