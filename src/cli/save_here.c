#include "cli/save_here.h"

#include "base/log.h"

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/snapshot_text.h"
#include "service/prune_work.h"
#include "service/specs.h"
#include "snapshot/report.h"
#include "snapshot/save.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct saver {
    struct cli *cli;
    struct repo *repo;
    const struct save_wish *wish;
    struct sqlite_helper *helper;
    struct save_progress progress;
    bool several;
    json_t *total; /* the summary of several */
    bool made_room;
};

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot save");
}

/* ---- what to save ---- */

/* The rules of a watch: as configured, else as on record, else none. */
static int spec_of(struct saver *s, const struct save_target *t, struct watch_spec_owned *spec,
                   struct error *e)
{
    const struct config *c = s->cli->config;
    const struct watch_config *configured = config_watch(c, t->name);
    struct watch_row row = {0};
    int rc;

    if (configured) {
        rc = specs_build(configured, c, spec, e);
    } else if (catalog_watch_by_name(repo_catalog(s->repo), t->name, &row, e) == 0) {
        rc = specs_from_row(&row, c, spec, e);
        watch_row_release(&row);
    } else if (!t->path && e->code == ERR_NOTFOUND) {
        return error_set(e, ERR_NOTFOUND,
                         "no watch '%s' in the repository; a folder is named as './%s'", t->name,
                         t->name);
    } else if (!t->path) {
        return e->code;
    } else {
        struct watch_config plain = {.name = t->name, .path = t->path, .sqlite = true};
        error_clear(e);
        rc = specs_build(&plain, c, spec, e);
    }
    if (rc == 0 && t->path) {
        free(spec->root);
        spec->spec.root = spec->root = strdup(t->path);
        rc = spec->root ? 0 : no_memory(e);
    }
    spec->spec.moved = s->wish->moved;
    return rc;
}

static int add_name(struct save_targets *all, const char *name, struct error *e)
{
    struct save_target *grown = realloc(all->list, (all->count + 1) * sizeof(*grown));

    if (!grown)
        return no_memory(e);
    all->list = grown;
    grown[all->count] = (struct save_target){.name = strdup(name)};
    return grown[all->count].name ? (all->count++, 0) : no_memory(e);
}

/* Every configured watch, or where none is, every one on record. */
static int every_watch(struct saver *s, struct save_targets *all, struct error *e)
{
    const struct config *c = s->cli->config;
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->watch_count; i++)
        rc = add_name(all, c->watches[i].name, e);
    if (rc == 0 && all->count == 0)
        rc = catalog_watches(repo_catalog(s->repo), &rows, &count, e);
    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = add_name(all, rows[i].name, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    if (rc == 0 && all->count == 0)
        rc = error_set(e, ERR_USAGE,
                       "no watch is configured: name a folder, as in 'watchkeep save ./data'");
    return rc;
}

/* ---- telling ---- */

/* Add one watch's result to the summary of all. */
static void add_to_total(json_t *total, const json_t *saved)
{
    static const char *const sums[] = {"files_new",      "files_changed",   "files_removed",
                                       "files_excluded", "files_unchanged", "bytes_read",
                                       "bytes_stored"};
    static const char *const latest[] = {"snapshot", "current"};

    for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++)
        json_integer_set(json_object_get(total, sums[i]),
                         (json_int_t)(json_count(total, sums[i]) + json_count(saved, sums[i])));
    for (size_t i = 0; i < 2; i++) {
        json_t *n = json_object_get(saved, latest[i]);
        if (json_is_integer(n))
            json_object_set(total, latest[i], n);
    }
    json_real_set(json_object_get(total, "seconds"),
                  json_number_value(json_object_get(total, "seconds")) +
                      json_number_value(json_object_get(saved, "seconds")));
    if (json_flag(saved, "suspect"))
        json_object_set_new(total, "suspect", json_true());
    json_array_extend(json_object_get(total, "incomplete"), json_object_get(saved, "incomplete"));
    json_array_extend(json_object_get(total, "spoilt"), json_object_get(saved, "spoilt"));
}

static int tell_one(struct saver *s, const char *watch, const struct save_result *r, int code,
                    struct error *e)
{
    struct cli *cli = s->cli;
    json_t *line = s->several ? report_saved(watch, r, code == 3 ? 0 : -code)
                              : report_save_summary(r, NULL, code);
    int rc = line ? 0 : no_memory(e);

    if (rc == 0) {
        tell_incomplete(cli, line, watch);
        if (s->wish->collect) {
            json_object_set_new(line, "watch", report_text(watch));
            json_array_append_new(s->wish->collect, line);
            return 0;
        }
        if (s->several)
            add_to_total(s->total, line);
        if (cli->json)
            return out_json(cli, line, e);
        if (!cli->quiet)
            print_saved(cli, line, watch);
    }
    json_decref(line);
    return rc;
}

static void read_progress(void *ctx, struct progress_view *v)
{
    struct save_progress *p = ctx;

    v->files = p->files_seen;
    v->files_total = p->files_expected;
    v->bytes = p->bytes_read;
}

/* ---- saving ---- */

