/* save_target.h - what `save` was asked to save: names of watches and paths, made plain. */
#ifndef WK_CLI_SAVE_TARGET_H
#define WK_CLI_SAVE_TARGET_H

#include "cli/cli.h"

struct save_target {
    char *name;
    char *path; /* absolute; NULL: as configured or on record */
};

struct save_targets { /* none: every watch */
    struct save_target *list;
    size_t count;
};

/* From the operands and -w. ERR_USAGE: two of one name, or a name that cannot be. A word without
 * '/' and '=' is the name of a watch; where no watch has it, a folder of that name counts. */
int save_targets_take(struct cli *cli, struct save_targets *out, struct error *e);
void save_targets_release(struct save_targets *t);

#endif
