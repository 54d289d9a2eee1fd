#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"

#include "base/text.h"
#include "config/keys.h"
#include "config/places.h"
#include "snapshot/report.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { TO, OVERWRITE };
static const struct command_flag flags[] = {
    {"to", 0, "DIR", "where to; made when missing, refused when not empty"},
    {"overwrite", 0, NULL, "DIR may hold things: what has the same name is replaced"},
    {NULL, 0, NULL, NULL},
};

/* ---- the live data is not a place to restore to ---- */

static int refuse_root(const char *target, const char *name, const char *root, struct error *e)
{
    bool inside = place_inside(target, root), around = place_inside(root, target);
    const char *how = inside && around ? "is" : inside ? "lies in" : "holds";
    char quoted[300];

    if (!inside && !around)
        return 0;
    return error_set(
        e, ERR_REFUSED,
        "'%s' %s the root of watch '%s', which is live data: restore to another folder",
        text_escape(target, quoted, sizeof(quoted)), how, name);
}

static int check_target(const struct cli *cli, struct repo *r, const char *target, struct error *e)
{
    const struct config *c = cli->config;
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = refuse_root(target, rows[i].name, rows[i].root, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    for (size_t i = 0; rc == 0 && i < c->watch_count; i++)
        rc = refuse_root(target, c->watches[i].name, c->watches[i].path, e);
    if (rc == 0 && place_inside(target, c->repository))
        rc = error_set(e, ERR_REFUSED, "'%s' lies in the repository: restore to another folder",
                       target);
    return rc;
}

/* ---- telling ---- */

static void tell_not_good(const struct cli *cli, struct repo *r, const struct snapshot_row *s)
{
    struct snapshot_row good = {0};
    struct error ignored = ERROR_INIT;

    if (snapshot_good(s) != SNAPSHOT_NOT_GOOD)
        return;
    if (selector_resolve(r, "good", s->watch_name, &good, NULL, &ignored) == 0)
        out_note(cli, "snapshot %llu is known not to be good; the newest good one is %llu ('good')",
                 (unsigned long long)s->commit.number, (unsigned long long)good.commit.number);
    else
        out_note(cli, "snapshot %llu is known not to be good, and there is no good one yet",
                 (unsigned long long)s->commit.number);
    snapshot_row_release(&good);
}

static void read_progress(void *ctx, struct progress_view *v)
{
    struct restore_progress *p = ctx;

    v->files = p->files_done;
    v->files_total = p->files_total;
    v->bytes = p->bytes_done;
    v->bytes_total = p->bytes_total;
}

static void tell_problems(const struct cli *cli, const struct restore_result *r)
{
    char path[600];

    for (size_t i = 0; i < r->problem_count; i++) {
        struct error p = ERROR_INIT;
        error_set(&p, ERR_DAMAGED, "not restored: '%s': %s",
                  text_escape(r->problems[i].path, path, sizeof(path)), r->problems[i].reason);
        error_path(&p, r->problems[i].path);
        out_error(cli, &p);
    }
    for (size_t i = 0; i < r->warning_count; i++)
        out_note(cli, "%s", r->warnings[i]);
}

static int tell_result(struct cli *cli, uint64_t snapshot, const struct restore_result *r, int code,
                       const char *target, struct error *e)
{
    char size[24], quoted[600];

    tell_problems(cli, r);
    if (cli->json)
        return out_json(cli, report_restore_summary(snapshot, r, code), e);
    if (!cli->quiet)
        printf("restored snapshot %llu to '%s': %llu %s, %s (%.3f s)\n",
               (unsigned long long)snapshot, text_escape(target, quoted, sizeof(quoted)),
               (unsigned long long)r->files, r->files == 1 ? "file" : "files",
               size_text(r->bytes, size, sizeof(size)), r->seconds);
    return 0;
}

static int restore(struct cli *cli, struct repo *r, const struct snapshot_row *s, const char *path,
                   const char *target, struct error *e)
{
    struct restore_progress progress = {0};
    struct restore_result result = {0};
    struct restore_request request = {
        .repo = r,
        .snapshot = s,
        .path = path,
        .target = target,
        .overwrite = cli->given[OVERWRITE] != NULL,
        .progress = &progress,
        .cancel = interrupt_watch(),
    };
    struct error why = ERROR_INIT;

    tell_not_good(cli, r, s);
    struct progress *bar = progress_start(cli, "restoring", read_progress, &progress);
    int rc = restore_run(&request, &result, &why);
    progress_stop(bar);
    if (rc != 0 && !result.finished) {
        *e = why;
    } else {
        int code = rc != 0 ? error_exit_code(rc) : result.skipped > 0 ? 3 : 0;
        rc = tell_result(cli, s->commit.number, &result, code, target, e);
        if (code > 3)
            out_error(cli, &why);
        rc = rc != 0 ? rc : code;
    }
    restore_result_release(&result);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct snapshot_row s = {0};
    struct repo *r = NULL;
    char *path = NULL, *target = NULL;
    int rc = 0;

    if (!cli->given[TO] || !*cli->given[TO])
        return error_set(e, ERR_USAGE, "where to? give a folder with --to DIR");
    target = config_clean_path(cli->given[TO]);
    if (!target)
        rc = error_sys(e, errno, "cannot find '%s'", cli->given[TO]);
    if (rc == 0)
        rc = reach_read(cli, &r, e);
    if (rc == 0)
        rc = selector_resolve(r, cli->operands[0], cli->watch, &s, &path, e);
    if (rc == 0)
        rc = check_target(cli, r, target, e);
    if (rc == 0)
        rc = restore(cli, r, &s, path ? path : "", target, e);
    snapshot_row_release(&s);
    repo_close(r);
    free(path);
    free(target);
    return rc;
}

const struct command command_restore = {
    .name = "restore",
    .operands = "SNAPSHOT[:PATH] --to DIR",
    .summary = "bring a snapshot, or PATH in it, back into a folder",
    .min_operands = 1,
    .max_operands = 1,
    .flags = flags,
    .lines = true,
    .about =
        "What the watch's root (or PATH) held comes straight into DIR. A DIR that is, holds or\n"
        "lies in the root of a watch is refused.",
    .run = run,
};
