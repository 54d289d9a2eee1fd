/* save_here.h - `save` without a service: open the repository and save the watches in turn. */
#ifndef WK_CLI_SAVE_HERE_H
#define WK_CLI_SAVE_HERE_H

#include "cli/save_target.h"
#include "store/repository.h"

struct save_wish {
    const char *name, *note; /* of the snapshot, or NULL */
    bool moved;              /* a root may differ from the one on record */
    bool accept;             /* what is left of an almost empty root is right */
};

/* The exit code, or a negative one with *e. Prints "saved" lines and the summary. */
int save_here(struct cli *cli, struct repo *r, const struct save_targets *targets,
              const struct save_wish *wish, struct error *e);

#endif
