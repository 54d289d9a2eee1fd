#include "cli/commands.h"
#include "cli/event_text.h"
#include "cli/reach.h"
#include "cli/snapshot_text.h"
#include "cli/table.h"

#include "base/clock.h"
#include "base/parse.h"
#include "service/archives.h"
#include "snapshot/report.h"

#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { ARCHIVES, RECENT, SINCE, UNTIL, ALL };
static const struct command_flag flags[] = {
    {"archives", 0, NULL, "archives instead of snapshots"},
    {"recent", 0, "N", "only the newest N"},
    {"since", 0, "TIME", "not older than TIME"},
    {"until", 0, "TIME", "not newer than TIME"},
    {"all", 0, NULL, "all of them (on a terminal: the newest 30 unless asked otherwise)"},
    {NULL, 0, NULL, NULL},
};
enum { ON_TERMINAL = 30, EVENTS_SHOWN = 10 };

static int take_filter(const struct cli *cli, struct list_filter *f, struct error *e)
{
    int64_t now = clock_wall().s;
    int rc = 0;

    f->watch = cli->operand_count ? cli->operands[0] : cli->watch;
    if (cli->operand_count && cli->watch && strcmp(cli->operands[0], cli->watch) != 0)
        return error_set(e, ERR_USAGE, "two different watches: '%s' and '%s'", cli->operands[0],
                         cli->watch);
    if (cli->given[RECENT])
        rc = parse_u64(cli->given[RECENT], &f->recent, e);
    else if (!cli->json && !cli->given[ALL] && !cli->given[SINCE] && !cli->given[UNTIL] &&
             isatty(STDOUT_FILENO))
        f->recent = ON_TERMINAL;
    if (rc == 0 && cli->given[RECENT] && f->recent == 0)
        rc = error_set(e, ERR_USAGE, "'--recent 0' would list nothing");
    if (rc == 0 && cli->given[SINCE]) {
        f->has_since = true;
        rc = parse_time(cli->given[SINCE], now, &f->since, e);
    }
    if (rc == 0 && cli->given[UNTIL]) {
        f->has_until = true;
        rc = parse_time(cli->given[UNTIL], now, &f->until, e);
    }
    return rc;
}

static json_t *request_of(const struct list_filter *f, bool archives)
{
    json_t *r = json_pack("{s:s,s:s?,s:I}", "command", "list", "watch", f->watch, "recent",
                          (json_int_t)f->recent);

    if (archives)
        json_object_set_new(r, "archives", json_true());
    json_object_set_new(r, "since", f->has_since ? json_integer(f->since) : json_null());
    json_object_set_new(r, "until", f->has_until ? json_integer(f->until) : json_null());
    return r;
}

static void print_row(struct table *t, const json_t *s)
{
    char time[32], size[24], stored[24], marks[100];
    const char *note = json_text(s, "note");

    snapshot_flags(s, marks, sizeof(marks));
    table_cellf(t, PAINT_BOLD, "%llu", (unsigned long long)json_count(s, "id"));
    table_cell(t, PAINT_NONE, json_text(s, "watch"));
    table_cell(t, PAINT_NONE, json_local_time(s, "time", time, sizeof(time)));
    table_cell(t, PAINT_NONE, json_text(s, "kind"));
    table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(s, "files"));
    table_cell(t, PAINT_NONE, size_text(json_count(s, "bytes"), size, sizeof(size)));
    table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(s, "changed"));
    table_cell(t, PAINT_NONE, size_text(json_count(s, "stored_bytes"), stored, sizeof(stored)));
    table_cell(t, PAINT_GREEN, json_text(s, "name"));
    table_cell(t, PAINT_YELLOW, marks);
    table_cell(t, PAINT_DIM, note);
}

