/* vfs.h - an SQLite VFS over the file-operation table, used for the catalog only.
 *
 * It wraps the default unix VFS (locks and shared memory are its own) and sends writes, truncates,
 * syncs, deletes and opens through `fileops`, so that injected faults reach SQLite too. */
#ifndef WK_IO_VFS_H
#define WK_IO_VFS_H

#define VFS_NAME "watchkeep"

/* Register once per process (idempotent, thread safe). Returns 0 or -1. */
int vfs_register(void);

#endif
