#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/in_place.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"
#include "cli/restore_place.h"

#include "base/text.h"
#include "config/keys.h"
#include "keep/archive_read.h"
#include "snapshot/report.h"
#include "snapshot/restore.h"
#include "snapshot/selector.h"

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
                            const struct restore_place *place, struct error *e)
{
    const struct in_place what = {.watch = place->watch,
                                  .snapshot = s->commit.number,
                                  .from = place->from,
                                  .into = place->into,
                                  .path = place->path,
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

/* Where it goes: place->watch is also set where the folder named is live data. */
static int find_target(struct cli *cli, struct repo *r, const struct snapshot_row *s,
                       const char *path, char **target, struct restore_place *place,
                       struct error *e)
{
    if (cli->given[IN_PLACE]) {
        *place = (struct restore_place){.watch = strdup(s->watch_name), .path = strdup(path)};
        return place->watch && place->path ? 0 : error_set(e, ERR_FAILED, "out of memory");
    }
    *target = config_clean_path(cli->given[TO]);
    if (!*target)
        return error_sys(e, errno, "cannot find '%s'", cli->given[TO]);
    int rc = restore_place_find(cli, r, s, path, *target, place, e);
    if (rc == 0 && !place->watch &&
        (cli->given[DELETE] || cli->given[CONFIRM] || cli->given[FORCE]))
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
    struct restore_place place = {0};
    char *found = NULL, *target = NULL;
    int rc = check_flags(cli, e);

    if (rc == 0 && archive_is_meant(cli->operands[0]))
        return restore_archive(cli, e);
    if (rc == 0)
        rc = reach_read(cli, &r, e);
    if (rc == 0)
        rc = selector_resolve(r, cli->operands[0], cli->watch, &s, &found, e);
    const char *path = found ? found : "";
    if (rc == 0)
        rc = find_target(cli, r, &s, path, &target, &place, e);
    if (rc == 0)
        rc = place.watch ? restore_in_place(cli, r, &s, &place, e)
                         : restore(cli, r, &s, path, target, e);
    restore_place_release(&place);
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
        "it is refused. A DIR in the root of a watch is live data too: the same rules hold, and\n"
        "undo takes it back. One that holds a root is refused.",
    .run = run,
};
