/* heal.h - which files of a watch are empty or broken though a snapshot has them whole: JSON and
 * SQLite, as content_class.h tells them. A file with the size and time that it has there is the one
 * that was saved, and is not read. */
#ifndef WK_SNAPSHOT_HEAL_H
#define WK_SNAPSHOT_HEAL_H

#include "snapshot/rules.h"
#include "store/repository.h"

struct heal_request {
    struct repo *repo;
    const struct snapshot_row *good;
    const char *root;
    struct rules *rules; /* of today: what they leave out is not looked at */
    bool missing;        /* also what is not there at all, of every kind but folders */
    const atomic_bool *cancel;
};

enum heal_why { HEAL_EMPTY, HEAL_BROKEN, HEAL_MISSING };
typedef int (*heal_visit)(void *ctx, const char *path, enum heal_why why, struct error *e);

/* Visit each such path, in path order. ERR_NOTFOUND: the root is gone. */
int heal_find(const struct heal_request *req, heal_visit visit, void *ctx, struct error *e);

#endif
