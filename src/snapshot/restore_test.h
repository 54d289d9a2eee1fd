/* restore_test.h - bring a snapshot back for a test: into a folder that is removed again.
 *
 * What was written is read from the disk and held against the hashes of the snapshot, file by file;
 * the time is that of the restore alone, as an owner would wait for it. */
#ifndef WK_SNAPSHOT_RESTORE_TEST_H
#define WK_SNAPSHOT_RESTORE_TEST_H

#include "snapshot/restore.h"

struct restore_test {
    uint64_t files, bytes; /* restored and compared */
    double seconds;        /* of the restore */
    uint64_t errors;       /* files that did not come back as they were saved */
    char *path, *reason;   /* of the first of them, or NULL */
};

/* folder: where the test may write (made when missing, with what a killed test left there removed);
 * it has to have room for the snapshot and a twentieth more, else ERR_NOSPACE. 0 also with errors.
 * Files that could not be read when they were saved are none. Any thread. */
int restore_test_run(struct repo *r, const struct snapshot_row *s, const char *folder,
                     struct restore_progress *progress, const atomic_bool *cancel,
                     struct restore_test *out, struct error *e);
void restore_test_release(struct restore_test *t);

#endif
