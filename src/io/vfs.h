/* vfs.h - an SQLite VFS over the file-operation table, used for the catalog only.
 *
 * It wraps the default unix VFS (locks and shared memory are its own) and sends reads, writes,
 * truncates, syncs, deletes and opens through `fileops`, so that injected faults reach SQLite too.
 *
 * Every page of a database file ends in a checksum over its content and its number, in bytes that
 * SQLite leaves alone: whoever makes the database sets VFS_PAGE as its page size and reserves
 * VFS_RESERVED bytes (SQLITE_FCNTL_RESERVE_BYTES). A page that does not match, or of another size,
 * is SQLITE_IOERR_DATA. (Frames of a WAL have SQLite's own checksums.) After a flush that failed
 * every later one of that file fails: the next might succeed with the data lost. */
#ifndef WK_IO_VFS_H
#define WK_IO_VFS_H

#include <stddef.h>
#include <stdint.h>

#define VFS_NAME "watchkeep"

#define VFS_PAGE 4096
enum { VFS_RESERVED = 8 };

/* The checksum of n bytes under a seed; any thread. */
typedef uint64_t (*vfs_sum)(const void *p, size_t n, uint64_t seed);

/* Register once per process (idempotent, thread safe; the first sum counts). Returns 0 or -1. */
int vfs_register(vfs_sum sum);

#endif
