/* status_here.h - the status document where no service gives it. */
#ifndef WK_CLI_STATUS_HERE_H
#define WK_CLI_STATUS_HERE_H

#include "cli/cli.h"

#include <jansson.h>

/* silent: what was wrong with a service that is there but does not answer; NULL: none runs. */
int status_here(struct cli *cli, const struct error *silent, json_t **out, struct error *e);

#endif
