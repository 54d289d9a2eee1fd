#include "cli/archive_source.h"
#include "cli/commands.h"
#include "cli/reach.h"
#include "cli/table.h"

#include "base/buffer.h"
#include "base/text.h"
#include "keep/archive_use.h"
#include "snapshot/report.h"
#include "snapshot/selector.h"
#include "snapshot/tree.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct listing {
    const struct cli *cli;
    const char *top;     /* of an archive: what is asked for */
    json_t *entries;     /* with --json */
    struct table *table; /* with -v */
    struct buffer lines; /* else */
};

static void print_long(struct table *t, const json_t *entry)
{
    char size[24], time[32];

    table_cell(t, PAINT_NONE, json_text(entry, "mode"));
    table_cell(t, PAINT_NONE, json_text(entry, "type"));
    table_cell(t, PAINT_NONE, size_text(json_count(entry, "size"), size, sizeof(size)));
    table_cell(t, PAINT_NONE, json_local_time(entry, "mtime", time, sizeof(time)));
}

/* "" for what is whole. */
static void not_whole_text(const json_t *entry, char *out, size_t cap)
{
    const char *reason = json_text(entry, "reason");

    out[0] = 0;
    if (*reason)
        snprintf(out, cap, "(not whole: %s)", reason);
}

static int visit(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct listing *l = ctx;
    struct node_brief brief;
    char line[4200], mark[400];
    int rc = node_brief_decode(t->meta, t->meta_len, &brief, e);

    if (rc != 0)
        return rc;
    bool folder = brief.type == NODE_FOLDER;
    if (t->level == 0 && folder)
        return 0;
    if (!l->entries && !l->table && !(brief.flags & NODE_INCOMPLETE)) {
        buffer_printf(&l->lines, "%s%s\n", text_escape(t->path, line, sizeof(line)),
                      folder ? "/" : "");
        return 0;
    }
    json_t *entry = report_ls_entry(t->path, t->meta, t->meta_len);
    if (!entry)
        return error_set(e, ERR_FAILED, "no memory for the list");
    if (l->entries) {
        json_array_append_new(l->entries, entry);
        return 0;
    }
    not_whole_text(entry, mark, sizeof(mark));
    if (l->table) {
        print_long(l->table, entry);
        table_cell(l->table, folder ? PAINT_BOLD : PAINT_NONE, t->path);
        table_cell(l->table, PAINT_YELLOW, mark);
    } else {
        buffer_printf(&l->lines, "%s%s  %s%s%s\n", text_escape(t->path, line, sizeof(line)),
                      folder ? "/" : "", out_paint(l->cli, stdout, PAINT_YELLOW), mark,
                      out_paint(l->cli, stdout, PAINT_NONE));
    }
    json_decref(entry);
    return 0;
}

struct listed { /* what is listed: a snapshot, or an archive */
    struct repo *repo;
    struct snapshot_row snapshot;
    struct archive_item archive;
};

/* An archive's entry as one of a tree. */
static int visit_archived(void *ctx, const struct archive_entry *x, struct error *e)
{
    const struct listing *l = ctx;
    struct buffer meta = BUFFER_INIT;
    int rc = 0;

    node_encode(x->node, &meta);
    struct tree_entry t = {.path = x->path,
                           .meta = meta.data,
                           .meta_len = (uint32_t)meta.len,
                           .level = strcmp(x->path, l->top) != 0};
    rc = buffer_ok(&meta) ? visit(ctx, &t, e)
                          : error_set(e, ERR_DAMAGED, "an entry of the archive cannot be");
    buffer_release(&meta);
    return rc;
}

static int walk(const struct listed *w, struct listing *l, const char *path, struct error *e)
{
    const struct snapshot_row *s = &w->snapshot;

    l->top = path;
    if (w->archive.path)
        return archive_each(&w->archive, path, visit_archived, l, e);
    return tree_walk(repo_catalog(w->repo), s->watch_serial, (int64_t)s->commit.number, path,
                     UINT_MAX, visit, l, e);
}

static json_t *document(const struct listed *w, const char *path, json_t *entries)
{
    const struct archive_item *i = &w->archive;
    uint64_t number = i->path ? i->snapshot : w->snapshot.commit.number;
    json_t *doc = json_pack("{s:i,s:I,s:s?}", "schema", 1, "snapshot", (json_int_t)number, "watch",
                            i->path ? i->watch : w->snapshot.watch_name);

    if (i->path)
        json_object_set_new(doc, "archive", report_text(i->name));
    report_path(doc, "path", path);
    json_object_set_new(doc, "entries", entries);
    return doc;
}

static int list_tree(struct cli *cli, const struct listed *w, const char *path, struct error *e)
{
    struct listing l = {.cli = cli, .lines = BUFFER_INIT};
    int rc;

    if (cli->json)
        l.entries = json_array();
    else if (cli->verbose)
        l.table = table_new("llrlll", NULL);
    rc = walk(w, &l, path, e);
    if (rc == 0 && l.table)
        rc = table_print(l.table, cli, e);
    if (rc == 0 && !buffer_ok(&l.lines))
        rc = error_set(e, ERR_FAILED, "no memory for the list");
    if (rc == 0)
        fwrite(l.lines.data, 1, l.lines.len, stdout);
    buffer_release(&l.lines);
    table_free(l.table);
    if (rc != 0 || !l.entries) {
        json_decref(l.entries);
        return rc;
    }
    return out_json(cli, document(w, path, l.entries), e);
}

static int run(struct cli *cli, struct error *e)
{
    struct listed w = {0};
    char *path = NULL;
    int rc;

    if (archive_is_meant(cli->operands[0])) {
        rc = archive_operand(cli, cli->operands[0], &w.archive, &path, e);
    } else {
        rc = reach_read(cli, &w.repo, e);
        if (rc == 0)
            rc = selector_resolve(w.repo, cli->operands[0], cli->watch, &w.snapshot, &path, e);
    }
    if (rc == 0)
        rc = list_tree(cli, &w, path ? path : "", e);
    free(path);
    archive_item_release(&w.archive);
    snapshot_row_release(&w.snapshot);
    repo_close(w.repo);
    return rc;
}

const struct command command_ls = {
    .name = "ls",
    .operands = "SNAPSHOT[:PATH]",
    .summary = "names in a snapshot, everything below PATH",
    .min_operands = 1,
    .max_operands = 1,
    .about = "A line a name, folders with a slash behind; with -v also mode, kind, size and time.\n"
             "What could not be read whole is marked so, with the reason. PATH counts from the\n"
             "watch's root.",
    .run = run,
};