static int print_list(struct cli *cli, const json_t *doc, struct error *e)
{
    static const char *const heads[] = {"ID",      "WATCH",  "TIME", "KIND",  "FILES", "SIZE",
                                        "CHANGED", "STORED", "NAME", "MARKS", "NOTE"};
    struct table *t = table_new("rlllrrrrlll", heads);
    size_t i;
    json_t *s;

    json_array_foreach(json_object_get(doc, "snapshots"), i, s) print_row(t, s);
    int rc = table_print(t, cli, e);
    table_free(t);
    if (json_array_size(json_object_get(doc, "snapshots")) == 0)
        out_note(cli, "no snapshots");
    if (rc == 0)
        print_events(json_object_get(doc, "events"), EVENTS_SHOWN);
    return rc;
}

/* ---- archives ---- */

static void print_archive(struct table *t, const json_t *a)
{
    char time[32], size[24], stored[24];

    table_cell(t, PAINT_BOLD, json_text(a, "name"));
    table_cell(t, PAINT_NONE, json_text(a, "watch"));
    table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(a, "snapshot"));
    table_cell(t, PAINT_NONE, json_local_time(a, "time", time, sizeof(time)));
    table_cell(t, PAINT_NONE, json_text(a, "kind"));
    table_cell(t, PAINT_NONE, json_text(a, "format"));
    table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(a, "files"));
    table_cell(t, PAINT_NONE, size_text(json_count(a, "bytes"), size, sizeof(size)));
    table_cell(t, PAINT_NONE, size_text(json_count(a, "stored_bytes"), stored, sizeof(stored)));
    table_cell(t, json_flag(a, "damaged") ? PAINT_RED : PAINT_YELLOW,
               json_flag(a, "damaged")                         ? "damaged"
               : json_is_null(json_object_get(a, "verified"))  ? "not verified"
               : json_is_false(json_object_get(a, "complete")) ? "incomplete"
                                                               : "");
}

static int print_archives(struct cli *cli, const json_t *doc, struct error *e)
{
    static const char *const heads[] = {"NAME",   "WATCH", "SNAPSHOT", "TIME",   "KIND",
                                        "FORMAT", "FILES", "SIZE",     "STORED", "MARKS"};
    struct table *t = table_new("llrlllrrrl", heads);
    size_t i;
    json_t *a;

    json_array_foreach(json_object_get(doc, "archives"), i, a) print_archive(t, a);
    int rc = table_print(t, cli, e);
    table_free(t);
    if (json_array_size(json_object_get(doc, "archives")) == 0)
        out_note(cli, "no archives");
    return rc;
}

/* Needs no repository: the folders of the archives tell. */
static int list_archives(struct cli *cli, const struct list_filter *f, struct error *e)
{
    struct archives_filter filter = {.watch = f->watch,
                                     .recent = f->recent,
                                     .has_since = f->has_since,
                                     .has_until = f->has_until,
                                     .since = f->since,
                                     .until = f->until};
    json_t *doc = NULL;
    int rc = cli_config(cli, e);

    if (rc == 0)
        rc = archives_report(cli->config, &filter, &doc, e);
    if (rc == ERR_DENIED) {
        json_t *request = request_of(f, true);
        rc = reach_fallback(cli, rc, request, &doc, e);
        json_decref(request);
    }
    return rc == 0 ? out_document(cli, doc, print_archives, e) : rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct list_filter f = {0};
    struct repo *r = NULL;
    json_t *doc = NULL;
    int rc = take_filter(cli, &f, e);

    if (rc != 0)
        return rc;
    if (cli->given[ARCHIVES])
        return list_archives(cli, &f, e);
    rc = reach_read(cli, &r, e);
    if (rc == 0) {
        rc = report_list(r, &f, &doc, e);
    } else {
        json_t *request = request_of(&f, false);
        rc = reach_fallback(cli, rc, request, &doc, e);
        json_decref(request);
    }
    repo_close(r);
    return rc == 0 ? out_document(cli, doc, print_list, e) : rc;
}

const struct command command_list = {
    .name = "list",
    .operands = "[WATCH]",
    .summary = "snapshots, or archives, newest last",
    .max_operands = 1,
    .flags = flags,
    .run = run,
};
