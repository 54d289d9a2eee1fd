#include "cli/in_place.h"

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"
#include "cli/snapshot_text.h"

#include "base/string_list.h"
#include "base/text.h"
#include "capture/sqlite_capture.h"
#include "snapshot/busy_root.h"
#include "snapshot/report.h"
#include "snapshot/save.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

struct placing {
    struct cli *cli;
    const struct in_place *what;
    struct watch_spec_owned spec;
    struct rules *rules;
    struct repo *repo;
    bool through_service;
    uint8_t watch_id[WATCH_ID_LEN];
    struct restore_record record;
    struct snapshot_row snapshot, base, before, added[2];
    struct restore_progress progress;
    struct live_result result;
};

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot restore in place");
}

int in_place_spec(struct cli *cli, struct repo *r, const char *watch, struct watch_spec_owned *spec,
                  struct error *e)
{
    const struct watch_config *configured = config_watch(cli->config, watch);
    struct watch_row row;

    if (configured)
        return specs_build(configured, cli->config, spec, e);
    int rc = catalog_watch_by_name(repo_catalog(r), watch, &row, e);
    if (rc == 0) {
        rc = specs_from_row(&row, cli->config, spec, e);
        watch_row_release(&row);
    }
    return rc;
}

/* ---- what would change ---- */

static const char *change_word(enum live_change what)
{
    switch (what) {
    case LIVE_ADD:
        return "add";
    case LIVE_REPLACE:
        return "replace";
    case LIVE_METADATA:
        return "metadata";
    default:
        return "remove";
    }
}

static int tell_change(void *ctx, enum live_change what, const char *path, uint8_t type,
                       uint64_t size, struct error *e)
{
    struct cli *cli = ((struct placing *)ctx)->cli;
    char quoted[4200], text[24];

    if (cli->json) {
        json_t *line = json_pack("{s:s,s:s,s:s}", "type", "change", "change", change_word(what),
                                 "kind", report_type_word(type));
        if (!line)
            return no_memory(e);
        report_path(line, "path", path);
        if (type == NODE_FILE && what != LIVE_DELETE)
            json_object_set_new(line, "size", json_integer((json_int_t)size));
        return out_json(cli, line, e);
    }
    if (!cli->quiet)
        printf("%-9s %s%s%s%s\n", change_word(what),
               *path ? text_escape(path, quoted, sizeof(quoted)) : ".",
               type == NODE_FOLDER ? "/" : "", type == NODE_FILE && what != LIVE_DELETE ? "  " : "",
               type == NODE_FILE && what != LIVE_DELETE ? size_text(size, text, sizeof(text)) : "");
    return 0;
}

static void tell_left_out(const struct placing *p)
{
    uint64_t n = p->result.left_out;

    if (n > 0)
        out_note(p->cli, "%llu %s the rules of today leave out: not touched", (unsigned long long)n,
                 n == 1 ? "entry" : "entries");
}

static struct live_request request_of(struct placing *p)
{
    const struct in_place *w = p->what;

    return (struct live_request){
        .repo = p->repo,
        .snapshot = &p->snapshot,
        .from = w->from,
        .into = w->into,
        .path = w->path,
        .only = (const char *const *)w->only,
        .base = &p->base,
        .before = p->before.watch_name ? &p->before : NULL,
        .root = p->spec.spec.root,
        .rules = p->rules,
        .sqlite = p->spec.spec.sqlite,
        .remove = w->remove,
        .added = {w->added[0] && p->added[0].watch_name ? &p->added[0] : NULL,
                  w->added[1] && p->added[1].watch_name ? &p->added[1] : NULL},
        .added_from = w->added_from,
        .added_into = w->added_into,
        .force = w->force,
        .ctx = p,
        .progress = &p->progress,
        .cancel = interrupt_watch(),
    };
}

