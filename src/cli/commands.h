/* commands.h - the table of commands; a file each. */
#ifndef WK_CLI_COMMANDS_H
#define WK_CLI_COMMANDS_H

#include "cli/cli.h"

extern const struct command command_archive, command_cat, command_config, command_diff,
    command_history, command_init, command_list, command_ls, command_pin, command_prune,
    command_rebuild, command_restore, command_run, command_save, command_show, command_status,
    command_undo, command_heal, command_unpin, command_verify;

#endif
