#include "cli/status_here.h"

#include "cli/output.h"
#include "cli/reach.h"
#include "service/status.h"
#include "snapshot/report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

static bool listed(const json_t *doc, const char *name)
{
    size_t i;
    json_t *w;

    json_array_foreach(json_object_get(doc, "watches"), i, w)
    {
        if (strcmp(json_text(w, "name"), name) == 0)
            return true;
    }
    return false;
}

/* Nothing watches it now: at best its folder is there. */
static void add_watch(json_t *doc, const struct config *c, const char *name, const char *root)
{
    struct stat st;
    bool missing = stat(root, &st) != 0 && (errno == ENOENT || errno == ENOTDIR);
    const char *state = missing ? "missing" : "degraded";
    char message[1200];

    if (listed(doc, name))
        return;
    json_t *w = json_pack("{s:o,s:s,s:s,s:i,s:i,s:i,s:n,s:n,s:n,s:n,s:n,s:n}", "name",
                          report_text(name), "root", "", "state", state, "snapshots", 0, "verified",
                          0, "good", 0, "last_snapshot", "last_change", "last_checked", "lag_ms",
                          "next_archive", "last_archive");
    report_path(w, "root", root);
    status_archives_in(w, config_text(c, "archive", name, "path"));
    json_array_append_new(json_object_get(doc, "watches"), w);
    if (!missing)
        return;
    snprintf(message, sizeof(message), "the folder is not there: '%s'", root);
    status_problem(doc, "missing", name, (struct wall_time){0}, message, STATUS_DO_MISSING);
}

static json_t *skeleton(const struct config *c)
{
    json_t *doc = json_pack(
        "{s:i,s:b,s:{s:b,s:n,s:n,s:n},s:[],s:{s:s,s:n,s:n,s:n,s:n,s:n,s:i,s:n,s:n},s:[],s:[]}",
        "schema", 1, "ok", false, "service", "running", false, "pid", "since", "version", "watches",
        "repository", "path", "", "id", "bytes", "free_bytes", "free_percent", "snapshots",
        "archives", 0, "last_verify", "restore_seconds", "problems", "events");

    if (!doc)
        return NULL;
    report_path(json_object_get(doc, "repository"), "path", c->repository);
    return doc;
}

static void tell_absent(json_t *doc)
{
    status_problem(doc, "not-running", NULL, (struct wall_time){0}, "the service does not run",
                   "systemctl start watchkeep, or watchkeep run");
}

static void tell_silent(struct cli *cli, json_t *doc, const struct error *silent)
{
    char *socket = reach_service(cli);
    int pid = socket ? client_process(socket) : 0;
    json_t *service = json_object_get(doc, "service");
    char what[200];

    json_object_set_new(service, "running", json_true());
    if (pid > 0)
        json_object_set_new(service, "pid", json_integer(pid));
    snprintf(what, sizeof(what),
             "ps -o stat,wchan %d: T is stopped (kill -CONT %d), D waits for a disk; else see its "
             "log and restart it",
             pid, pid);
    status_problem(doc, "not-answering", NULL, (struct wall_time){0}, silent->message,
                   pid > 0 ? what : "see its log, and restart it");
    free(socket);
}

/* Configured watches first, then those that are only on record. */
static int add_watches(json_t *doc, const struct config *c, struct repo *r, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < c->watch_count; i++)
        add_watch(doc, c, c->watches[i].name, c->watches[i].path);
    for (size_t i = 0; i < count; i++) {
        add_watch(doc, c, rows[i].name, rows[i].root);
        watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}

int status_here(struct cli *cli, const struct error *silent, json_t **out, struct error *e)
{
    struct repo *r = NULL;
    json_t *doc = NULL;
    int rc = reach_read(cli, &r, e);

    if (rc == 0) {
        doc = skeleton(cli->config);
        if (doc && silent)
            tell_silent(cli, doc, silent);
        else if (doc)
            tell_absent(doc);
        rc = doc ? add_watches(doc, cli->config, r, e)
                 : error_sys(e, ENOMEM, "cannot tell the status");
    }
    repo_close(r);
    if (rc == 0)
        rc = status_add_repository(doc, cli->config->repository, cli->config, e);
    if (rc != 0) {
        json_decref(doc);
        return rc;
    }
    status_finish(doc);
    *out = doc;
    return 0;
}
