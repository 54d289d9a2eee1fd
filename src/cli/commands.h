/* commands.h - the table of commands; a file each. */
#ifndef WK_CLI_COMMANDS_H
#define WK_CLI_COMMANDS_H

#include "cli/cli.h"

extern const struct command command_init, command_run, command_save, command_archive, command_list,
    command_show, command_ls, command_cat, command_diff, command_history, command_restore,
    command_verify, command_status, command_config, command_rebuild, command_pin, command_unpin;

#endif
