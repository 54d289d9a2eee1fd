#include "cli/restore_place.h"

#include "base/text.h"
#include "config/config.h"
#include "config/places.h"
#include "snapshot/tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct finding {
    const struct cli *cli;
    const struct snapshot_row *snapshot;
    const char *path, *dir;
    bool folder;        /* what is restored is one, else it stands in DIR under its own name */
    char *from;         /* the folder whose content comes */
    const char *single; /* or the name of what alone comes from it */
    struct restore_place *out;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

void restore_place_release(struct restore_place *p)
{
    free(p->watch);
    free(p->from);
    free(p->into);
    free(p->path);
    *p = (struct restore_place){0};
}

/* ---- what is restored ---- */

static int look_at_path(struct finding *f, struct repo *r, struct error *e)
{
    int64_t at = (int64_t)f->snapshot->commit.number;
    struct buffer meta = BUFFER_INIT;
    struct node_brief brief;
    uint64_t node;
    int rc = tree_find(repo_catalog(r), f->snapshot->watch_serial, at, f->path, &node, e);

    if (rc == 0)
        rc = catalog_node(repo_catalog(r), f->snapshot->watch_serial, node, at, &meta, e);
    if (rc == 0)
        rc = node_brief_decode(meta.data, meta.len, &brief, e);
    buffer_release(&meta);
    if (rc != 0)
        return rc;
    f->folder = brief.type == NODE_FOLDER;
    f->from = strdup(f->path);
    if (!f->from)
        return no_memory(e);
    const char *slash = strrchr(f->path, '/');
    f->single = f->folder ? NULL : slash ? slash + 1 : f->path;
    if (!f->folder)
        f->from[slash ? slash - f->path : 0] = 0;
    return 0;
}

/* ---- roots ---- */

typedef int (*root_visit)(struct finding *f, const char *watch, const char *root, struct error *e);

/* Every watch's root: as it is configured, else as it is on record. */
static int each_root(struct finding *f, struct repo *r, root_visit visit, struct error *e)
{
    const struct config *c = f->cli->config;
    struct watch_row *rows = NULL;
    size_t count = 0;
    int rc = catalog_watches(repo_catalog(r), &rows, &count, e);

    for (size_t i = 0; i < count; i++) {
        if (rc == 0 && !config_watch(c, rows[i].name))
            rc = visit(f, rows[i].name, rows[i].root, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    for (size_t i = 0; rc == 0 && i < c->watch_count; i++)
        rc = visit(f, c->watches[i].name, c->watches[i].path, e);
    return rc;
}

/* It stood there: --in-place by another name. */
static int its_place(struct finding *f, const char *watch, const char *root, struct error *e)
{
    if (strcmp(watch, f->snapshot->watch_name) != 0)
        return 0;
    char *below = place_below(f->dir, root);
    if (below && strcmp(below, f->from) == 0) {
        f->out->watch = strdup(watch);
        f->out->path = strdup(f->path);
        if (!f->out->watch || !f->out->path) {
            free(below);
            return no_memory(e);
        }
    }
    free(below);
    return 0;
}

/* DIR is this root or lies in it; of roots in roots the innermost counts. */
static int in_a_root(struct finding *f, const char *watch, const char *root, struct error *e)
{
    struct restore_place *out = f->out;
    char *below = place_below(f->dir, root);

    if (!below || (out->into && strlen(out->into) <= strlen(below))) {
        free(below);
        return 0;
    }
    restore_place_release(out);
    *out = (struct restore_place){.watch = strdup(watch),
                                  .from = strdup(f->from),
                                  .into = below,
                                  .path = strdup(f->single ? f->single : "")};
    return out->watch && out->from && out->path ? 0 : no_memory(e);
}

static int around_a_root(struct finding *f, const char *watch, const char *root, struct error *e)
{
    char *way = place_below(root, f->dir);
    char quoted[300];

    if (way)
        way[strcspn(way, "/")] = 0;
    bool apart = !way || (f->single && strcmp(f->single, way) != 0);
    free(way);
    if (apart)
        return 0;
    return error_set(e, ERR_REFUSED,
                     "'%s' holds the root of watch '%s', which is live data: its own owner and "
                     "mode, and what has the same names in it, would become what was saved; "
                     "restore to another folder, or what stood in the root with --in-place",
                     text_escape(f->dir, quoted, sizeof(quoted)), watch);
}

int restore_place_find(const struct cli *cli, struct repo *r, const struct snapshot_row *s,
                       const char *path, const char *dir, struct restore_place *out,
                       struct error *e)
{
    struct finding f = {.cli = cli, .snapshot = s, .path = path, .dir = dir, .out = out};
    char quoted[300];

    *out = (struct restore_place){0};
    if (place_inside(dir, cli->config->repository))
        return error_set(e, ERR_REFUSED, "'%s' lies in the repository: restore to another folder",
                         text_escape(dir, quoted, sizeof(quoted)));
    int rc = look_at_path(&f, r, e);
    if (rc == 0)
        rc = each_root(&f, r, its_place, e);
    if (rc == 0 && !out->watch)
        rc = each_root(&f, r, in_a_root, e);
    if (rc == 0 && !out->watch)
        rc = each_root(&f, r, around_a_root, e);
    free(f.from);
    if (rc != 0)
        restore_place_release(out);
    return rc;
}
