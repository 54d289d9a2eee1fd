#include "cli/archive_source.h"

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/table.h"

#include "base/text.h"
#include "config/places.h"
#include "keep/archive_report.h"
#include "keep/archive_use.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- which archive ---- */

/* The folder for all, then those of single watches where they differ. */
int archive_operand(struct cli *cli, const char *text, struct archive_item *item, char **path,
                    struct error *e)
{
    int rc = cli_config(cli, e);

    if (rc != 0)
        return rc;
    const struct config *c = cli->config;
    rc = archive_resolve(text, config_text(c, "archive", cli->watch, "path"), cli->watch, item,
                         path, e);
    for (size_t i = 0; rc == ERR_NOTFOUND && i < c->watch_count; i++) {
        const char *name = c->watches[i].name;
        if (cli->watch && strcmp(cli->watch, name) != 0)
            continue;
        archive_item_release(item);
        error_clear(e);
        rc = archive_resolve(text, config_text(c, "archive", name, "path"), name, item, path, e);
    }
    return rc;
}

/* ---- show ---- */

static void line(struct table *t, const char *what, const char *text)
{
    if (!*text)
        return;
    table_cell(t, PAINT_BOLD, what);
    table_cell(t, PAINT_NONE, text);
}

static void print_databases(const json_t *doc)
{
    char path[4200];
    size_t i;
    json_t *d;

    if (json_array_size(json_object_get(doc, "databases")) > 0)
        printf("\ndatabases:\n");
    json_array_foreach(json_object_get(doc, "databases"), i, d)
        printf("  '%s': %llu tables, %llu rows, integrity %s\n",
               text_escape(json_text(d, "path"), path, sizeof(path)),
               (unsigned long long)json_count(d, "tables"),
               (unsigned long long)json_count(d, "rows"), json_text(d, "integrity"));
}

static int print_show(struct cli *cli, const json_t *doc, struct error *e)
{
    char text[200], time[32], size[24], stored[24];
    struct table *t = table_new("ll", NULL);

    line(t, "archive", json_text(doc, "name"));
    line(t, "watch", json_text(doc, "watch"));
    snprintf(text, sizeof(text), "%llu", (unsigned long long)json_count(doc, "snapshot"));
    line(t, "snapshot", text);
    snprintf(text, sizeof(text), "%s (%s)", json_local_time(doc, "time", time, sizeof(time)),
             json_text(doc, "kind"));
    line(t, "made", text);
    snprintf(text, sizeof(text), "%llu %s, %s; %s as %s",
             (unsigned long long)json_count(doc, "files"),
             json_count(doc, "files") == 1 ? "file" : "files",
             size_text(json_count(doc, "bytes"), size, sizeof(size)),
             size_text(json_count(doc, "stored_bytes"), stored, sizeof(stored)),
             json_text(doc, "format"));
    line(t, "holds", text);
    line(t, "verified",
         json_flag(doc, "damaged")     ? "no: damage was found"
         : *json_text(doc, "verified") ? json_local_time(doc, "verified", time, sizeof(time))
                                       : "not yet");
    line(t, "path", json_text(doc, "path"));
    int rc = table_print(t, cli, e);
    table_free(t);
    print_databases(doc);
    return rc;
}

int archive_show(struct cli *cli, const char *text, struct error *e)
{
    struct archive_item item = {0};
    char *path = NULL;
    json_t *doc = NULL;
    int rc = archive_operand(cli, text, &item, &path, e);

    if (rc == 0 && path)
        rc = error_set(e, ERR_USAGE, "'%s' names a path: show takes an archive", text);
    if (rc == 0)
        rc = archive_report_show(&item, &doc, e);
    if (rc == 0)
        rc = out_document(cli, doc, print_show, e);
    free(path);
    archive_item_release(&item);
    return rc;
}

/* ---- restore ---- */

void read_restore_progress(void *ctx, struct progress_view *v)
{
    struct restore_progress *p = ctx;

    v->files = p->files_done;
    v->files_total = p->files_total;
    v->bytes = p->bytes_done;
    v->bytes_total = p->bytes_total;
}

