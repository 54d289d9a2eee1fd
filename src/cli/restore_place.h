/* restore_place.h - what `restore --to DIR` means where DIR has to do with live data. */
#ifndef WK_CLI_RESTORE_PLACE_H
#define WK_CLI_RESTORE_PLACE_H

#include "cli/cli.h"
#include "store/repository.h"

struct restore_place {
    char *watch;       /* whose live data it is; NULL: nobody's, DIR is a folder like any other */
    char *from, *into; /* as in a live_request; NULL: it goes where it stood */
    char *path;        /* below `from` */
};

/* ERR_REFUSED: DIR lies in the repository, or holds a root that the restore could reach. */
int restore_place_find(const struct cli *cli, struct repo *r, const struct snapshot_row *s,
                       const char *path, const char *dir, struct restore_place *out,
                       struct error *e);
void restore_place_release(struct restore_place *p);

#endif
