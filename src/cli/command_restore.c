#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/in_place.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"

#include "base/text.h"
#include "config/keys.h"
#include "config/places.h"
#include "keep/archive_read.h"
#include "snapshot/report.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"
#include "snapshot/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { TO, OVERWRITE, IN_PLACE, DELETE, CONFIRM, FORCE };
static const struct command_flag flags[] = {
    {"to", 0, "DIR", "where to; made when missing, refused when not empty"},
    {"overwrite", 0, NULL, "DIR may hold things: what has the same name is replaced"},
    {"in-place", 0, NULL, "over the live data; saves the present state first, see undo"},
    {"delete", 0, NULL, "in place: remove what the snapshot does not have"},
    {"confirm", 0, NULL, "in place: do it; without, what would change is told"},
    {"force", 0, NULL, "in place: also while processes have files open there"},
    {NULL, 0, NULL, NULL},
};

/* ---- the live data is no folder like any other ---- */

/* Whether target is where the path of that snapshot stood: restoring to it is restoring in place.
 */
static int is_its_place(struct repo *r, const struct snapshot_row *s, const char *path,
                        const char *target, const char *root, bool *yes, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct node_brief brief;
    uint64_t node;
    int64_t at = (int64_t)s->commit.number;
    int rc = tree_find(repo_catalog(r), s->watch_serial, at, path, &node, e);

    if (rc == 0)
        rc = catalog_node(repo_catalog(r), s->watch_serial, node, at, &meta, e);
    if (rc == 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    buffer_release(&meta);
    if (rc != 0)
        return rc;
    char *below = place_below(target, root), *folder = strdup(path);
    if (folder && brief.type != NODE_FOLDER) { /* it stands in the folder that is named */
        char *slash = strrchr(folder, '/');
        *(slash ? slash : folder) = 0;
    }
    *yes = below && folder && strcmp(below, folder) == 0;
    free(below);
    free(folder);
    return 0;
}

static int refuse_root(const char *target, const char *name, const char *root, struct error *e)
{
    bool inside = place_inside(target, root), around = place_inside(root, target);
    const char *how = inside && around ? "is" : inside ? "lies in" : "holds";
    char quoted[300];

    if (!inside && !around)
        return 0;
    return error_set(e, ERR_REFUSED,
                     "'%s' %s the root of watch '%s', which is live data: restore to another "
                     "folder, or what stood there with --in-place",
                     text_escape(target, quoted, sizeof(quoted)), how, name);
}

/* The root of the snapshot's own watch, malloc'ed. */
static char *own_root(const struct cli *cli, struct repo *r, const struct snapshot_row *s)
{
    const struct watch_config *configured = config_watch(cli->config, s->watch_name);
    struct error ignored = ERROR_INIT;
    struct watch_row row;

    if (configured)
        return strdup(configured->path);
    if (catalog_watch_by_name(repo_catalog(r), s->watch_name, &row, &ignored) != 0)
        return NULL;
    char *root = strdup(row.root);
    watch_row_release(&row);
    return root;
}

static int check_watches(const struct cli *cli, struct repo *r, const char *target, struct error *e)
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
    return rc;
}

