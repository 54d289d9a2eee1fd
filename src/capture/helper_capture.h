/* helper_capture.h - the work of the capture helper: one committed state of a database as one file.
 *
 * Roads, chosen by what stands on the disk (helper_source.h):
 *   plain    nobody writes and the file alone is the database: its bytes, read between two looks
 *            that are equal and not racy. Takes no lock, runs no SQLite.
 *   pinned   somebody has it open: a READONLY connection, one read transaction, sqlite3_backup in
 *            one step. A WAL writer is not blocked; a rollback-mode writer waits at its commit.
 *   recover  a hot journal, or a -wal that nobody has open: database and side file are copied
 *            between two equal looks and stock SQLite recovers the copy.
 * The source is only ever opened O_RDONLY, and no side file of it is made (see guard_open). */
#ifndef WK_CAPTURE_HELPER_CAPTURE_H
#define WK_CAPTURE_HELPER_CAPTURE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define RECEIPT_MAX 256
#define DETAIL_MAX 512

/* Once, before anything else: settings of the SQLite library. */
int helper_setup(struct error *e);

/* scratch is an empty file of ours; its side files are removed here. One thread. */
int helper_capture(const char *path, const char *scratch, unsigned deadline_ms,
                   char receipt[RECEIPT_MAX], struct error *e);

/* integrity_check, tables and rows of a database of ours. No side file is made when there is none.
 */
int helper_check(const char *path, bool *ok, char detail[DETAIL_MAX], struct error *e);

/* Fill *e from a result code of SQLite and return the code. db may be NULL. */
struct sqlite3;
int sqlite_failed(struct sqlite3 *db, int rc, const char *what, struct error *e);

#endif
