/* helper_source.h - what stands on the disk for a database: header, side files, locks, stamps.
 *
 * Used in the capture helper only, and only while it holds no SQLite connection: looking opens and
 * closes the database, which drops every POSIX lock this process has on it. */
#ifndef WK_CAPTURE_HELPER_SOURCE_H
#define WK_CAPTURE_HELPER_SOURCE_H

#include "base/error.h"
#include "capture/signature.h"

#include <stdbool.h>
#include <stdint.h>

struct side_file {
    bool there;
    struct signature sig; /* zero when not there */
};

struct source_look {
    struct signature db;
    struct side_file wal, shm, journal;
    struct wall_time at; /* when it was looked at, before anything was read */
    bool wal_mode;       /* by the header */
    bool hot;            /* the journal begins with something: hot unless a writer is at work */
    bool writer;         /* somebody holds a writing lock on the database file */
    bool held;           /* somebody holds any lock on it */
    bool remote;         /* a network file system: shared memory cannot be relied on */
    uint32_t page_size;
    uint64_t image_len; /* bytes of the file that are the database, by header and size */
};

/* path has no symbolic link in it. ERR_NOTFOUND; ERR_USAGE: not an SQLite database, or not a
 * regular file; ERR_DAMAGED: shorter than its header says and no side file could tell why;
 * ERR_DENIED; ... */
int source_look(const char *path, struct source_look *l, struct error *e);

/* Whether the database and the files that its content depends on are the same in both, by stamps.
 */
bool source_same(const struct source_look *a, const struct source_look *b);
/* Whether a write right after the look could have left the same stamps. */
bool source_racy(const struct source_look *l);

#endif