static int preview(struct placing *p, struct error *e)
{
    struct live_request request = request_of(p);

    request.base = NULL;
    request.change = tell_change;
    int rc = live_preview(&request, &p->result, e);
    if (rc != 0)
        return rc;
    tell_left_out(p);
    const struct live_result *r = &p->result;
    uint64_t all = r->added + r->replaced + r->metadata + r->removed;
    return error_set(e, ERR_REFUSED,
                     all == 0 ? "nothing seems to need a change, and nothing was done: to compare "
                                "all content and restore, give --confirm"
                              : "nothing was done yet: to do this, give --confirm");
}

/* ---- the guard ---- */

static int tell_busy(const struct placing *p, const struct busy_root *b, struct error *e)
{
    const struct busy_process *first = &b->list[0];
    char more[40] = "";

    for (size_t i = 1; i < b->count; i++)
        out_note(p->cli, "process %d (%s) %s: '%s'", (int)b->list[i].pid, b->list[i].command,
                 b->list[i].how, b->list[i].path);
    if (b->total > 1)
        snprintf(more, sizeof(more), ", and %zu more", b->total - 1);
    error_set(e, ERR_REFUSED,
              "process %d (%s) %s: '%s'%s; stop it first, or give --force to restore all the same",
              (int)first->pid, first->command, first->how, first->path, more);
    return error_path(e, first->path);
}

static int check_busy(struct placing *p, pid_t service, struct error *e)
{
    struct busy_root b = {0};

    if (p->what->force)
        return 0;
    int rc = busy_root_look(p->spec.spec.root, service, &b, e);
    if (rc == 0 && b.total > 0)
        rc = tell_busy(p, &b, e);
    else if (rc == 0 && b.hidden > 0)
        out_note(p->cli,
                 "%zu processes of other users could not be looked at: nobody knows what they have "
                 "open",
                 b.hidden);
    busy_root_release(&b);
    return rc;
}

/* ---- the safety snapshot ---- */

static int safety_there(struct placing *p, uint64_t *number, bool *answered, struct error *e)
{
    json_t *request = json_pack("{s:s,s:[{s:s,s:s}],s:b}", "command", "save", "paths", "name",
                                p->what->watch, "path", p->spec.spec.root, "safety", true);
    json_t *doc = NULL;
    int rc = reach_ask(p->cli, request, &doc, answered, e);

    if (rc == 0) {
        tell_not_whole(p->cli, doc, p->what->watch);
        *number = json_count(doc, "snapshot");
        if (*number == 0)
            rc = error_set(e, ERR_FAILED, "the service could not save what stands there");
    }
    json_decref(doc);
    json_decref(request);
    return rc;
}

static void read_saving(void *ctx, struct progress_view *v)
{
    struct save_progress *s = ctx;

    v->files = s->files_seen;
    v->files_total = s->files_expected;
    v->bytes = s->bytes_read;
}

static int safety_here(struct placing *p, uint64_t *number, struct error *e)
{
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    struct save_progress progress = {0};
    struct save_result result = {0};
    struct save_request request = {.repo = p->repo,
                                   .watch = &p->spec.spec,
                                   .rules = p->rules,
                                   .helper = helper,
                                   .kind = SNAPSHOT_SAFETY,
                                   .progress = &progress,
                                   .cancel = interrupt_watch()};

    if (!helper)
        return no_memory(e);
    struct progress *bar = progress_start(p->cli, "saving", read_saving, &progress);
    int rc = save_run(&request, &result, e);
    progress_stop(bar);
    *number = result.snapshot;
    if (rc == 0) {
        json_t *summary = report_save_summary(&result, NULL, 0);
        tell_not_whole(p->cli, summary, p->what->watch);
        json_decref(summary);
    }
    save_result_release(&result);
    sqlite_helper_free(helper);
    return rc;
}

/* The handle read from before that knows nothing of the new snapshot. */
static int open_again(struct placing *p, bool write, struct error *e)
{
    repo_close(p->repo);
    p->repo = NULL;
    return write ? reach_write(p->cli, (unsigned)p->cli->wait_ms, &p->repo, e)
                 : reach_read(p->cli, &p->repo, e);
}

