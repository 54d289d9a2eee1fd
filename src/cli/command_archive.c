/* Save the watches first, through the service or here, as `save` does; then archive what that save
 * made or found, through the same service or here. */
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reach.h"
#include "cli/save_here.h"

#include "base/parse.h"
#include "base/text.h"
#include "keep/archive_report.h"
#include "service/archives.h"
#include "snapshot/report.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { NAME, META };
static const struct command_flag flags[] = {
    {"name", 0, "NAME", "a manual archive of that name; without it one named by the time"},
    {"meta", 0, "KEY=VALUE", "an entry of 'app' in metadata.json; may be repeated"},
    {NULL, 0, NULL, NULL},
};
enum { META_LEN_MAX = 4096 };

struct archiving {
    struct cli *cli;
    json_t *lines; /* "archived" lines so far */
    struct archive_progress progress;
    struct progress *bar;
    int worst;
};

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot archive");
}

static void read_progress(void *ctx, struct progress_view *v)
{
    struct archive_progress *p = ctx;

    v->files = p->files;
    v->files_total = p->files_total;
    v->bytes = p->bytes;
    v->bytes_total = p->bytes_total;
}

/* ---- telling ---- */

static int tell_archived(struct archiving *a, const json_t *line, struct error *e)
{
    struct cli *cli = a->cli;
    char path[4200], bytes[24], stored[24];
    size_t i;
    json_t *left;

    json_array_append(a->lines, (json_t *)(uintptr_t)line);
    json_array_foreach(json_object_get(line, "left_out"), i, left) out_note(
        cli, "not in the archive: '%s': %s",
        text_escape(json_text(left, "path"), path, sizeof(path)), json_text(left, "reason"));
    if (cli->json)
        return out_json(cli, json_deep_copy(line), e);
    if (!cli->quiet)
        printf("archived snapshot %llu of %s: '%s' (%llu %s, %s; %s stored, %.3f s)%s\n",
               (unsigned long long)json_count(line, "snapshot"), json_text(line, "watch"),
               text_escape(json_text(line, "path"), path, sizeof(path)),
               (unsigned long long)json_count(line, "files"),
               json_count(line, "files") == 1 ? "file" : "files",
               size_text(json_count(line, "bytes"), bytes, sizeof(bytes)),
               size_text(json_count(line, "stored_bytes"), stored, sizeof(stored)),
               json_number_value(json_object_get(line, "seconds")),
               *json_text(line, "verified") ? ", verified" : "");
    return 0;
}

/* ---- through the service ---- */

static int take_line(void *ctx, const json_t *line, struct error *e)
{
    struct archiving *a = ctx;
    const char *type = json_text(line, "type");
    struct error told = ERROR_INIT;

    if (strcmp(type, "progress") == 0) {
        a->progress.files = json_count(line, "files");
        a->progress.bytes = json_count(line, "bytes");
        a->progress.bytes_total = json_count(line, "bytes_total");
        return 0;
    }
    progress_stop(a->bar);
    a->bar = NULL;
    if (strcmp(type, "archived") == 0)
        return tell_archived(a, line, e);
    if (take_error_line(line, &told))
        out_error(a->cli, &told);
    else if (strcmp(type, "summary") == 0)
        a->worst = error_worse_exit(a->worst, (int)json_count(line, "exit"));
    return 0;
}

static json_t *request_of(const struct archiving *a, const json_t *numbers)
{
    json_t *meta = json_array();

    for (size_t i = 0; a->cli->repeated[i]; i++)
        json_array_append_new(meta, report_text(a->cli->repeated[i]));
    return json_pack("{s:s,s:O,s:s?,s:o,s:b}", "command", "archive", "snapshots", numbers, "name",
                     a->cli->given[NAME], "meta", meta, "progress", progress_wanted(a->cli));
}

/* *there: something listened. */
static int archive_there(struct archiving *a, const char *socket, const json_t *numbers,
                         bool *there, struct error *e)
{
    struct cli *cli = a->cli;
    json_t *request = request_of(a, numbers);
    int rc;

    interrupt_at_once(true, cli->json, "interrupted here; the service goes on with the archive");
    a->bar = progress_start(cli, "archiving", read_progress, &a->progress);
    rc = request ? client_request(socket, request, cli->wait_ms, take_line, a, e) : no_memory(e);
    progress_stop(a->bar);
    a->bar = NULL;
    interrupt_at_once(false, false, NULL);
    json_decref(request);
    *there = rc != ERR_NOTFOUND || json_array_size(a->lines) > 0;
    return rc;
}

/* ---- here ---- */

