/* in_place.h - what restore --in-place, undo and heal have in common: the guard, the safety
 * snapshot, the restore over the live data, and its record. With a service running everything that
 * is written to the repository goes through it. */
#ifndef WK_CLI_IN_PLACE_H
#define WK_CLI_IN_PLACE_H

#include "cli/cli.h"
#include "service/specs.h"
#include "snapshot/restore_live.h"
#include "snapshot/restore_record.h"

struct in_place {
    const char *watch;
    uint64_t snapshot;       /* what is put back */
    const char *from, *into; /* as in a live_request; NULL: it goes where it stood */
    const char *path;        /* of it, "" = everything; below `from` */
    char *const *only;       /* these paths alone, sorted; or NULL */
    enum live_remove remove;
    uint64_t added[2]; /* of LIVE_ADDED: snapshots, 0: none */
    const char *added_from, *added_into;
    bool undo;    /* it takes one back */
    bool confirm; /* else what would change is told, and that it was not done: ERR_REFUSED */
    bool force;   /* also while processes work there */
};

/* The exit code, or a negative one with *e. */
int in_place(struct cli *cli, const struct in_place *what, struct error *e);

/* The rules of a watch as it is configured, else as it is on record. ERR_NOTFOUND. */
int in_place_spec(struct cli *cli, struct repo *r, const char *watch, struct watch_spec_owned *spec,
                  struct error *e);

#endif
