#include "cli/commands.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/text.h"
#include "snapshot/compare.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { EXIT_CODE };
static const struct command_flag flags[] = {
    {"exit-code", 0, NULL, "exit 1 when there is a difference"},
    {NULL, 0, NULL, NULL},
};

struct differences {
    const struct cli *cli;
    json_t *changes;     /* with --json */
    struct buffer lines; /* else */
    bool any;
};

static int visit(void *ctx, const struct diff_entry *d, struct error *e)
{
    static const char signs[] = {
        [DIFF_ADDED] = '+',    [DIFF_REMOVED] = '-', [DIFF_CHANGED] = 'M',
        [DIFF_METADATA] = 'U', [DIFF_MOVED] = 'R',   [DIFF_EXCLUDED] = 'X'};
    static const enum paint paints[] = {
        [DIFF_ADDED] = PAINT_GREEN,  [DIFF_REMOVED] = PAINT_RED,  [DIFF_CHANGED] = PAINT_YELLOW,
        [DIFF_METADATA] = PAINT_DIM, [DIFF_MOVED] = PAINT_YELLOW, [DIFF_EXCLUDED] = PAINT_DIM};
    struct differences *all = ctx;
    char path[4200], old[4200];

    all->any = true;
    if (all->changes)
        return json_array_append_new(all->changes, report_diff_entry(d)) == 0
                   ? 0
                   : error_set(e, ERR_FAILED, "no memory for the differences");
    text_escape(d->path, path, sizeof(path));
    text_escape(d->old_path ? d->old_path : "", old, sizeof(old));
    buffer_printf(&all->lines, "%s%c  %s%s%s%s\n", out_paint(all->cli, stdout, paints[d->kind]),
                  signs[d->kind], old, d->old_path ? " -> " : "", path,
                  out_paint(all->cli, stdout, PAINT_NONE));
    return 0;
}

static int compare(struct cli *cli, struct repo *r, const struct snapshot_row *a,
                   const struct snapshot_row *b, const char *prefix, struct error *e)
{
    struct differences all = {
        .cli = cli, .changes = cli->json ? json_array() : NULL, .lines = BUFFER_INIT};
    int rc = diff_run(r, a, b, prefix, visit, &all, e);

    if (rc == 0 && all.changes) {
        json_t *doc = json_pack("{s:i,s:s,s:I,s:I}", "schema", 1, "watch", b->watch_name, "a",
                                (json_int_t)a->commit.number, "b", (json_int_t)b->commit.number);
        report_path(doc, "path", prefix);
        json_object_set(doc, "changes", all.changes);
        rc = out_json(cli, doc, e);
    }
    if (rc == 0 && !buffer_ok(&all.lines))
        rc = error_set(e, ERR_FAILED, "no memory for the differences");
    if (rc == 0)
        fwrite(all.lines.data, 1, all.lines.len, stdout);
    buffer_release(&all.lines);
    json_decref(all.changes);
    return rc != 0 ? rc : all.any && cli->given[EXIT_CODE];
}

static int run(struct cli *cli, struct error *e)
{
    struct snapshot_row a = {0}, b = {0};
    struct repo *r = NULL;
    char *prefix = NULL;
    int rc = reach_read(cli, &r, e);

    if (rc == 0)
        rc = selector_resolve(r, cli->operands[0], cli->watch, &a, NULL, e);
    if (rc == 0)
        rc = selector_resolve(r, cli->operands[1], cli->watch, &b, NULL, e);
    if (rc == 0 && cli->operand_count > 2)
        rc = selector_path(cli->operands[2], &prefix, e);
    if (rc == 0)
        rc = compare(cli, r, &a, &b, prefix ? prefix : "", e);
    free(prefix);
    snapshot_row_release(&a);
    snapshot_row_release(&b);
    repo_close(r);
    return rc;
}

const struct command command_diff = {
    .name = "diff",
    .operands = "A B [PATH]",
    .summary = "what was added, removed and changed between two snapshots",
    .min_operands = 2,
    .max_operands = 3,
    .flags = flags,
    .about =
        "+ added, - removed, M changed, U only owner, mode or the like, R moved, X left out by\n"
        "changed rules.",
    .run = run,
};