void tell_restore_problems(const struct cli *cli, const struct restore_result *r)
{
    char path[600];

    for (size_t i = 0; i < r->problem_count; i++) {
        struct error p = ERROR_INIT;
        error_set(&p, ERR_DAMAGED, "not restored: '%s': %s",
                  text_escape(r->problems[i].path, path, sizeof(path)), r->problems[i].reason);
        error_path(&p, r->problems[i].path);
        out_error(cli, &p);
    }
    for (size_t i = 0; i < r->warning_count; i++)
        out_note(cli, "%s", r->warnings[i]);
}

static int refuse_root(const char *target, const char *name, const char *root, struct error *e)
{
    char quoted[300];

    if (!place_inside(target, root) && !place_inside(root, target))
        return 0;
    return error_set(e, ERR_REFUSED,
                     "'%s' is, holds or lies in the root of watch '%s', which is live data: "
                     "restore to another folder",
                     text_escape(target, quoted, sizeof(quoted)), name);
}

/* The roots that are known; the repository may be gone. */
static int check_target(struct cli *cli, const char *target, struct error *e)
{
    const struct config *c = cli->config;
    struct error ignored = ERROR_INIT;
    struct watch_row *rows = NULL;
    struct repo *r = NULL;
    size_t count = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->watch_count; i++)
        rc = refuse_root(target, c->watches[i].name, c->watches[i].path, e);
    if (rc == 0 && place_inside(target, c->repository))
        rc = error_set(e, ERR_REFUSED, "'%s' lies in the repository: restore to another folder",
                       target);
    if (rc == 0 && repo_exists(c->repository) && reach_read(cli, &r, &ignored) == 0 &&
        catalog_watches(repo_catalog(r), &rows, &count, &ignored) != 0)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = refuse_root(target, rows[i].name, rows[i].root, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    repo_close(r);
    return rc;
}

static int tell_restored(struct cli *cli, const struct archive_item *item,
                         const struct restore_result *r, int code, const char *target,
                         struct error *e)
{
    char size[24], quoted[600];

    tell_restore_problems(cli, r);
    if (cli->json) {
        json_t *summary = report_restore_summary(item->snapshot, r, code);
        if (summary)
            json_object_set_new(summary, "archive", report_text(item->name));
        return out_json(cli, summary, e);
    }
    if (!cli->quiet)
        printf("restored archive %s to '%s': %llu %s, %s (%.3f s)\n", item->name,
               text_escape(target, quoted, sizeof(quoted)), (unsigned long long)r->files,
               r->files == 1 ? "file" : "files", size_text(r->bytes, size, sizeof(size)),
               r->seconds);
    return 0;
}

static int restore_item(struct cli *cli, const struct archive_item *item, const char *path,
                        const char *target, bool overwrite, struct error *e)
{
    struct restore_progress progress = {0};
    struct restore_result result = {0};
    struct error why = ERROR_INIT;
    struct restore_request request = {.path = path,
                                      .target = target,
                                      .overwrite = overwrite,
                                      .progress = &progress,
                                      .cancel = interrupt_watch()};

    struct progress *bar = progress_start(cli, "restoring", read_restore_progress, &progress);
    int rc = archive_restore(item, &request, &result, &why);
    progress_stop(bar);
    if (rc != 0 && !result.finished) {
        *e = why;
    } else {
        int code = rc != 0 ? error_exit_code(rc) : result.skipped > 0 ? 3 : 0;
        rc = tell_restored(cli, item, &result, code, target, e);
        if (code > 3)
            out_error(cli, &why);
        rc = rc != 0 ? rc : code;
    }
    restore_result_release(&result);
    return rc;
}

