/* lock.h - locks on byte ranges of one file that die with their holder (open file description
 * locks, fcntl(2) F_OFD_SETLK).
 *
 * The repository's `lock` file: byte 0 is the writer; byte 1 keeps the file catalog.db still:
 * shared by readers that read it without SQLite's locks, exclusive for the writer while it changes
 * the file itself; byte 2 keeps packs where they are; byte LOCK_LEASE_BASE + n is a reader's shared
 * lease on snapshot n. The file's content is the control socket's path of the running service. */
#ifndef WK_IO_LOCK_H
#define WK_IO_LOCK_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define LOCK_WRITER 0
#define LOCK_CATALOG 1
/* Shared by readers for as long as they are open, taken by the writer while it removes packs. */
#define LOCK_PACKS 2
#define LOCK_LEASE_BASE (UINT64_C(1) << 32)

/* Take a lock on one byte, waiting up to wait_ms; ERR_BUSY when somebody else has it. An exclusive
 * lock needs fd open for writing, a shared one for reading. */
int lock_take(int fd, uint64_t byte, bool exclusive, unsigned wait_ms, struct error *e);
void lock_drop(int fd, uint64_t byte);
/* Whether another description holds a lock in the len bytes (0: to the end) that conflicts with
 * taking one of that kind; true when that cannot be told. */
bool lock_held(int fd, uint64_t byte, uint64_t len, bool exclusive);

#endif
