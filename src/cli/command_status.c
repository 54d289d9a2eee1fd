#include "cli/commands.h"
#include "cli/event_text.h"
#include "cli/reach.h"
#include "cli/status_here.h"
#include "cli/table.h"

#include <errno.h>
#include <string.h>

#include "base/banned.h"

/* Who asks how things stand wants to hear it soon. */
enum { ANSWER_MAX_MS = 10000, EVENTS_SHOWN = 5 };

static void print_service(const json_t *doc)
{
    const json_t *service = json_object_get(doc, "service");
    const json_t *repository = json_object_get(doc, "repository");
    char since[32], bytes[24], free_bytes[24];

    if (json_flag(service, "running") && !*json_text(service, "since"))
        printf("service     does not answer\n");
    else if (json_flag(service, "running"))
        printf("service     runs (process %llu, since %s, version %s)\n",
               (unsigned long long)json_count(service, "pid"),
               json_local_time(service, "since", since, sizeof(since)),
               json_text(service, "version"));
    else
        printf("service     does not run\n");
    uint64_t snapshots = json_count(repository, "snapshots");
    if (!json_is_string(json_object_get(repository, "id"))) {
        printf("repository  %s: cannot be read\n", json_text(repository, "path"));
        return;
    }
    printf("repository  %s: %llu %s, %s; %s free (%.0f %%)\n", json_text(repository, "path"),
           (unsigned long long)snapshots, snapshots == 1 ? "snapshot" : "snapshots",
           size_text(json_count(repository, "bytes"), bytes, sizeof(bytes)),
           size_text(json_count(repository, "free_bytes"), free_bytes, sizeof(free_bytes)),
           json_number_value(json_object_get(repository, "free_percent")));
}

static void print_archives(const json_t *doc)
{
    uint64_t count = json_count(json_object_get(doc, "repository"), "archives");
    const char *next = "";
    const json_t *soonest = NULL;
    char time[32];
    size_t i;
    json_t *w;

    json_array_foreach(json_object_get(doc, "watches"), i, w)
    {
        const char *at = json_text(w, "next_archive");
        if (*at && (!*next || strcmp(at, next) < 0)) {
            next = at;
            soonest = w;
        }
    }
    if (count > 0)
        printf("archives    %llu", (unsigned long long)count);
    else if (*next)
        printf("archives    none yet");
    if (*next)
        printf("; the next %s", json_local_time(soonest, "next_archive", time, sizeof(time)));
    if (count > 0 || *next)
        printf("\n");
}

/* "verified 2026-11-21 05:00:00; a full restore takes 12 s", as far as it is known. */
static void print_proof(const json_t *doc)
{
    const json_t *repository = json_object_get(doc, "repository");
    const json_t *seconds = json_object_get(repository, "restore_seconds");
    char time[32];

    if (json_is_string(json_object_get(repository, "last_verify")))
        printf("verified    %s", json_local_time(repository, "last_verify", time, sizeof(time)));
    else if (json_is_number(seconds))
        printf("verified    not yet");
    if (json_is_number(seconds))
        printf("; a restore of all takes %.1f s", json_number_value(seconds));
    if (json_is_string(json_object_get(repository, "last_verify")) || json_is_number(seconds))
        printf("\n");
}

static enum paint state_paint(const char *state)
{
    if (strcmp(state, "watching") == 0)
        return PAINT_GREEN;
    return strcmp(state, "missing") == 0 ? PAINT_RED : PAINT_YELLOW;
}

