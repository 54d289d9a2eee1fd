#include "cli/commands.h"
#include "cli/in_place.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/reach.h"

#include "base/string_list.h"
#include "base/text.h"
#include "snapshot/heal.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { MISSING, CONFIRM, FORCE };
static const struct command_flag flags[] = {
    {"missing", 0, NULL, "also what is not there at all"},
    {"confirm", 0, NULL, "do it; without, what would be put back is told"},
    {"force", 0, NULL, "also while processes have files open there"},
    {NULL, 0, NULL, NULL},
};

struct healing {
    struct cli *cli;
    char **paths;
};

static const char *why_word(enum heal_why why)
{
    return why == HEAL_EMPTY ? "empty" : why == HEAL_BROKEN ? "broken" : "missing";
}

static int take_path(void *ctx, const char *path, enum heal_why why, struct error *e)
{
    struct healing *h = ctx;
    char quoted[4200];

    if (!string_list_add(&h->paths, path, strlen(path)))
        return error_set(e, ERR_FAILED, "out of memory");
    if (h->cli->json) {
        json_t *line = json_pack("{s:s,s:s}", "type", "heal", "why", why_word(why));
        if (line)
            report_path(line, "path", path);
        return out_json(h->cli, line, e);
    }
    if (!h->cli->quiet)
        printf("%-8s %s\n", why_word(why), text_escape(path, quoted, sizeof(quoted)));
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int find(struct healing *h, struct repo *r, const struct snapshot_row *good, struct error *e)
{
    struct watch_spec_owned spec = {0};
    struct rules *rules = NULL;
    size_t count = 0;
    int rc = in_place_spec(h->cli, r, good->watch_name, &spec, e);

    if (rc == 0)
        rc = rules_new(&spec.spec, &rules, e);
    const struct heal_request request = {.repo = r,
                                         .good = good,
                                         .root = spec.spec.root,
                                         .rules = rules,
                                         .missing = h->cli->given[MISSING] != NULL,
                                         .cancel = interrupt_watch()};
    if (rc == 0)
        rc = heal_find(&request, take_path, h, e);
    while (h->paths && h->paths[count])
        count++;
    if (count > 1)
        qsort(h->paths, count, sizeof(char *), by_text);
    rules_free(rules);
    specs_release(&spec);
    return rc;
}

static int nothing_to_do(struct cli *cli, uint64_t good, struct error *e)
{
    if (cli->json)
        return out_json(cli,
                        json_pack("{s:s,s:o,s:I,s:i}", "type", "summary", "snapshot",
                                  good ? json_integer((json_int_t)good) : json_null(), "files",
                                  (json_int_t)0, "exit", 0),
                        e);
    if (!cli->quiet)
        printf("nothing to heal: no file is empty or broken that snapshot %llu has whole\n",
               (unsigned long long)good);
    return 0;
}

/* A watch that was never saved, or never well, has nothing to be healed from: no reason to keep an
 * app from starting. */
static int no_good_one(struct cli *cli, struct repo *r, struct error *e)
{
    struct error why = *e;
    struct watch_row row;
    int rc = catalog_watch_by_name(repo_catalog(r), cli->operands[0], &row, e);

    if (rc != 0)
        return rc;
    watch_row_release(&row);
    out_note(cli, "%s: nothing to heal from", why.message);
    error_clear(e);
    return cli->json ? nothing_to_do(cli, 0, e) : 0;
}

static int heal(struct healing *h, struct repo *r, const struct snapshot_row *good, struct error *e)
{
    struct in_place what = {.watch = good->watch_name,
                            .snapshot = good->commit.number,
                            .path = "",
                            .remove = LIVE_KEEP,
                            .confirm = h->cli->given[CONFIRM] != NULL,
                            .force = h->cli->given[FORCE] != NULL};
    int rc = find(h, r, good, e);

    if (rc != 0)
        return rc;
    if (!h->paths)
        return nothing_to_do(h->cli, good->commit.number, e);
    if (!what.confirm)
        return error_set(e, ERR_REFUSED,
                         "nothing was done yet: to put these back from snapshot %llu, give "
                         "--confirm",
                         (unsigned long long)good->commit.number);
    what.only = h->paths;
    return in_place(h->cli, &what, e);
}

static int run(struct cli *cli, struct error *e)
{
    struct healing h = {.cli = cli};
    struct snapshot_row good = {0};
    struct repo *r = NULL;
    int rc = reach_read(cli, &r, e);

    if (rc != 0)
        return rc;
    rc = selector_resolve(r, "good", cli->operands[0], &good, NULL, e);
    if (rc == ERR_NOTFOUND)
        rc = no_good_one(cli, r, e);
    else if (rc == 0)
        rc = heal(&h, r, &good, e);
    string_list_free(h.paths);
    snapshot_row_release(&good);
    repo_close(r);
    return rc;
}

const struct command command_heal = {
    .name = "heal",
    .operands = "WATCH",
    .summary = "before an app starts: put back files that are empty or broken",
    .min_operands = 1,
    .max_operands = 1,
    .flags = flags,
    .lines = true,
    .about =
        "JSON files and SQLite databases that the newest good snapshot has whole. What stands\n"
        "there is saved first, and 'watchkeep undo' takes it back. 0 when nothing is to do or\n"
        "all was done. For a unit: ExecStartPre=-watchkeep heal WATCH --confirm",
    .run = run,
};
