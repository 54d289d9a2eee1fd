#include "snapshot/freeze.h"

#include "snapshot/tree.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CAUSES = 8 };

int freeze_set(struct repo *r, const uint8_t *watch_id, enum freeze_cause cause, uint64_t before,
               struct error *e, const char *fmt, ...)
{
    char text[512];
    struct mark m = {.type = MARK_FREEZE, .time = clock_wall(), .text = text, .count = before > 0};
    va_list args;

    int n = snprintf(text, sizeof(text), "%s: ", freeze_word(cause));
    va_start(args, fmt);
    vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, args);
    va_end(args);
    m.snapshots = &before;
    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    return repo_mark(r, &m, e);
}

int freeze_lift(struct repo *r, const uint8_t *watch_id, unsigned cause, struct error *e)
{
    struct mark m = {.type = MARK_THAW,
                     .time = clock_wall(),
                     .text = cause ? freeze_word((enum freeze_cause)cause) : NULL};

    memcpy(m.watch_id, watch_id, WATCH_ID_LEN);
    return repo_mark(r, &m, e);
}

struct found { /* the mark in force for one cause */
    struct wall_time since;
    uint64_t sequence, before;
    char text[256];
};

struct search {
    const uint8_t *watch_id;
    struct found found[CAUSES];
};

static int visit_mark(void *ctx, uint64_t sequence, const struct mark *m)
{
    static const uint8_t all[WATCH_ID_LEN];
    struct search *s = ctx;

    if (m->type != MARK_FREEZE || (memcmp(m->watch_id, s->watch_id, WATCH_ID_LEN) != 0 &&
                                   memcmp(m->watch_id, all, WATCH_ID_LEN) != 0))
        return 0;
    unsigned causes = m->text && *m->text ? freeze_causes(m->text) : FREEZE_OTHER;
    const char *reason = m->text && causes != FREEZE_OTHER ? strchr(m->text, ':') : NULL;
    reason = reason ? reason + 1 + strspn(reason + 1, " ") : m->text ? m->text : "";
    for (unsigned i = 0; i < CAUSES; i++) {
        struct found *f = &s->found[i];
        if (!(causes & 1u << i) || sequence < f->sequence)
            continue;
        *f = (struct found){.since = m->time, .sequence = sequence};
        f->before = m->count > 0 ? m->snapshots[0] : 0;
        snprintf(f->text, sizeof(f->text), "%s", reason);
    }
    return 0;
}

int freeze_why(struct catalog *c, const struct watch_row *w, unsigned causes,
               struct freeze_reason *why, struct error *e)
{
    struct search s = {.watch_id = w->id};
    uint64_t newest = 0;
    size_t n = 0;
    int rc = catalog_marks(c, visit_mark, &s, e);

    *why = (struct freeze_reason){0};
    for (unsigned i = 0; rc >= 0 && i < CAUSES; i++) {
        const struct found *f = &s.found[i];
        if (!(w->frozen & causes & 1u << i))
            continue;
        if (why->since.s == 0 || f->since.s < why->since.s)
            why->since = f->since;
        if (f->sequence >= newest) {
            newest = f->sequence;
            why->before = f->before;
        }
        if (*f->text && n < sizeof(why->text) - 1)
            n += (size_t)snprintf(why->text + n, sizeof(why->text) - n, "%s%s", n ? "; " : "",
                                  f->text);
    }
    return rc < 0 ? rc : 0;
}

/* ---- what was gone ---- */

struct still {
    struct catalog *c;
    int64_t watch;
    unsigned cause;
    uint64_t files, gone;
    bool database_gone;
};

static bool has_class(uint8_t flags)
{
    enum content_class class = node_class(flags);

    return class == CONTENT_TEXT || class == CONTENT_JSON || class == CONTENT_SQLITE;
}

/* 1: what stands at the path now is something again, 0: it is not. */
static int is_back(struct still *s, const char *path, struct error *e)
{
    struct buffer meta = BUFFER_INIT;
    struct node_brief b = {0};
    uint64_t node;
    int rc = tree_find(s->c, s->watch, CATALOG_OPEN, path, &node, e);

    if (rc == 0 && s->cause == FREEZE_SCRAMBLED) {
        rc = catalog_node(s->c, s->watch, node, CATALOG_OPEN, &meta, e);
        if (rc == 0)
            rc = node_brief_decode(meta.data, meta.len, &b, e);
        if (rc == 0 && !has_class(b.flags))
            rc = ERR_NOTFOUND;
    }
    buffer_release(&meta);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    error_clear(e);
    return rc == 0;
}

static int visit_old(void *ctx, const struct tree_entry *t, struct error *e)
{
    struct still *s = ctx;
    struct node_brief b;

    int rc = node_brief_decode(t->meta, t->meta_len, &b, e);
    if (rc < 0 || b.type == NODE_FOLDER || (s->cause == FREEZE_SCRAMBLED && !has_class(b.flags)))
        return rc;
    rc = is_back(s, t->path, e);
    if (rc < 0)
        return rc;
    s->files++;
    s->gone += rc == 0;
    s->database_gone |= rc == 0 && (b.flags & NODE_SQLITE);
    return 0;
}

int freeze_files_back(struct catalog *c, const struct watch_row *w, enum freeze_cause cause,
                      struct error *e)
{
    struct still s = {.c = c, .watch = w->serial, .cause = cause};
    struct freeze_reason why;
    struct snapshot_row before;

    int rc = freeze_why(c, w, cause, &why, e);
    if (rc < 0 || why.before == 0)
        return rc;
    rc = catalog_snapshot(c, why.before, &before, e);
    if (rc == ERR_NOTFOUND) { /* nobody can tell any more; a person may thaw */
        error_clear(e);
        return 0;
    }
    if (rc < 0)
        return rc;
    snapshot_row_release(&before);
    rc = tree_walk(c, w->serial, (int64_t)why.before, "", UINT_MAX, visit_old, &s, e);
    if (rc < 0)
        return rc;
    return s.gone * 2 < s.files && !(cause == FREEZE_EMPTIED && s.database_gone);
}

/* ---- damage ---- */

static int visit_damaged(void *ctx, const struct snapshot_row *row)
{
    return row->damaged;
}

int freeze_damage_left(struct catalog *c, const struct watch_row *w, struct error *e)
{
    return catalog_snapshots(c, w->serial, 1, UINT64_MAX, true, visit_damaged, NULL, e);
}

int freeze_lift_mended(struct repo *r, struct error *e)
{
    struct watch_row *rows = NULL;
    struct catalog *c = NULL;
    size_t count = 0;

    int rc = repo_catalog_open(r, &c, e);
    if (rc == 0)
        rc = catalog_watches(c, &rows, &count, e);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        int left = rows[i].frozen & FREEZE_DAMAGED ? freeze_damage_left(c, &rows[i], e) : 1;
        rows[i].frozen &= left == 0 ? FREEZE_DAMAGED : 0;
        rc = left < 0 ? left : 0;
    }
    if (c)
        repo_catalog_close(r, c);
    for (size_t i = 0; i < count; i++) {
        if (rc == 0 && rows[i].frozen)
            rc = freeze_lift(r, rows[i].id, FREEZE_DAMAGED, e);
        watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}
