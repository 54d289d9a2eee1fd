/* proof.h - that snapshots come back: tests of a restore, and what of them is kept in the packs.
 * Any worker, or a command that has the repository to itself. */
#ifndef WK_SERVICE_PROOF_H
#define WK_SERVICE_PROOF_H

#include "keep/archive.h"
#include "snapshot/restore_test.h"
#include "snapshot/verify.h"

/* Append a mark that says something of a watch (NULL: of all). */
int proof_keep_mark(struct repo *writer, uint8_t type, const char *watch, const char *text,
                    struct error *e);
/* MARK_STATE: the last value of the key holds. */
int proof_keep_state(struct repo *writer, const char *watch, const char *key, const char *value,
                     struct error *e);

/* Restore it, in the folder of the service's state, and compare. 0: it came back as it was saved,
 * and with a writer that is kept; ERR_DAMAGED: it did not (test says what). */
int proof_restore(struct repo *reader, struct repo *writer, const struct snapshot_row *row,
                  const atomic_bool *cancel, struct restore_test *test, struct error *e);

/* The same of an archive: read back from the disk, which its NAME.json is told, unpacked, and what
 * was unpacked held against its metadata, databases opened and counted. */
int proof_archive(const struct archive_item *item, struct repo *writer, const atomic_bool *cancel,
                  struct restore_test *test, struct error *e);

/* The same of several snapshots, told as a verification: with count 0 the latest one of every
 * watch, or of this one. `bytes` are those that were restored, `seconds` how long that took. */
struct proof_request {
    struct repo *reader, *writer; /* writer NULL: nothing is kept */
    const char *watch;            /* or NULL */
    const uint64_t *snapshots;
    size_t count;
    const atomic_bool *cancel;
};
int proof_restore_all(const struct proof_request *q, struct verify_result *result, struct error *e);

#endif