static int check_target(const struct cli *cli, struct repo *r, const struct snapshot_row *s,
                        const char *path, const char *target, bool *in_place, struct error *e)
{
    char *root = own_root(cli, r, s);
    int rc = 0;

    *in_place = false;
    if (root && place_inside(target, root))
        rc = is_its_place(r, s, path, target, root, in_place, e);
    free(root);
    if (rc == 0 && place_inside(target, cli->config->repository))
        rc = error_set(e, ERR_REFUSED, "'%s' lies in the repository: restore to another folder",
                       target);
    return rc == 0 && !*in_place ? check_watches(cli, r, target, e) : rc;
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

static int tell_result(struct cli *cli, uint64_t snapshot, const struct restore_result *r, int code,
                       const char *target, struct error *e)
{
    char size[24], quoted[600];

    tell_restore_problems(cli, r);
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
    struct progress *bar = progress_start(cli, "restoring", read_restore_progress, &progress);
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

static int restore_in_place(struct cli *cli, struct repo *r, const struct snapshot_row *s,
                            const char *path, struct error *e)
{
    const struct in_place what = {.watch = s->watch_name,
                                  .snapshot = s->commit.number,
                                  .path = path,
                                  .remove = cli->given[DELETE] ? LIVE_RULES : LIVE_KEEP,
                                  .confirm = cli->given[CONFIRM] != NULL,
                                  .force = cli->given[FORCE] != NULL};

    tell_not_good(cli, r, s);
    return in_place(cli, &what, e);
}

static int check_flags(const struct cli *cli, struct error *e)
{
    if (cli->given[IN_PLACE] && (cli->given[TO] || cli->given[OVERWRITE]))
        return error_set(e, ERR_USAGE,
                         "--in-place goes over the live data, --to somewhere else: "
                         "give one of them");
    if (!cli->given[IN_PLACE] && (!cli->given[TO] || !*cli->given[TO]))
        return error_set(e, ERR_USAGE, "where to? give a folder with --to DIR, or --in-place");
    return 0;
}

/* Where it goes; in_place is also set where the folder named is the live data. */
static int find_target(struct cli *cli, struct repo *r, const struct snapshot_row *s,
                       const char *path, char **target, bool *in_place, struct error *e)
{
    *in_place = cli->given[IN_PLACE] != NULL;
    if (*in_place)
        return 0;
    *target = config_clean_path(cli->given[TO]);
    if (!*target)
        return error_sys(e, errno, "cannot find '%s'", cli->given[TO]);
    int rc = check_target(cli, r, s, path, *target, in_place, e);
    if (rc == 0 && !*in_place && (cli->given[DELETE] || cli->given[CONFIRM] || cli->given[FORCE]))
        return error_set(e, ERR_USAGE, "--delete, --confirm and --force go with --in-place");
    return rc;
}

static int restore_archive(struct cli *cli, struct error *e)
{
    if (cli->given[IN_PLACE])
        return error_set(e, ERR_USAGE,
                         "an archive does not go over the live data: give a folder "
                         "with --to DIR");
    char *target = config_clean_path(cli->given[TO]);
    int rc = target ? archive_restore_operand(cli, target, cli->given[OVERWRITE] != NULL, e)
                    : error_sys(e, errno, "cannot find '%s'", cli->given[TO]);
    free(target);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct snapshot_row s = {0};
    struct repo *r = NULL;
    char *found = NULL, *target = NULL;
    bool live = false;
    int rc = check_flags(cli, e);

    if (rc == 0 && archive_is_meant(cli->operands[0]))
        return restore_archive(cli, e);
    if (rc == 0)
        rc = reach_read(cli, &r, e);
    if (rc == 0)
        rc = selector_resolve(r, cli->operands[0], cli->watch, &s, &found, e);
    const char *path = found ? found : "";
    if (rc == 0)
        rc = find_target(cli, r, &s, path, &target, &live, e);
    if (rc == 0)
        rc = live ? restore_in_place(cli, r, &s, path, e) : restore(cli, r, &s, path, target, e);
    snapshot_row_release(&s);
    repo_close(r);
    free(found);
    free(target);
    return rc;
}

const struct command command_restore = {
    .name = "restore",
    .operands = "SNAPSHOT[:PATH] --to DIR | --in-place",
    .summary = "bring a snapshot, or PATH in it, back into a folder",
    .min_operands = 1,
    .max_operands = 1,
    .flags = flags,
    .lines = true,
    .about =
        "What the watch's root (or PATH) held comes straight into DIR. With --in-place it goes\n"
        "over the live data: what stands there is saved first, and 'watchkeep undo' takes it\n"
        "back. What the rules leave out is never touched. While a process has a file open there\n"
        "it is refused. A DIR that is where it stood is the same as --in-place; any other DIR\n"
        "that is, holds or lies in the root of a watch is refused.",
    .run = run,
};