static int archive_one(struct archiving *a, struct repo *r, struct sqlite_helper *helper,
                       uint64_t number, struct error *e)
{
    struct archive_result result = {0};
    struct snapshot_row s = {0};
    int rc = catalog_snapshot(repo_catalog(r), number, &s, e);

    if (rc != 0)
        return rc;
    struct archive_order order = {
        .snapshot = &s,
        .name = a->cli->given[NAME],
        .meta = a->cli->repeated,
        .helper = helper,
        .progress = &a->progress,
        .cancel = interrupt_watch(),
    };
    archives_order(a->cli->config, s.watch_name, &order);
    a->bar = progress_start(a->cli, "archiving", read_progress, &a->progress);
    rc = archive_write(r, &order, &result, e);
    progress_stop(a->bar);
    a->bar = NULL;
    int code = rc != 0 ? error_exit_code(rc) : result.item.complete ? 0 : 3;
    if (result.item.path) {
        struct error telling = ERROR_INIT;
        json_t *line = archive_report_written(&result, code);
        int told = line ? tell_archived(a, line, &telling) : no_memory(&telling);
        json_decref(line);
        if (rc == 0 && told != 0) {
            *e = telling;
            rc = told;
        }
    }
    archive_result_release(&result);
    snapshot_row_release(&s);
    a->worst = error_worse_exit(a->worst, code);
    return rc;
}

/* An archive is made in large pieces of many lengths. Left to itself the C library keeps them, with
 * holes between; so each goes back when it is free. */
static void return_large_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 4 * 1024 * 1024);
}

static int archive_here(struct archiving *a, const json_t *numbers, struct error *e)
{
    struct sqlite_helper *helper = sqlite_helper_new(NULL);
    struct repo *r = NULL;
    size_t i;
    json_t *n;
    int rc = helper ? reach_read(a->cli, &r, e) : no_memory(e);

    return_large_memory();
    json_array_foreach(numbers, i, n)
    {
        if (rc != 0)
            break;
        rc = archive_one(a, r, helper, (uint64_t)json_integer_value(n), e);
        if (rc != 0 && rc != ERR_CANCELLED && rc != ERR_CATALOG && json_array_size(numbers) > 1) {
            out_error(a->cli, e);
            error_clear(e);
            rc = 0;
        }
    }
    repo_close(r);
    sqlite_helper_free(helper);
    return rc;
}

/* ---- the whole ---- */

/* The snapshots that the save made or found, of the watches that could be saved. */
static json_t *saved_numbers(const json_t *saved)
{
    json_t *numbers = json_array();
    size_t i;
    json_t *line;

    json_array_foreach(saved, i, line)
    {
        int code = (int)json_count(line, "exit");
        if (json_count(line, "current") > 0 && (code == 0 || code == 3))
            json_array_append(numbers, json_object_get(line, "current"));
    }
    return numbers;
}

static int archive_all(struct archiving *a, const json_t *numbers, struct error *e)
{
    bool there = false;
    char *socket = reach_service(a->cli);
    int rc = 0;

    if (socket)
        rc = archive_there(a, socket, numbers, &there, e);
    free(socket);
    if (there)
        return rc;
    error_clear(e);
    return archive_here(a, numbers, e);
}

static int check_meta(const struct cli *cli, struct error *e)
{
    char quoted[200];

    for (const char *const *given = cli->repeated; *given; given++) {
        const char *equals = strchr(*given, '=');
        if (!equals || equals == *given || strlen(*given) > META_LEN_MAX ||
            !text_utf8_ok(*given, strlen(*given)))
            return error_set(e, ERR_USAGE, "'%s' is not KEY=VALUE (UTF-8, at most %d bytes)",
                             text_escape(*given, quoted, sizeof(quoted)), META_LEN_MAX);
    }
    return 0;
}

static int check_name(const char *name, struct error *e)
{
    char quoted[200];

    if (!name || parse_name_ok(name))
        return 0;
    return error_set(e, ERR_USAGE,
                     "'%s' cannot be the name of an archive: 1 to 64 letters, digits, '.', '_' and "
                     "'-', not all digits, no reserved word",
                     text_escape(name, quoted, sizeof(quoted)));
}

static int run(struct cli *cli, struct error *e)
{
    struct archiving a = {.cli = cli, .lines = json_array()};
    struct save_targets targets = {0};
    struct save_wish wish = {.collect = json_array()};
    json_t *numbers = NULL;
    int rc = check_name(cli->given[NAME], e);

    if (rc == 0)
        rc = check_meta(cli, e);
    if (rc == 0)
        rc = save_targets_take(cli, &targets, e);
    if (rc == 0)
        rc = save_somewhere(cli, &targets, &wish, e);
    if (rc >= 0) {
        a.worst = rc;
        numbers = saved_numbers(wish.collect);
        rc = numbers ? archive_all(&a, numbers, e) : no_memory(e);
    }
    if (rc == 0 && cli->json)
        rc = out_json(cli, archive_report_summary(a.lines, a.worst), e);
    json_decref(numbers);
    json_decref(a.lines);
    json_decref(wish.collect);
    save_targets_release(&targets);
    return rc != 0 ? rc : a.worst;
}

const struct command command_archive = {
    .name = "archive",
    .operands = "[WATCH...]",
    .summary = "write a self-contained archive now",
    .max_operands = -1,
    .flags = flags,
    .repeats = "meta",
    .lines = true,
    .about =
        "Saves first, as `save` does, then writes that state as a tar.gz (or a plain folder, as\n"
        "the configuration says) that tar, gzip and cp read without this program, and reads it\n"
        "back. With --name it is a manual one, that only you remove.",
    .run = run,
};
