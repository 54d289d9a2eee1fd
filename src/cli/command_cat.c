#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/text.h"
#include "keep/archive_use.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/banned.h"

static int run(struct cli *cli, struct error *e)
{
    struct snapshot_row s = {0};
    struct repo *r = NULL;
    char *path = NULL;
    char quoted[300];
    struct archive_item archive = {0};
    bool archived = archive_is_meant(cli->operands[0]);
    int rc = archived ? archive_operand(cli, cli->operands[0], &archive, &path, e)
                      : reach_read(cli, &r, e);

    if (rc == 0 && !archived)
        rc = selector_resolve(r, cli->operands[0], cli->watch, &s, &path, e);
    if (rc == 0 && (!path || !*path))
        rc = error_set(e, ERR_USAGE, "'%s' names no file: write SNAPSHOT:PATH",
                       text_escape(cli->operands[0], quoted, sizeof(quoted)));
    if (rc == 0 && archived)
        rc = archive_cat(&archive, path, STDOUT_FILENO, e);
    else if (rc == 0)
        rc = restore_cat(r, &s, path, STDOUT_FILENO, &cli->given_out, e);
    if (rc == ERR_NOSPACE) /* of standard output: reading takes none */
        rc = e->code = ERR_FAILED;
    free(path);
    archive_item_release(&archive);
    snapshot_row_release(&s);
    repo_close(r);
    return rc;
}

const struct command command_cat = {
    .name = "cat",
    .operands = "SNAPSHOT:PATH",
    .summary = "content of one file in a snapshot, on stdout",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
