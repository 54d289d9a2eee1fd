/* options.h - the command line: global flags on either side of the command, its own flags, help. */
#ifndef WK_CLI_OPTIONS_H
#define WK_CLI_OPTIONS_H

#include "cli/cli.h"

enum options_result { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

/* Fill *cli from argv (reordered in place). Returns an options_result, or ERR_USAGE. */
int options_parse(struct cli *cli, const struct command *const *commands, int argc, char **argv,
                  struct error *e);

/* The overview, or with a command all about it, on stdout. */
void options_help(const struct command *const *commands, const struct command *command);

#endif
