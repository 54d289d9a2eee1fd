/* progress.h - a bar with the time left on stderr, ten times a second; on a terminal only. */
#ifndef WK_CLI_PROGRESS_H
#define WK_CLI_PROGRESS_H

#include "cli/cli.h"

#include <stdint.h>

struct progress_view {
    uint64_t files, files_total; /* a total of 0: not known */
    uint64_t bytes, bytes_total;
};

struct progress;

/* read is called from another thread until progress_stop. NULL where there is nothing to show
 * (no terminal, --json, --quiet, --no-progress), which progress_stop bears. */
struct progress *progress_start(const struct cli *cli, const char *verb,
                                void (*read)(void *ctx, struct progress_view *v), void *ctx);
void progress_stop(struct progress *p); /* the line is cleared */

bool progress_wanted(const struct cli *cli);

#endif