static int save_spec(struct saver *s, const struct watch_spec *spec, struct save_result *result,
                     struct error *e)
{
    struct rules *rules = NULL;
    int rc = rules_new(spec, &rules, e);

    if (rc != 0)
        return rc;
    memset(&s->progress, 0, sizeof(s->progress));
    struct save_request request = {
        .repo = s->repo,
        .watch = spec,
        .rules = rules,
        .helper = s->helper,
        .kind = SNAPSHOT_MANUAL,
        .name = s->wish->name,
        .note = s->wish->note,
        .accept = s->wish->accept,
        .progress = &s->progress,
        .cancel = interrupt_watch(),
    };
    struct progress *bar = progress_start(s->cli, "saving", read_progress, &s->progress);
    rc = save_run(&request, result, e);
    progress_stop(bar);
    rules_free(rules);
    return rc;
}

/* Once: what no rule keeps, and then the oldest, goes. False: nothing was to be done. */
static bool make_room(struct saver *s)
{
    struct prune_order order = {.config = s->cli->config,
                                .repo = s->repo,
                                .room = repo_free_missing(s->repo),
                                .cancel = interrupt_watch()};
    struct error e = ERROR_INIT;
    json_t *lines = NULL;

    if (order.room == 0 || s->made_room)
        return false;
    s->made_room = true;
    int rc = prune_work(&order, &lines, &e);
    const json_t *summary = json_array_get(lines, json_array_size(lines) - 1);
    json_int_t dropped = json_integer_value(json_object_get(summary, "dropped"));
    if (dropped > 0)
        out_note(s->cli, "%" JSON_INTEGER_FORMAT " old %s dropped to make room", dropped,
                 dropped == 1 ? "snapshot was" : "snapshots were");
    json_decref(lines);
    if (rc != 0)
        out_note(s->cli, "%s", e.message);
    return true;
}

/* The exit code for this watch; its error, if any, is told when there are several. */
static int save_one(struct saver *s, const struct save_target *t, struct error *e)
{
    struct watch_spec_owned spec = {0};
    struct save_result result = {0};
    int rc = spec_of(s, t, &spec, e);

    if (rc == 0)
        rc = save_spec(s, &spec.spec, &result, e);
    if (rc == ERR_NOSPACE && make_room(s)) {
        save_result_release(&result);
        error_clear(e);
        rc = save_spec(s, &spec.spec, &result, e);
    }
    int code = rc != 0 ? error_exit_code(rc) : result.incomplete_total > 0 ? 3 : 0;
    if (rc != 0 && s->several)
        out_error(s->cli, e);
    if (rc == 0 || s->several) {
        struct error telling = ERROR_INIT;
        if (tell_one(s, t->name, &result, code, &telling) != 0) {
            *e = telling;
            rc = telling.code;
        }
    }
    save_result_release(&result);
    specs_release(&spec);
    if (rc == ERR_CANCELLED)
        return rc;
    return rc < 0 && !s->several ? rc : code;
}

static int save_all(struct saver *s, const struct save_targets *targets, struct error *e)
{
    struct save_result nothing = {0};
    int worst = 0;

    s->several = targets->count > 1;
    s->total = report_save_summary(&nothing, NULL, 0);
    for (size_t i = 0; i < targets->count; i++) {
        int code = save_one(s, &targets->list[i], e);
        if (code < 0)
            return code;
        worst = error_worse_exit(worst, code);
    }
    if (s->several && s->cli->json && !s->wish->collect) {
        json_object_set_new(s->total, "exit", json_integer(worst));
        int rc = out_json(s->cli, json_incref(s->total), e);
        return rc != 0 ? rc : worst;
    }
    return worst;
}

/* Without a service nobody else does it: the log is folded when it has grown enough to pay. What
 * has been saved stands, whatever becomes of this. */
static void keep_up(struct repo *r)
{
    const struct upkeep u = {.keep_s = UPKEEP_KEEP_S, .cancel = interrupt_watch()};
    struct error ignored = ERROR_INIT;
    struct upkeep_result done = {0};

    if (!repo_upkeep_due(r))
        return;
    (void)repo_upkeep(r, &u, &done, &ignored);
    log_debug("upkeep: checkpoint_bytes=%" PRIu64 " packs_emptied=%" PRIu64 " bytes_moved=%" PRIu64,
              done.checkpoint_bytes, done.packs_emptied, done.bytes_moved);
}

int save_here(struct cli *cli, struct repo *r, const struct save_targets *targets,
              const struct save_wish *wish, struct error *e)
{
    struct saver s = {.cli = cli, .repo = r, .wish = wish, .helper = sqlite_helper_new(NULL)};
    struct save_targets all = {0};
    int rc = s.helper ? 0 : no_memory(e);

    if (rc == 0 && targets->count == 0)
        rc = every_watch(&s, &all, e);
    if (rc == 0)
        rc = save_all(&s, targets->count ? targets : &all, e);
    if (rc >= 0)
        keep_up(r);
    save_targets_release(&all);
    json_decref(s.total);
    sqlite_helper_free(s.helper);
    return rc;
}
