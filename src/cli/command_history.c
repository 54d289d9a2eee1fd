#include "cli/commands.h"
#include "cli/reach.h"
#include "cli/table.h"

#include "base/text.h"
#include "config/keys.h"
#include "config/places.h"
#include "snapshot/compare.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct subject {
    char *watch, *path; /* inside the watch */
};

/* "/x" and "./x" lie in the live file system, everything else inside the snapshots. */
static bool lives_outside(const char *path)
{
    return *path == '/' || strncmp(path, "./", 2) == 0 || strcmp(path, ".") == 0;
}

/* The watch with the deepest root that holds the path. */
static const struct watch_row *holder(const struct watch_row *rows, size_t count, const char *path,
                                      const char *only)
{
    const struct watch_row *best = NULL;

    for (size_t i = 0; i < count; i++) {
        if ((!only || strcmp(only, rows[i].name) == 0) && place_inside(path, rows[i].root) &&
            (!best || strlen(rows[i].root) > strlen(best->root)))
            best = &rows[i];
    }
    return best;
}

/* The folder of the path is resolved, its last part (which may be a link itself) is not. */
static int live_subject(const struct watch_row *rows, size_t count, const char *arg,
                        const char *only, struct subject *s, struct error *e)
{
    char *path = config_clean_path(arg);
    const struct watch_row *w = path ? holder(rows, count, path, only) : NULL;
    int rc = 0;

    if (!path) {
        rc = error_sys(e, errno, "cannot find '%s'", arg);
    } else if (!w) {
        rc = error_set(e, ERR_NOTFOUND, "'%s' lies in no watch of this repository", path);
    } else {
        size_t len = strlen(w->root);
        bool literal = strncmp(path, w->root, len) == 0 && (path[len] == '/' || !path[len]);
        char *inside = literal ? strdup(path + len) : place_below(path, w->root);
        s->watch = strdup(w->name);
        rc = inside ? selector_path(inside, &s->path, e)
                    : error_sys(e, ENOMEM, "cannot find '%s'", arg);
        free(inside);
    }
    free(path);
    return rc;
}

static int inner_subject(const struct watch_row *rows, size_t count, const struct cli *cli,
                         struct subject *s, struct error *e)
{
    const char *name = cli->watch ? cli->watch : count == 1 ? rows[0].name : NULL;

    if (count == 0)
        return error_set(e, ERR_NOTFOUND, "there is no snapshot yet");
    if (!name)
        return error_set(e, ERR_USAGE,
                         "'%s' could be in any of %zu watches: say which with -w WATCH, or give an "
                         "absolute path",
                         cli->operands[0], count);
    s->watch = strdup(name);
    return selector_path(cli->operands[0], &s->path, e);
}

static int find_subject(const struct cli *cli, struct repo *r, struct subject *s, struct error *e)
{
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    if (rc != 0)
        return rc;
    rc = lives_outside(cli->operands[0])
             ? live_subject(rows, count, cli->operands[0], cli->watch, s, e)
             : inner_subject(rows, count, cli, s, e);
    for (size_t i = 0; i < count; i++)
        watch_row_release(&rows[i]);
    free(rows);
    if (rc == 0 && !s->watch)
        rc = error_sys(e, ENOMEM, "cannot find '%s'", cli->operands[0]);
    return rc;
}

static int visit(void *ctx, const struct history_entry *h, struct error *e)
{
    return json_array_append_new(ctx, report_history_entry(h)) == 0
               ? 0
               : error_set(e, ERR_FAILED, "no memory for the versions");
}

static int print_versions(struct cli *cli, const json_t *versions, struct error *e)
{
    static const char *const heads[] = {"FROM", "NEWEST", "TIME", "SIZE", "MODIFIED", "PATH"};
    struct table *t = table_new("rrlrll", heads);
    char size[24], time[32], modified[32];
    size_t i;
    json_t *v;

    json_array_foreach(versions, i, v)
    {
        table_cellf(t, PAINT_BOLD, "%llu", (unsigned long long)json_count(v, "from"));
        table_cellf(t, PAINT_BOLD, "%llu", (unsigned long long)json_count(v, "id"));
        table_cell(t, PAINT_NONE, json_local_time(v, "time", time, sizeof(time)));
        table_cell(t, PAINT_NONE, size_text(json_count(v, "size"), size, sizeof(size)));
        table_cell(t, PAINT_NONE, json_local_time(v, "mtime", modified, sizeof(modified)));
        table_cell(t, PAINT_NONE, json_text(v, "path"));
    }
    int rc = table_print(t, cli, e);
    table_free(t);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct subject s = {0};
    struct repo *r = NULL;
    json_t *versions = json_array();
    int rc = reach_read(cli, &r, e);

    if (rc == 0)
        rc = find_subject(cli, r, &s, e);
    if (rc == 0)
        rc = history_run(r, s.watch, s.path, visit, versions, e);
    if (rc == 0 && cli->json) {
        json_t *doc = json_pack("{s:i,s:s}", "schema", 1, "watch", s.watch);
        report_path(doc, "path", s.path);
        json_object_set(doc, "versions", versions);
        rc = out_json(cli, doc, e);
    } else if (rc == 0) {
        rc = print_versions(cli, versions, e);
    }
    json_decref(versions);
    repo_close(r);
    free(s.watch);
    free(s.path);
    return rc;
}

const struct command command_history = {
    .name = "history",
    .operands = "PATH",
    .summary = "every kept version of one file",
    .min_operands = 1,
    .max_operands = 1,
    .about = "PATH is absolute, begins with ./, or counts from the watch's root.",
    .run = run,
};