static int print_watches(struct cli *cli, const json_t *doc, struct error *e)
{
    static const char *const heads[] = {"WATCH",         "STATE",        "SNAPSHOTS", "GOOD",
                                        "LAST SNAPSHOT", "LAST CHECKED", "LAG",       "ROOT"};
    struct table *t = table_new("llrrllrl", heads);
    char time[32];
    size_t i;
    json_t *w;

    json_array_foreach(json_object_get(doc, "watches"), i, w)
    {
        table_cell(t, PAINT_BOLD, json_text(w, "name"));
        table_cell(t, state_paint(json_text(w, "state")), json_text(w, "state"));
        table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(w, "snapshots"));
        table_cellf(t, PAINT_NONE, "%llu", (unsigned long long)json_count(w, "good"));
        table_cell(t, PAINT_NONE, json_local_time(w, "last_snapshot", time, sizeof(time)));
        table_cell(t, PAINT_NONE, json_local_time(w, "last_checked", time, sizeof(time)));
        if (json_is_integer(json_object_get(w, "lag_ms")))
            table_cellf(t, PAINT_NONE, "%llu ms", (unsigned long long)json_count(w, "lag_ms"));
        else
            table_cell(t, PAINT_NONE, "");
        table_cell(t, PAINT_NONE, json_text(w, "root"));
    }
    if (json_array_size(json_object_get(doc, "watches")) > 0)
        printf("\n");
    int rc = table_print(t, cli, e);
    table_free(t);
    return rc;
}

static void print_problems(const struct cli *cli, const json_t *doc)
{
    size_t i;
    json_t *p;
    char since[32];

    json_array_foreach(json_object_get(doc, "problems"), i, p)
    {
        bool known = json_is_string(json_object_get(p, "since"));
        const char *watch = json_text(p, "watch");
        printf("%s%s%s%s%s%s", i ? "" : "\n", out_paint(cli, stdout, PAINT_RED), watch,
               *watch ? ": " : "", json_text(p, "message"), out_paint(cli, stdout, PAINT_NONE));
        if (known)
            printf(" (since %s)", json_local_time(p, "since", since, sizeof(since)));
        printf("\n");
        if (*json_text(p, "do"))
            printf("  do: %s\n", json_text(p, "do"));
    }
}

/* A mistake in the file keeps nobody from looking at the service, which runs with what was before.
 */
static int status_config(struct cli *cli, struct error *e)
{
    struct config_flags flags = {
        .file = cli->config_file, .repository = cli->repository, .lenient = true};
    int rc = cli_config(cli, e);

    if (rc != ERR_USAGE || config_load(&flags, &cli->config, &(struct error)ERROR_INIT) != 0)
        return rc;
    out_note(cli, "%s", e->message);
    error_clear(e);
    return 0;
}

/* A service that ends while it is asked has not answered: there is none then, or another. */
static int ask_service(struct cli *cli, json_t *request, json_t **doc, struct error *e)
{
    int rc = reach_document(cli, request, doc, e);

    if (rc != ERR_FAILED)
        return rc;
    error_clear(e);
    return reach_document(cli, request, doc, e);
}

static int run(struct cli *cli, struct error *e)
{
    json_t *request = json_pack("{s:s}", "command", "status");
    json_t *doc = NULL;
    int rc = status_config(cli, e);

    if (cli->wait_ms > ANSWER_MAX_MS)
        cli->wait_ms = ANSWER_MAX_MS;
    if (rc == 0)
        rc = request ? ask_service(cli, request, &doc, e)
                     : error_sys(e, ENOMEM, "cannot ask the service");
    json_decref(request);
    if (rc == ERR_NOTFOUND || rc == ERR_BUSY) {
        struct error silent = *e;
        error_clear(e);
        rc = status_here(cli, rc == ERR_BUSY ? &silent : NULL, &doc, e);
        if (rc == ERR_DENIED && silent.code == ERR_BUSY)
            rc = error_set(e, ERR_BUSY, "%s", silent.message);
    }
    if (rc != 0)
        return rc;
    int code = !json_flag(json_object_get(doc, "service"), "running")  ? 8
               : json_array_size(json_object_get(doc, "problems")) > 0 ? 7
                                                                       : 0;
    if (cli->json) {
        rc = out_json(cli, doc, e);
    } else {
        if (!cli->quiet) {
            print_service(doc);
            print_archives(doc);
            print_proof(doc);
            rc = print_watches(cli, doc, e);
        }
        print_problems(cli, doc);
        if (!cli->quiet)
            print_events(json_object_get(doc, "events"), EVENTS_SHOWN);
        json_decref(doc);
    }
    return rc != 0 ? rc : code;
}

const struct command command_status = {
    .name = "status",
    .operands = "",
    .summary = "the service, each watch, space, and what is wrong",
    .about =
        "Exits 0 when all is well, 7 when something is wrong, 8 when the service does not run.",
    .run = run,
};
