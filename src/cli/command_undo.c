#include "cli/commands.h"
#include "cli/in_place.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CONFIRM, FORCE };
static const struct command_flag flags[] = {
    {"confirm", 0, NULL, "do it; without, what would change is told"},
    {"force", 0, NULL, "also while processes have files open there"},
    {NULL, 0, NULL, NULL},
};

/* The record of this watch, where it is later than what *best holds. */
static int take_watch(struct repo *r, const struct watch_row *w, char **watch,
                      struct restore_record *best, struct error *e)
{
    struct restore_record rec;
    int rc = restore_record_last(repo_catalog(r), w->id, &rec, e);

    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    if (rc != 0)
        return rc;
    if (rec.base < best->base) { /* numbers only grow, whatever the clock said */
        restore_record_release(&rec);
        return 0;
    }
    restore_record_release(best);
    *best = rec;
    free(*watch);
    *watch = strdup(w->name);
    return *watch ? 0 : error_set(e, ERR_FAILED, "out of memory");
}

/* The last restore in place, of -w or of all watches. */
static int find(struct cli *cli, struct repo *r, char **watch, struct restore_record *rec,
                struct error *e)
{
    struct watch_row *rows = NULL;
    bool known = !cli->watch;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        bool asked = !cli->watch || strcmp(rows[i].name, cli->watch) == 0;
        known = known || asked;
        if (rc == 0 && asked)
            rc = take_watch(r, &rows[i], watch, rec, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    if (rc != 0 || *watch)
        return rc;
    if (!known)
        return error_set(e, ERR_NOTFOUND, "no watch '%s' in the repository", cli->watch);
    return error_set(e, ERR_NOTFOUND, "nothing to undo: nothing has been restored in place%s%s%s",
                     cli->watch ? " in watch '" : "", cli->watch ? cli->watch : "",
                     cli->watch ? "'" : "");
}

static int check_back(struct repo *r, const struct restore_record *rec, uint64_t back,
                      struct error *e)
{
    struct snapshot_row row;
    int rc = catalog_snapshot(repo_catalog(r), back, &row, e);

    if (rc == 0)
        snapshot_row_release(&row);
    if (rc != ERR_NOTFOUND)
        return rc;
    return error_set(e, ERR_NOTFOUND,
                     "cannot undo the restore of snapshot %llu: snapshot %llu, the state before "
                     "it, has been removed",
                     (unsigned long long)rec->restored, (unsigned long long)back);
}

static void tell(const struct cli *cli, const char *watch, const struct restore_record *rec,
                 bool again)
{
    if (again)
        out_note(cli, "watch '%s': goes on with an undo that was cut off", watch);
    else
        out_note(
            cli,
            "watch '%s': takes back the %s of snapshot %llu%s%s and goes back to snapshot %llu",
            watch, rec->undo ? "undo (a restore" : "restore", (unsigned long long)rec->restored,
            rec->undo ? ")" : "", rec->done ? "" : ", which was cut off,",
            (unsigned long long)rec->back);
}

static int undo(struct cli *cli, struct repo *r, const char *watch,
                const struct restore_record *rec, struct error *e)
{
    bool again = rec->undo && !rec->done;
    struct in_place what = {.watch = watch,
                            .snapshot = again ? rec->restored : rec->back,
                            .path = rec->path,
                            .only = rec->only,
                            .remove = LIVE_ADDED,
                            .added = {rec->restored, rec->base != rec->back ? rec->base : 0},
                            .undo = true,
                            .confirm = cli->given[CONFIRM] != NULL,
                            .force = cli->given[FORCE] != NULL};

    if (again)
        memcpy(what.added, rec->added, sizeof(what.added));
    if (again || !rec->undo) { /* what an undo put back stood where it was */
        what.added_from = rec->from;
        what.added_into = rec->into;
    }
    int rc = check_back(r, rec, what.snapshot, e);
    if (rc != 0)
        return rc;
    tell(cli, watch, rec, again);
    return in_place(cli, &what, e);
}

static int run(struct cli *cli, struct error *e)
{
    struct restore_record rec = {0};
    struct repo *r = NULL;
    char *watch = NULL;
    int rc = reach_read(cli, &r, e);

    if (rc == 0)
        rc = find(cli, r, &watch, &rec, e);
    if (rc == 0)
        rc = undo(cli, r, watch, &rec, e);
    restore_record_release(&rec);
    free(watch);
    repo_close(r);
    return rc;
}

const struct command command_undo = {
    .name = "undo",
    .operands = "",
    .summary = "take back the last restore in place",
    .flags = flags,
    .lines = true,
    .about =
        "What stood there before comes back, what the restore added goes; what appeared since\n"
        "stays. It is itself a restore in place: what stands there is saved first, and another\n"
        "undo takes this one back. One that was cut off is finished by giving it again.",
    .run = run,
};
