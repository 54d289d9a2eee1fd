#include "lib/handle.h"

#include "base/banned.h"

struct listing {
    wk_snapshot_fn visit;
    void *ctx;
    uint64_t left;  /* of `recent` */
    uint64_t first; /* the oldest of them */
    uint64_t given; /* the newest that was given */
};

static int find_first(void *ctx, const struct snapshot_row *s)
{
    struct listing *l = ctx;

    l->first = s->commit.number;
    return --l->left == 0;
}

static int give(void *ctx, const struct snapshot_row *s)
{
    struct listing *l = ctx;
    const struct commit *c = &s->commit;

    if (c->number <= l->given)
        return 0;
    l->given = c->number;
    wk_snapshot out = {
        .size = sizeof(out),
        .number = c->number,
        .watch = s->watch_name,
        .kind = snapshot_kind_word(c->kind),
        .name = c->name,
        .note = c->note,
        .time_s = c->time.s,
        .time_ns = c->time.ns,
        .complete = !(c->flags & COMMIT_INCOMPLETE),
        .damaged = s->damaged,
        .suspect = (c->flags & COMMIT_SUSPECT) != 0,
        .pinned = s->pinned,
        .verified_s = s->verified.s,
        .files = c->files,
        .bytes = c->bytes,
        .changed = c->files_new + c->files_changed + c->files_removed,
        .bytes_stored = c->bytes_stored,
        .seconds = (double)c->duration_ns / 1e9,
    };

    return l->visit(l->ctx, &out);
}

static int serial_of(struct catalog *c, const char *watch, int64_t *serial, struct error *e)
{
    struct watch_row w = {0};

    *serial = 0;
    if (!watch)
        return 0;
    int rc = catalog_watch_by_name(c, watch, &w, e);
    if (rc == 0) {
        *serial = w.serial;
        watch_row_release(&w);
    }
    return rc;
}

static int list(struct catalog *c, const wk_list_options *o, struct listing *l, struct error *e)
{
    int64_t serial;
    int rc = serial_of(c, o->watch, &serial, e);

    l->left = o->recent;
    if (rc == 0 && o->recent > 0)
        rc = catalog_snapshots(c, serial, 0, INT64_MAX, true, find_first, l, e);
    if (rc >= 0)
        rc = catalog_snapshots(c, serial, l->first, INT64_MAX, false, give, l, e);
    return rc;
}

int wk_list(wk_handle *handle, const wk_list_options *options, wk_snapshot_fn visit, void *context)
{
    wk_list_options o = WK_LIST_OPTIONS_INIT;
    struct listing l = {.visit = visit, .ctx = context};
    struct error *e = handle_begin(handle);
    struct repo *r = NULL;
    struct catalog_try tried;

    struct_take(&o, sizeof(o), options);
    int rc = visit ? handle_repo(handle, &r, e) : error_set(e, ERR_USAGE, "no function is given");
    if (rc == 0) {
        tried = repo_catalog_try(r);
        while (rc = list(repo_catalog(r), &o, &l, e), repo_catalog_replaced(r, rc, &tried))
            ;
    }
    repo_close(r);
    return handle_end(handle, rc);
}
