#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/reach.h"
#include "cli/snapshot_text.h"
#include "cli/table.h"

#include "base/text.h"
#include "keep/archive_read.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CHANGES_FOR_PEOPLE = 200, CHANGES_MAX = 10000 };

static void line(struct table *t, const char *what, const char *text)
{
    if (!*text)
        return;
    table_cell(t, PAINT_BOLD, what);
    table_cell(t, PAINT_NONE, text);
}

static void print_head(struct table *t, const json_t *s)
{
    char text[200], time[32], size[24], stored[24], marks[100];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)json_count(s, "id"));
    line(t, "snapshot", text);
    line(t, "watch", json_text(s, "watch"));
    line(t, "name", json_text(s, "name"));
    line(t, "note", json_text(s, "note"));
    snprintf(text, sizeof(text), "%s (%s)", json_local_time(s, "time", time, sizeof(time)),
             json_text(s, "kind"));
    line(t, "made", text);
    snprintf(text, sizeof(text), "%llu %s, %s; %s stored for it in %.3f s",
             (unsigned long long)json_count(s, "files"),
             json_count(s, "files") == 1 ? "file" : "files",
             size_text(json_count(s, "bytes"), size, sizeof(size)),
             size_text(json_count(s, "stored_bytes"), stored, sizeof(stored)),
             json_number_value(json_object_get(s, "seconds")));
    line(t, "holds", text);
    line(t, "complete", json_flag(s, "complete") ? "yes" : "no");
    line(t, "verified",
         *json_text(s, "verified") ? json_local_time(s, "verified", time, sizeof(time))
                                   : "not yet");
    line(t, "good",
         json_flag(s, "good")                        ? "yes"
         : json_is_false(json_object_get(s, "good")) ? "no"
                                                     : "not known yet");
    line(t, "gap", json_text(s, "gap"));
    snapshot_flags(s, marks, sizeof(marks));
    line(t, "marks", marks);
}

static void print_paths(const json_t *s, const char *key, const char *count, const char *title,
                        const char *between)
{
    const json_t *list = json_object_get(s, key);
    size_t i;
    json_t *entry;
    char path[4200];

    if (json_array_size(list) > 0)
        printf("\n%s:\n", title);
    json_array_foreach(list, i, entry)
    {
        if (i == CHANGES_FOR_PEOPLE) {
            printf("  ... and %llu more\n", (unsigned long long)(json_count(s, count) - i));
            break;
        }
        printf("  '%s'%s %s\n", text_escape(json_text(entry, "path"), path, sizeof(path)), between,
               json_text(entry, "reason"));
    }
}

static void print_changes(const json_t *s)
{
    const json_t *changes = json_object_get(s, "changes");
    size_t i;
    json_t *c;
    char path[4200];

    json_array_foreach(changes, i, c)
    {
        if (i == CHANGES_FOR_PEOPLE) {
            printf("  ... and %zu more (--json shows them)\n", json_array_size(changes) - i);
            break;
        }
        printf("  %-9s %s\n", json_text(c, "change"),
               text_escape(json_text(c, "path"), path, sizeof(path)));
    }
}

static int print_show(struct cli *cli, const json_t *s, struct error *e)
{
    struct table *t = table_new("ll", NULL);

    print_head(t, s);
    int rc = table_print(t, cli, e);
    table_free(t);
    print_paths(s, "incomplete_paths", "incomplete", "not whole", ":");
    print_paths(s, "spoilt_paths", "spoilt", "not good, since", "");
    if (json_array_size(json_object_get(s, "changes")) > 0) {
        printf("\nchanges since the one before:\n");
        print_changes(s);
    }
    return rc;
}

static int show_here(struct repo *r, struct cli *cli, json_t **doc, struct error *e)
{
    struct snapshot_row row = {0};
    char *path = NULL;
    int rc = selector_resolve(r, cli->operands[0], cli->watch, &row, &path, e);

    if (rc == 0 && path)
        rc = error_set(e, ERR_USAGE, "'%s' names a path: show takes a snapshot", cli->operands[0]);
    if (rc == 0)
        rc = report_show(r, &row, CHANGES_MAX, doc, e);
    free(path);
    snapshot_row_release(&row);
    return rc;
}

static int run(struct cli *cli, struct error *e)
{
    struct repo *r = NULL;
    json_t *doc = NULL;

    if (archive_is_meant(cli->operands[0]))
        return archive_show(cli, cli->operands[0], e);
    int rc = reach_read(cli, &r, e);

    if (rc == 0) {
        rc = show_here(r, cli, &doc, e);
    } else {
        json_t *request = json_pack("{s:s,s:s,s:s?}", "command", "show", "snapshot",
                                    cli->operands[0], "watch", cli->watch);
        rc = reach_fallback(cli, rc, request, &doc, e);
        json_decref(request);
    }
    repo_close(r);
    return rc == 0 ? out_document(cli, doc, print_show, e) : rc;
}

const struct command command_show = {
    .name = "show",
    .operands = "SNAPSHOT",
    .summary = "one snapshot: when, why, what changed, whether it is whole",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
