/* status_here.h - the status document where no service runs to give it. */
#ifndef WK_CLI_STATUS_HERE_H
#define WK_CLI_STATUS_HERE_H

#include "cli/cli.h"

#include <jansson.h>

int status_here(struct cli *cli, json_t **out, struct error *e);

#endif
