/* test_folder.h - a folder to bring something back into for a test, removed afterwards.
 *
 * It is known by its name and by a lock: what a killed test left is removed by the next one. */
#ifndef WK_SNAPSHOT_TEST_FOLDER_H
#define WK_SNAPSHOT_TEST_FOLDER_H

#include "base/error.h"

#include <stdint.h>

struct test_folder {
    int dir, lock;
    char *own;    /* its path */
    char *target; /* in it, not made yet: where to restore to */
};

/* folder: where tests may write; made when missing. ERR_NOSPACE: it has no room for so many bytes
 * and a twentieth more. To be closed in any case. */
int test_folder_open(struct test_folder *t, const char *folder, uint64_t bytes, struct error *e);
void test_folder_close(struct test_folder *t);

#endif
