/* archive_source.h - an archive where a command takes a snapshot: show, ls, cat, restore, verify.
 *
 * archive_is_meant (keep/archive_read.h) tells whether an operand is one. */
#ifndef WK_CLI_ARCHIVE_SOURCE_H
#define WK_CLI_ARCHIVE_SOURCE_H

#include "cli/cli.h"
#include "cli/progress.h"
#include "keep/archive.h"
#include "snapshot/restore.h"

/* Resolve it, in the folders of archives that the configuration names. As archive_resolve. */
int archive_operand(struct cli *cli, const char *text, struct archive_item *item, char **path,
                    struct error *e);

/* Each is the command. The exit code, or a negative code with *e. */
int archive_show(struct cli *cli, const char *text, struct error *e);
int archive_restore_operand(struct cli *cli, const char *target, bool overwrite, struct error *e);
int archive_verify_operands(struct cli *cli, struct error *e);

/* What `restore` tells of either. */
void read_restore_progress(void *ctx, struct progress_view *v);
void tell_restore_problems(const struct cli *cli, const struct restore_result *r);

#endif
