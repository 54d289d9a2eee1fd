#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/table.h"

#include "service/prune_work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { DRY_RUN, THAW };
static const struct command_flag flags[] = {
    {"dry-run", 'n', NULL, "only tell what would be kept and dropped, and why"},
    {"thaw", 0, NULL, "lift what has frozen pruning: all is as it should be"},
    {NULL, 0, NULL, NULL},
};

static void print_summary(const struct cli *cli, const json_t *s)
{
    uint64_t before = json_count(s, "bytes_before"), after = json_count(s, "bytes_after");
    const char *dropped = cli->given[DRY_RUN] ? "would be dropped" : "dropped";
    char size[24], more[24];

    printf("%llu kept, %llu %s", (unsigned long long)json_count(s, "kept"),
           (unsigned long long)json_count(s, "dropped"), dropped);
    if (json_count(s, "archives_kept") + json_count(s, "archives_dropped") > 0)
        printf("; archives: %llu kept, %llu %s", (unsigned long long)json_count(s, "archives_kept"),
               (unsigned long long)json_count(s, "archives_dropped"), dropped);
    printf("; the repository has %s%s\n", size_text(after, size, sizeof(size)),
           after < before ? ", less than before" : "");
    if (json_count(s, "too_large") > 0)
        printf("it is %s larger than wanted: nothing more may go but what the floor, pins and "
               "names keep\n",
               size_text(json_count(s, "too_large"), more, sizeof(more)));
}

/* Where it failed before anything was looked at there is nothing to sum up. */
static int print_lines(const struct cli *cli, const json_t *lines, bool failed, struct error *e)
{
    struct table *t = table_new("lrlll", NULL);
    char time[32];
    size_t i;
    json_t *line;

    json_array_foreach(lines, i, line)
    {
        bool keep = json_flag(line, "keep");
        if (strcmp(json_text(line, "type"), "decision") != 0)
            continue;
        table_cell(t, keep ? PAINT_GREEN : PAINT_YELLOW, keep ? "keep" : "drop");
        if (json_is_string(json_object_get(line, "archive")))
            table_cell(t, PAINT_NONE, json_text(line, "archive"));
        else
            table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(line, "id"));
        table_cell(t, PAINT_NONE, json_text(line, "watch"));
        table_cell(t, PAINT_NONE,
                   json_count(line, "id") ? json_local_time(line, "time", time, sizeof(time)) : "");
        table_cell(t, PAINT_NONE, json_text(line, "reason"));
    }
    int rc = table_print(t, cli, e);
    table_free(t);
    if (!failed || json_array_size(lines) > 1)
        print_summary(cli, json_array_get(lines, json_array_size(lines) - 1));
    return rc;
}

static int print(struct cli *cli, const json_t *lines, bool failed, struct error *e)
{
    int rc = 0;
    size_t i;
    json_t *line;

    if (!cli->json)
        return cli->quiet ? 0 : print_lines(cli, lines, failed, e);
    json_array_foreach(lines, i, line)
    {
        if (rc == 0)
            rc = out_json(cli, json_incref(line), e);
    }
    return rc;
}

/* ---- through the service ---- */

struct through {
    json_t *lines;
    struct error error; /* what the service said was wrong */
    bool ended;
};

static int take_line(void *ctx, const json_t *line, struct error *e)
{
    struct through *t = ctx;
    const char *type = json_text(line, "type");

    if (!take_error_line(line, &t->error) && strcmp(type, "working") != 0)
        json_array_append_new(t->lines, json_deep_copy(line));
    t->ended |= strcmp(type, "summary") == 0;
    return 0;
}

/* 1: nobody answered. */
static int prune_there(struct cli *cli, json_t **lines, struct error *e)
{
    struct through t = {.lines = json_array(), .error = ERROR_INIT};
    char *socket = reach_service(cli);
    json_t *request =
        json_pack("{s:s,s:s?,s:b,s:b}", "command", "prune", "watch", cli->watch, "dry_run",
                  cli->given[DRY_RUN] != NULL, "thaw", cli->given[THAW] != NULL);
    int rc = 1;

    if (socket && request) {
        interrupt_watch();
        interrupt_at_once(true, cli->json, NULL);
        rc = client_request(socket, request, cli->wait_ms, take_line, &t, e);
        interrupt_at_once(false, false, NULL);
    }
    free(socket);
    json_decref(request);
    if (rc == ERR_NOTFOUND && json_array_size(t.lines) == 0 && !t.error.code)
        rc = 1;
    if (rc == 0 && t.error.code) {
        *e = t.error;
        rc = e->code;
    } else if (rc == 0 && !t.ended) {
        rc = error_set(e, ERR_FAILED, "the service gave no answer");
    }
    *lines = t.lines;
    return rc;
}

/* ---- here ---- */

static int prune_here(struct cli *cli, json_t **lines, struct error *e)
{
    struct repo *r = NULL;
    int rc = cli->given[DRY_RUN] ? reach_read(cli, &r, e)
                                 : reach_write(cli, (unsigned)cli->wait_ms, &r, e);

    if (rc == 0) {
        const struct prune_order order = {.config = cli->config,
                                          .repo = r,
                                          .watch = cli->watch,
                                          .dry_run = cli->given[DRY_RUN] != NULL,
                                          .thaw = cli->given[THAW] != NULL,
                                          .cancel = interrupt_watch()};
        rc = prune_work(&order, lines, e);
    }
    repo_close(r);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct error telling = ERROR_INIT;
    json_t *lines = NULL;
    int rc = cli_config(cli, e);

    if (rc == 0)
        rc = prune_there(cli, &lines, e);
    if (rc == 1) {
        json_decref(lines);
        lines = NULL;
        error_clear(e);
        rc = prune_here(cli, &lines, e);
    }
    int told = json_array_size(lines) > 0 ? print(cli, lines, rc != 0, &telling) : 0;
    json_decref(lines);
    if (rc == 0 && told != 0) {
        *e = telling;
        rc = told;
    }
    return rc;
}

const struct command command_prune = {
    .name = "prune",
    .operands = "",
    .summary = "apply retention now: drop what no rule keeps",
    .flags = flags,
    .lines = true,
    .about = "Never dropped: what is pinned or named, the three newest good snapshots of a watch,\n"
             "and the newest good one of each of the three latest days that have one.",
    .run = run,
};
