/* cli.h - one call of the program: its flags, its command, and what commands share. */
#ifndef WK_CLI_CLI_H
#define WK_CLI_CLI_H

#include "base/error.h"
#include "config/config.h"

#include <stdbool.h>

enum { OWN_FLAGS_MAX = 8, REPEATED_MAX = 64 };
enum color_mode { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };

struct cli;

struct command_flag {
    const char *name;  /* without "--" */
    char letter;       /* or 0 */
    const char *value; /* what --help calls its value, NULL for a switch */
    const char *help;
};

struct command {
    const char *name, *operands, *summary;
    int min_operands, max_operands;   /* max -1: any number */
    const struct command_flag *flags; /* of its own, ended by a NULL name, or NULL */
    const char *repeats; /* the one flag that may be given again: all values in cli.repeated */
    bool lines;          /* --json gives lines, the last of them a summary */
    const char *about;   /* for `help COMMAND`, or NULL */
    /* The exit code, or a negative code with *e. */
    int (*run)(struct cli *cli, struct error *e);
};

struct cli {
    const struct command *command;
    const char *config_file, *repository, *watch; /* as given, or NULL */
    bool json, quiet, no_progress;
    int verbose;
    enum color_mode color;
    uint64_t wait_ms;
    const char *given[OWN_FLAGS_MAX]; /* by index into command->flags: the value, "" for a switch,
                                         NULL when not given */
    const char *repeated[REPEATED_MAX + 1]; /* ended by NULL */
    int operand_count;
    char **operands;       /* NULL-terminated */
    bool distrust;         /* the catalog failed the command's first run */
    uint64_t given_out;    /* bytes of content that it had written by then */
    bool summary_out;      /* the last line of --json has been written */
    struct config *config; /* once cli_config was called */
};

/* Load the configuration once. */
int cli_config(struct cli *cli, struct error *e);

#endif
