/* save_here.h - `save` without a service: open the repository and save the watches in turn. */
#ifndef WK_CLI_SAVE_HERE_H
#define WK_CLI_SAVE_HERE_H

#include "cli/save_target.h"
#include "store/repository.h"

#include <jansson.h>

struct save_wish {
    const char *name, *note; /* of the snapshot, or NULL */
    bool moved;              /* a root may differ from the one on record */
    bool accept;             /* what is left of an almost empty root is right */
    json_t *collect; /* an array: "saved" lines go into it and nothing is printed; or NULL */
};

/* Save through the service that runs on the repository, else with the repository in our own hands.
 * The exit code, or a negative one with *e. Prints what save_here prints. */
int save_somewhere(struct cli *cli, const struct save_targets *targets,
                   const struct save_wish *wish, struct error *e);

/* The exit code, or a negative one with *e. Prints "saved" lines and the summary. */
int save_here(struct cli *cli, struct repo *r, const struct save_targets *targets,
              const struct save_wish *wish, struct error *e);

#endif
