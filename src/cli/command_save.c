/* Through the service that runs on the repository, else with the repository in our own hands. */
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"
#include "cli/save_here.h"
#include "cli/snapshot_text.h"

#include "base/clock.h"
#include "base/parse.h"
#include "base/text.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { NAME, NOTE, MOVED, ACCEPT };
static const struct command_flag flags[] = {
    {"name", 0, "NAME", "give the snapshot a name; it is made even if nothing changed"},
    {"note", 0, "TEXT", "and a note"},
    {"moved", 0, NULL, "the watch's root has moved: go on with its history"},
    {"accept", 0, NULL,
     "that hardly a file is left is right, or that a file is empty, broken or short"},
    {NULL, 0, NULL, NULL},
};
enum { LOCK_SLICE_MS = 250 };

/* ---- through the service ---- */

struct through {
    struct cli *cli;
    const char *watch; /* when only one was asked for */
    json_t *collect;   /* as in struct save_wish */
    atomic_uint_least64_t files, files_total, bytes, bytes_total;
    struct progress *bar;
    int code;  /* of the summary */
    bool told; /* "saved" or error lines came */
    bool answered;
};

static void read_progress(void *ctx, struct progress_view *v)
{
    struct through *t = ctx;

    v->files = t->files;
    v->files_total = t->files_total;
    v->bytes = t->bytes;
    v->bytes_total = t->bytes_total;
}

static void take_progress(struct through *t, const json_t *line)
{
    t->files = json_count(line, "files");
    t->files_total = json_count(line, "files_total");
    t->bytes = json_count(line, "bytes");
    t->bytes_total = json_count(line, "bytes_total");
}

static void stop_bar(struct through *t)
{
    progress_stop(t->bar);
    t->bar = NULL;
}

static int take_result(struct through *t, const json_t *line, const char *watch, struct error *e)
{
    stop_bar(t);
    tell_incomplete(t->cli, line, watch);
    if (t->collect) {
        json_array_append_new(t->collect, json_deep_copy(line));
        return 0;
    }
    if (t->cli->json)
        return out_json(t->cli, json_deep_copy(line), e);
    if (!t->cli->quiet)
        print_saved(t->cli, line, watch);
    return 0;
}

/* Of one watch it is also the result; behind "saved" lines or errors it says nothing new. */
static int take_summary(struct through *t, const json_t *line, struct error *e)
{
    t->code = (int)json_count(line, "exit");
    if (!t->told)
        return take_result(t, line, t->watch, e);
    return t->cli->json && !t->collect ? out_json(t->cli, json_deep_copy(line), e) : 0;
}

static int take_line(void *ctx, const json_t *line, struct error *e)
{
    struct through *t = ctx;
    const char *type = json_text(line, "type");
    struct error told = ERROR_INIT;

    t->answered = true;
    if (strcmp(type, "progress") == 0) {
        take_progress(t, line);
    } else if (strcmp(type, "saved") == 0) {
        t->told = true;
        return take_result(t, line, json_text(line, "watch"), e);
    } else if (take_error_line(line, &told)) {
        stop_bar(t);
        out_error(t->cli, &told);
        t->told = true;
    } else if (strcmp(type, "summary") == 0) {
        return take_summary(t, line, e);
    }
    return 0;
}

/* Names alone as "watches"; with any path in it all as "paths". */
static json_t *targets_json(const struct cli *cli, const struct save_targets *targets, bool paths)
{
    json_t *list = json_array();

    for (size_t i = 0; i < targets->count; i++) {
        const struct save_target *t = &targets->list[i];
        const struct watch_config *w = config_watch(cli->config, t->name);
        const char *path = t->path ? t->path : w ? w->path : NULL;
        if (paths)
            json_array_append_new(list, json_pack("{s:s,s:s?}", "name", t->name, "path", path));
        else
            json_array_append_new(list, json_string(t->name));
    }
    return list;
}

static json_t *request_of(const struct cli *cli, const struct save_targets *targets,
                          const struct save_wish *wish)
{
    bool paths = false;
    json_t *r = json_pack("{s:s,s:s?,s:s?,s:b,s:b,s:b}", "command", "save", "name", wish->name,
                          "note", wish->note, "moved", wish->moved, "accept", wish->accept,
                          "progress", progress_wanted(cli));

    for (size_t i = 0; i < targets->count; i++)
        paths = paths || targets->list[i].path;
    if (targets->count == 0)
        json_object_set_new(r, "watches", json_null());
    else
        json_object_set_new(r, paths ? "paths" : "watches", targets_json(cli, targets, paths));
    return r;
}