static int make_safety(struct placing *p, uint64_t *number, struct error *e)
{
    bool answered = false;
    int rc = safety_there(p, number, &answered, e);

    p->through_service = answered;
    if (!answered) {
        error_clear(e);
        rc = open_again(p, true, e);
        return rc == 0 ? safety_here(p, number, e) : rc;
    }
    return rc == 0 ? open_again(p, false, e) : rc;
}

/* ---- the record ---- */

static int keep_record(struct placing *p, struct error *e)
{
    char *text;
    json_t *doc = NULL;
    bool answered = true;

    if (!p->through_service)
        return restore_record_put(p->repo, repo_catalog(p->repo), p->watch_id, &p->record, e);
    int rc = restore_record_text(&p->record, &text, e);
    if (rc != 0)
        return rc;
    json_t *request =
        json_pack("{s:s,s:s,s:s}", "command", "record", "watch", p->what->watch, "text", text);
    rc = reach_ask(p->cli, request, &doc, &answered, e);
    json_decref(doc);
    json_decref(request);
    free(text);
    return rc;
}

static int begin(void *ctx, struct error *e)
{
    return keep_record(ctx, e);
}

/* What undo has to look at, as a path below the root: of a folder that is to be made, that one or
 * the first above it that is missing too. malloc'ed. */
static char *touched_path(const struct placing *p)
{
    const struct in_place *w = p->what;
    char *path;

    if (!w->into)
        return strdup(w->path);
    for (const char *at = w->into; *at;) {
        at += strcspn(at, "/");
        struct stat st;
        path = text_format("%s/%.*s", p->spec.spec.root, (int)(at - w->into), w->into);
        bool missing = path && lstat(path, &st) != 0 && errno == ENOENT;
        free(path);
        if (missing)
            return strndup(w->into, (size_t)(at - w->into));
        at += *at == '/';
    }
    if (!*w->into || !*w->path)
        return strdup(*w->into ? w->into : w->path);
    return text_format("%s/%s", w->into, w->path);
}

static char *copy_of(const char *text)
{
    return text ? strdup(text) : NULL;
}

static bool same_paths(char *const *x, char *const *y)
{
    if (!x || !y)
        return !x && !y;
    while (*x && *y && strcmp(*x, *y) == 0) {
        x++;
        y++;
    }
    return !*x && !*y;
}

/* Cut path off behind the part of it that other lies in too. */
static void keep_common(char *path, const char *other)
{
    size_t n = 0;

    for (size_t i = 0; path[i] == other[i] || !path[i] || !other[i]; i++) {
        bool ends = (!path[i] || path[i] == '/') && (!other[i] || other[i] == '/');
        if (ends)
            n = i;
        if (!path[i] || !other[i])
            break;
    }
    path[n] = 0;
}

/* One that is taken back, or that another one follows, is over with that. Where the other one is of
 * another part, the way back is of a part that holds both. */
static int follow(struct placing *p, const struct restore_record *last, bool *cut_off,
                  struct error *e)
{
    struct restore_record *r = &p->record;
    int rc = 0;