int archive_restore_operand(struct cli *cli, const char *target, bool overwrite, struct error *e)
{
    struct archive_item item = {0};
    char *path = NULL;
    int rc = archive_operand(cli, cli->operands[0], &item, &path, e);

    if (rc == 0)
        rc = check_target(cli, target, e);
    if (rc == 0)
        rc = restore_item(cli, &item, path ? path : "", target, overwrite, e);
    free(path);
    archive_item_release(&item);
    return rc;
}

/* ---- verify ---- */

struct verifying {
    struct cli *cli;
    struct sqlite_helper *helper;
    struct archive_check sum;
    json_t *damaged;
};

static int verify_one(struct verifying *v, const char *text, struct error *e)
{
    struct archive_check check = {0};
    struct archive_item item = {0};
    char *path = NULL;
    int rc = archive_operand(v->cli, text, &item, &path, e);

    if (rc == 0 && path)
        rc = error_set(e, ERR_USAGE, "'%s' names a path: verify takes whole archives", text);
    if (rc == 0)
        rc = archive_verify(&item, true, v->helper, interrupt_watch(), &check, e);
    if (rc == ERR_DENIED && check.files > 0) { /* read, but NAME.json may not be written */
        out_note(v->cli, "the result is not recorded: %s", e->message);
        error_clear(e);
        rc = 0;
    }
    if (rc == 0) {
        v->sum.files += check.files;
        v->sum.bytes += check.bytes;
        v->sum.databases += check.databases;
        v->sum.errors += check.errors;
        if (check.errors > 0)
            json_array_append_new(v->damaged,
                                  json_pack("{s:o,s:o,s:o}", "archive", report_text(item.name),
                                            "path", report_text(item.path), "reason",
                                            report_text(check.first ? check.first : "")));
    }
    archive_check_release(&check);
    archive_item_release(&item);
    free(path);
    return rc;
}

static int tell_verified(struct verifying *v, struct error *e)
{
    struct cli *cli = v->cli;
    char size[24];
    size_t i;
    json_t *d;

    if (cli->json) {
        json_t *summary = json_pack(
            "{s:s,s:i,s:I,s:I,s:I,s:I,s:O,s:i}", "type", "summary", "archives", cli->operand_count,
            "files", (json_int_t)v->sum.files, "bytes", (json_int_t)v->sum.bytes, "databases",
            (json_int_t)v->sum.databases, "errors", (json_int_t)v->sum.errors, "damaged",
            v->damaged, "exit", v->sum.errors ? 4 : 0);
        int rc = out_json(cli, summary, e);
        if (rc != 0)
            return rc;
    } else {
        json_array_foreach(v->damaged, i, d)
            printf("damaged: archive '%s': %s\n", json_text(d, "archive"), json_text(d, "reason"));
        if (!cli->quiet && v->sum.errors == 0)
            printf("no damage: %d %s, %llu files, %llu databases, %s read\n", cli->operand_count,
                   cli->operand_count == 1 ? "archive" : "archives",
                   (unsigned long long)v->sum.files, (unsigned long long)v->sum.databases,
                   size_text(v->sum.bytes, size, sizeof(size)));
    }
    if (v->sum.errors == 0)
        return 0;
    return error_set(e, ERR_DAMAGED, "verification found damage (%zu of %d archives)",
                     json_array_size(v->damaged), cli->operand_count);
}

int archive_verify_operands(struct cli *cli, struct error *e)
{
    struct verifying v = {.cli = cli, .helper = sqlite_helper_new(NULL), .damaged = json_array()};
    int rc = v.helper && v.damaged ? 0 : error_sys(e, ENOMEM, "cannot verify");

    for (int i = 0; rc == 0 && i < cli->operand_count; i++) {
        if (!archive_is_meant(cli->operands[i]))
            rc = error_set(e, ERR_USAGE, "'%s' is no archive: verify archives and snapshots apart",
                           cli->operands[i]);
        else
            rc = verify_one(&v, cli->operands[i], e);
    }
    if (rc == 0)
        rc = tell_verified(&v, e);
    json_decref(v.damaged);
    sqlite_helper_free(v.helper);
    return rc;
}