/* The exit code; *answered is false when nothing listened there. */
static int save_there(struct cli *cli, const char *socket, const struct save_targets *targets,
                      const struct save_wish *wish, bool *answered, struct error *e)
{
    struct through t = {.cli = cli,
                        .watch = targets->count == 1 ? targets->list[0].name : NULL,
                        .collect = wish->collect};
    json_t *request = request_of(cli, targets, wish);
    int rc;

    interrupt_watch();
    interrupt_at_once(true, cli->json,
                      "interrupted here; the service goes on with the save and finishes it");
    t.bar = progress_start(cli, "saving", read_progress, &t);
    rc = request ? client_request(socket, request, cli->wait_ms, take_line, &t, e)
                 : error_sys(e, ENOMEM, "cannot ask the service");
    progress_stop(t.bar);
    interrupt_at_once(false, false, NULL);
    json_decref(request);
    *answered = t.answered || rc != ERR_NOTFOUND;
    return rc != 0 ? rc : t.code;
}

/* ---- which of the two ---- */

/* Whoever holds the repository may become a service that listens: look again while waiting. */
int save_somewhere(struct cli *cli, const struct save_targets *targets,
                   const struct save_wish *wish, struct error *e)
{
    const atomic_bool *cancel = interrupt_watch();
    uint64_t begin = clock_mono_ns();
    struct repo *r = NULL;
    int rc;

    for (;;) {
        uint64_t waited_ms = (clock_mono_ns() - begin) / 1000000;
        uint64_t left_ms = waited_ms < cli->wait_ms ? cli->wait_ms - waited_ms : 0;
        bool answered = false;
        char *socket = reach_service(cli);
        if (socket)
            rc = save_there(cli, socket, targets, wish, &answered, e);
        free(socket);
        if (answered)
            return rc;
        error_clear(e);
        rc = reach_write(cli, (unsigned)(left_ms < LOCK_SLICE_MS ? left_ms : LOCK_SLICE_MS), &r, e);
        if (rc != ERR_BUSY || left_ms == 0)
            break;
        if (atomic_load(cancel))
            return error_set(e, ERR_CANCELLED, "interrupted");
    }
    if (rc == 0)
        rc = save_here(cli, r, targets, wish, e);
    repo_close(r);
    return rc;
}

static int check_wish(const struct save_wish *wish, struct error *e)
{
    char quoted[200];

    if (wish->name && !parse_name_ok(wish->name))
        return error_set(e, ERR_USAGE,
                         "'%s' cannot be the name of a snapshot: 1 to 64 letters, digits, '.', '_' "
                         "and '-', not all digits, no reserved word",
                         text_escape(wish->name, quoted, sizeof(quoted)));
    if (wish->note && !text_utf8_ok(wish->note, strlen(wish->note)))
        return error_set(e, ERR_USAGE, "the note is not UTF-8");
    if (wish->note && strlen(wish->note) > 4096)
        return error_set(e, ERR_USAGE, "the note is longer than 4096 bytes");
    return 0;
}

static int run(struct cli *cli, struct error *e)
{
    struct save_targets targets = {0};
    struct save_wish wish = {.name = cli->given[NAME],
                             .note = cli->given[NOTE],
                             .moved = cli->given[MOVED] != NULL,
                             .accept = cli->given[ACCEPT] != NULL};
    int rc = check_wish(&wish, e);

    if (rc == 0)
        rc = save_targets_take(cli, &targets, e);
    if (rc == 0)
        rc = save_somewhere(cli, &targets, &wish, e);
    save_targets_release(&targets);
    return rc;
}

const struct command command_save = {
    .name = "save",
    .operands = "[WATCH|[NAME=]PATH...]",
    .summary = "save now; returns when it is durable",
    .max_operands = -1,
    .flags = flags,
    .lines = true,
    .about = "Without an argument every configured watch is saved. With a service running it does\n"
             "the saving, and every change made before the call is in it.",
    .run = run,
};