    *cut_off = !last->done && last->undo == p->what->undo;
    if (!last->done)
        rc = catalog_snapshot(repo_catalog(p->repo), last->back, &p->before, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    if (!*cut_off)
        return rc;
    r->back = last->back;
    keep_common(r->path, last->path);
    if (!same_paths(r->only, last->only)) {
        *r->path = 0;
        string_list_free(r->only);
        r->only = NULL;
    }
    return rc;
}

/* What this restore will be remembered by. One that was cut off is gone on with: the way back leads
 * to the state before its first change. */
static int make_record(struct placing *p, uint64_t base, bool *cut_off, struct error *e)
{
    const struct in_place *w = p->what;
    struct restore_record last;
    struct restore_record *r = &p->record;

    *r = (struct restore_record){.restored = w->snapshot,
                                 .back = base,
                                 .base = base,
                                 .added = {w->added[0], w->added[1]},
                                 .from = copy_of(w->undo ? w->added_from : w->from),
                                 .into = copy_of(w->undo ? w->added_into : w->into),
                                 .path = touched_path(p),
                                 .undo = w->undo};
    for (char *const *at = w->only; at && *at; at++) {
        if (!string_list_add(&r->only, *at, strlen(*at)))
            return no_memory(e);
    }
    if (!r->path)
        return no_memory(e);
    int rc = restore_record_last(repo_catalog(p->repo), p->watch_id, &last, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    if (rc == 0) {
        rc = follow(p, &last, cut_off, e);
        restore_record_release(&last);
    }
    return rc;
}

/* ---- doing it ---- */

static int find_rows(struct placing *p, uint64_t base, struct error *e)
{
    struct catalog *c = repo_catalog(p->repo);
    int rc = catalog_snapshot(c, p->what->snapshot, &p->snapshot, e);

    if (rc == 0 && base != 0)
        rc = catalog_snapshot(c, base, &p->base, e);
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        if (p->what->added[i] == 0)
            continue;
        rc = catalog_snapshot(c, p->what->added[i], &p->added[i], e);
        if (rc == ERR_NOTFOUND) { /* pruned since: then all goes that was not there */
            error_clear(e);
            rc = 0;
        }
    }
    /* Of the live data, which the snapshot need not be of. */
    if (rc == 0)
        memcpy(p->watch_id, (base != 0 ? &p->base : &p->snapshot)->commit.watch_id, WATCH_ID_LEN);
    return rc;
}

static void release_rows(struct placing *p)
{
    snapshot_row_release(&p->snapshot);
    snapshot_row_release(&p->base);
    snapshot_row_release(&p->before);
    for (size_t i = 0; i < 2; i++)
        snapshot_row_release(&p->added[i]);
    memset(&p->snapshot, 0, sizeof(p->snapshot));
    memset(&p->base, 0, sizeof(p->base));
    memset(&p->before, 0, sizeof(p->before));
    memset(p->added, 0, sizeof(p->added));
}

static void read_progress(void *ctx, struct progress_view *v)
{
    struct restore_progress *r = ctx;

    v->files = r->files_done;
    v->files_total = r->files_total;
    v->bytes = r->bytes_done;
    v->bytes_total = r->bytes_total;
}

static void tell_problems(const struct placing *p)
{
    const struct restore_result *r = &p->result.written;
    char path[600];

    for (size_t i = 0; i < r->problem_count; i++) {
        struct error one = ERROR_INIT;
        error_set(&one, ERR_FAILED, "not restored: '%s': %s",
                  text_escape(r->problems[i].path, path, sizeof(path)), r->problems[i].reason);
        error_path(&one, r->problems[i].path);
        out_error(p->cli, &one);
    }
    for (size_t i = 0; i < r->warning_count; i++)
        out_note(p->cli, "%s", r->warnings[i]);
    tell_left_out(p);
}

static json_t *summary_of(const struct placing *p, int code)
{
    const struct live_result *r = &p->result;
    json_t *o = report_restore_summary(p->what->snapshot, &r->written, code);

    json_object_set_new(o, "in_place", json_true());
    json_object_set_new(o, "safety", json_integer((json_int_t)p->record.base));
    json_object_set_new(o, "added", json_integer((json_int_t)r->added));
    json_object_set_new(o, "replaced", json_integer((json_int_t)r->replaced));
    json_object_set_new(o, "metadata", json_integer((json_int_t)r->metadata));
    json_object_set_new(o, "removed", json_integer((json_int_t)r->removed));
    json_object_set_new(o, "unchanged", json_integer((json_int_t)r->unchanged));
    json_object_set_new(o, "left_out", json_integer((json_int_t)r->left_out));
    return o;
}

static int tell_done(const struct placing *p, int code, struct error *e)
{
    const struct live_result *r = &p->result;
    const char *root = p->spec.spec.root, *into = p->what->into ? p->what->into : "";
    char size[24], quoted[600], below[600];

    tell_problems(p);
    if (p->cli->json)
        return out_json(p->cli, summary_of(p, code), e);
    if (p->cli->quiet)
        return 0;
    text_escape(root, quoted, sizeof(quoted));
    text_escape(into, below, sizeof(below));
    const char *slash = *into ? "/" : "";
    if (!r->begun) {
        if (r->written.skipped > 0)
            printf("nothing was changed in '%s%s%s'\n", quoted, slash, below);
        else
            printf("nothing to change: '%s%s%s' is as in snapshot %llu\n", quoted, slash, below,
                   (unsigned long long)p->what->snapshot);
        return 0;
    }
    printf(
        "restored snapshot %llu over '%s%s%s': %llu added, %llu replaced, %llu removed, %s (%.3f "
        "s)\nwhat stood there before is snapshot %llu; to take this back: watchkeep undo "
        "--confirm\n",
        (unsigned long long)p->what->snapshot, quoted, slash, below, (unsigned long long)r->added,
        (unsigned long long)r->replaced, (unsigned long long)r->removed,
        size_text(r->written.bytes, size, sizeof(size)), r->written.seconds,
        (unsigned long long)p->record.back);
    return 0;
}

static void tell_half_way(const struct placing *p)
{
    if (p->result.begun && !p->result.written.finished)
        out_note(p->cli,
                 "the restore stopped on its way: run the same command again to finish it, or "
                 "'watchkeep undo --confirm' to go back to snapshot %llu",
                 (unsigned long long)p->record.back);
}

/* It is over; one that was cut off behind its last change is so too. */
static int end_record(struct placing *p, bool cut_off, struct error *e)
{
    if (!p->result.begun && !cut_off)
        return 0;
    p->record.done = true;
    return keep_record(p, e);
}

static int restore(struct placing *p, bool cut_off, struct error *e)
{
    struct live_request request = request_of(p);
    struct error why = ERROR_INIT;

    request.begin = begin;
    struct progress *bar = progress_start(p->cli, "restoring", read_progress, &p->progress);
    int rc = live_restore(&request, &p->result, &why);
    progress_stop(bar);
    if (rc != 0 && !p->result.written.finished) {
        tell_half_way(p);
        *e = why;
        return rc;
    }
    int ended = end_record(p, cut_off, e);
    if (ended != 0)
        return ended;
    int code = rc != 0 ? error_exit_code(rc) : p->result.written.skipped > 0 ? 3 : 0;
    rc = tell_done(p, code, e);
    if (code > 3 || code == 1)
        out_error(p->cli, &why);
    return rc != 0 ? rc : code;
}

static int confirmed(struct placing *p, struct error *e)
{
    char *socket = reach_service(p->cli);
    pid_t service = socket ? client_process(socket) : 0;
    bool cut_off = false;
    uint64_t base = 0;

    free(socket);
    int rc = check_busy(p, service, e);
    if (rc == 0)
        rc = make_safety(p, &base, e);
    release_rows(p);
    if (rc == 0)
        rc = find_rows(p, base, e);
    if (rc == 0)
        rc = make_record(p, base, &cut_off, e);
    return rc == 0 ? restore(p, cut_off, e) : rc;
}

/* A root that is gone may be one that is not mounted: it is not for us to make. */
static int check_root(const struct placing *p, struct error *e)
{
    const char *root = p->spec.spec.root;
    struct stat st;
    char quoted[300];

    if (stat(root, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return error_set(e, ERR_NOTFOUND,
                     "root '%s' of watch '%s' is not there: mount or make it first, or restore to "
                     "another folder with --to",
                     text_escape(root, quoted, sizeof(quoted)), p->what->watch);
}

int in_place(struct cli *cli, const struct in_place *what, struct error *e)
{
    struct placing p = {.cli = cli, .what = what};
    int rc = reach_read(cli, &p.repo, e);

    if (rc == 0)
        rc = in_place_spec(cli, p.repo, what->watch, &p.spec, e);
    if (rc == 0)
        rc = check_root(&p, e);
    if (rc == 0)
        rc = rules_new(&p.spec.spec, &p.rules, e);
    if (rc == 0)
        rc = find_rows(&p, 0, e);
    if (rc == 0)
        rc = what->confirm ? confirmed(&p, e) : preview(&p, e);
    live_result_release(&p.result);
    restore_record_release(&p.record);
    release_rows(&p);
    rules_free(p.rules);
    specs_release(&p.spec);
    repo_close(p.repo);
    return rc;
}
