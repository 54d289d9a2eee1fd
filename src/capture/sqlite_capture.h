/* sqlite_capture.h - one committed state of a live SQLite database, through the helper program.
 *
 * The helper (watchkeep-capture) is long-lived, spawned on first use, talked to over a socket pair
 * (helper_protocol.h), and holds no file open between captures. Every open of a database by SQLite
 * happens there, so neither POSIX lock semantics nor a corrupt database can hurt this process. A
 * helper that dies or hangs is killed and spawned anew; the capture fails with a reason.
 * One struct sqlite_helper serves one capture at a time; it locks itself. Any thread. */
#ifndef WK_CAPTURE_SQLITE_CAPTURE_H
#define WK_CAPTURE_SQLITE_CAPTURE_H

#include "base/error.h"
#include "capture/signature.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sqlite_helper;

/* program: path of watchkeep-capture, or NULL to look (env WATCHKEEP_HELPER, beside this
 * executable, ../libexec/watchkeep, WK_LIBEXECDIR). Nothing is spawned yet. */
struct sqlite_helper *sqlite_helper_new(const char *program);
void sqlite_helper_free(struct sqlite_helper *h); /* ends the process */
/* The helper's process id, 0 while none runs. Any thread. */
pid_t sqlite_helper_pid(struct sqlite_helper *h);
/* How long beyond the deadline and the time to copy the files a helper may be silent before it is
 * killed; 10,000 unless set. Before the first capture. */
void sqlite_helper_grace(struct sqlite_helper *h, unsigned ms);

struct sqlite_image {
    int fd; /* an unlinked scratch file that holds the database, offset 0 */
    uint64_t len;
    uint32_t page_size;
    char receipt[256]; /* JSON {"mode":"wal|rollback|recovered|immutable","pages":N,"ms":N,
                          "recovered":bool,"pinned_ms":N}; pinned_ms: held in one read transaction,
                          which a rollback-mode writer waits for at its commit */
};

/* Capture the database `path` (absolute, or beneath dirfd when that is >= 0: /proc/self/fd paths
 * are not used; the caller gives an absolute path where it can) into a scratch file in scratch_dir
 * (a folder of ours on a disk with room). deadline_ms bounds waiting for its writers.
 * ERR_USAGE: not an SQLite database after all (encrypted, damaged header): store it as a plain
 * file. ERR_BUSY: locked for longer than the deadline. ERR_DENIED, ERR_NOSPACE, ERR_DAMAGED (SQLite
 * says malformed), ERR_FAILED. */
int sqlite_capture(struct sqlite_helper *h, const char *path, const char *scratch_dir,
                   unsigned deadline_ms, struct sqlite_image *out, struct error *e);
void sqlite_image_release(struct sqlite_image *i);

/* PRAGMA integrity_check, tables and rows of a database file of ours (a restored copy), in the
 * helper. *ok: no fault was found; detail is JSON {"integrity":"ok","tables":N,"rows":N}. One whose
 * schema needs collations or functions of its app has "not checked: WHY" there, and only such rows
 * counted as can be. */
int sqlite_check(struct sqlite_helper *h, const char *path, bool *ok, char detail[512],
                 struct error *e);

/* Is `name` a side file ("-wal", "-shm", "-journal") of the database `base_len` bytes of it name?
 * Pure: looks at the name only; the caller checks that the base is a database. */
bool sqlite_side_name(const char *name, size_t *base_len);

#endif
