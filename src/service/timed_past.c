/* What the packs know of the timed jobs: the state that each left, and since when there is anything
 * for one to work on that has left none. */
#include "service/timed.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

struct reading {
    struct timed_pasts *out;
    struct catalog *catalog;
    struct error *e;
};

/* Both texts are copied. */
static int add(struct reading *r, const char *watch, const char *state, struct timed_past *past)
{
    struct timed_pasts *all = r->out;
    struct timed_past *list = reallocarray(all->list, all->count + 1, sizeof(*list));

    if (!list)
        return no_memory(r->e);
    all->list = list;
    all->list[all->count++] = *past;
    past = &all->list[all->count - 1];
    past->watch = watch ? strdup(watch) : NULL;
    past->state = state ? strdup(state) : NULL;
    return (watch && !past->watch) || (state && !past->state) ? no_memory(r->e) : 0;
}

/* ---- states ---- */

static bool kind_of(const char *text, enum timed_kind *kind)
{
    size_t len = strcspn(text, " ");

    for (int k = 0; text[len] && k < TIMED_KINDS; k++) {
        const char *word = timed_word((enum timed_kind)k);
        *kind = (enum timed_kind)k;
        if (strlen(word) == len && strncmp(text, word, len) == 0)
            return true;
    }
    return false;
}

static int take_mark(void *ctx, uint64_t sequence, const struct mark *m)
{
    static const uint8_t none[WATCH_ID_LEN];
    struct reading *r = ctx;
    struct timed_past past = {0};
    struct watch_row w = {0};
    bool all = memcmp(m->watch_id, none, sizeof(none)) == 0;

    if (m->type != MARK_STATE || !m->text || !kind_of(m->text, &past.kind))
        return 0;
    int rc = all ? 0 : catalog_watch_by_id(r->catalog, m->watch_id, &w, r->e);
    if (rc == ERR_NOTFOUND) {
        error_clear(r->e);
        return 0;
    }
    if (rc == 0)
        rc = add(r, all ? NULL : w.name, strchr(m->text, ' ') + 1, &past);
    watch_row_release(&w);
    return rc;
}

/* ---- first snapshots ---- */

static int take_time(void *ctx, const struct snapshot_row *row)
{
    *(int64_t *)ctx = row->commit.time.s;
    return 1; /* the first is enough */
}

static int add_first(struct reading *r, const struct watch_row *w)
{
    struct timed_past past = {0};
    int rc = catalog_snapshots(r->catalog, w->serial, 1, UINT64_MAX, false, take_time, &past.first,
                               r->e);

    return rc > 0 ? add(r, w->name, NULL, &past) : rc;
}

static int read_all(struct reading *r)
{
    struct watch_row *rows = NULL;
    size_t count = 0;

    int rc = catalog_marks(r->catalog, take_mark, r, r->e);
    if (rc == 0)
        rc = catalog_watches(r->catalog, &rows, &count, r->e);
    for (size_t i = 0; i < count; i++) {
        if (rc == 0)
            rc = add_first(r, &rows[i]);
        watch_row_release(&rows[i]);
    }
    free(rows);
    return rc;
}

int timed_past_read(struct repo *repo, struct timed_pasts *out, struct error *e)
{
    struct reading r = {.out = out, .e = e};

    int rc = repo_catalog_open(repo, &r.catalog, e);
    if (rc != 0)
        return rc;
    rc = read_all(&r);
    repo_catalog_close(repo, r.catalog);
    return rc;
}

void timed_past_release(struct timed_pasts *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->list[i].watch);
        free(p->list[i].state);
    }
    free(p->list);
    *p = (struct timed_pasts){0};
}
