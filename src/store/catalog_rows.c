/* Rows of the catalog as rows of a checkpoint, and back.
 *
 * Packs come first, so that list chunks can be read when nodes come; watches before all that names
 * them. The state sums are recounted both ways: a catalog that does not add up makes no checkpoint,
 * and a checkpoint that does not add up is not used. */
#include "store/catalog_private.h"
#include "store/record.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define OPEN_TEXT "9223372036854775807" /* CATALOG_OPEN */

/* ---- state sums ---- */

static void sum_name(struct state_sum *sum, const struct row *r, struct buffer *scratch)
{
    const struct op op = {.type = OP_NAME_PUT,
                          .parent = r->parent,
                          .name = r->name,
                          .name_len = r->name_len,
                          .node = r->node};

    buffer_clear(scratch);
    op_encode(&op, scratch);
    if (buffer_ok(scratch))
        state_sum_add(sum, scratch->data, scratch->len);
}

static void sum_node(struct state_sum *sum, const struct row *r, struct buffer *scratch)
{
    const struct op op = {
        .type = OP_NODE_PUT, .node = r->node, .meta = r->bytes, .meta_len = r->len};

    buffer_clear(scratch);
    op_encode(&op, scratch);
    if (buffer_ok(scratch))
        state_sum_add(sum, scratch->data, scratch->len);
}

static bool is_open(const struct row *r)
{
    return r->to >= (uint64_t)CATALOG_OPEN;
}

static bool sums_equal(const struct state_sum *a, const struct state_sum *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

static int wrong_sum(const char *name, struct error *e)
{
    return error_set(e, ERR_CATALOG, "catalog: the state sum of '%s' is not that of its rows",
                     name);
}

/* ---- rows out ---- */

struct giving {
    struct catalog *catalog;
    row_visit visit;
    void *ctx;
    struct error *e;
    const struct watch_row *watch;
    struct state_sum sum;
    struct buffer scratch;
};

typedef void (*row_fill)(sqlite3_stmt *s, struct row *r);

static int give(struct giving *g, const struct row *r)
{
    if (r->type == ROW_NAME && is_open(r))
        sum_name(&g->sum, r, &g->scratch);
    if (r->type == ROW_NODE && is_open(r))
        sum_node(&g->sum, r, &g->scratch);
    if (g->scratch.failed)
        return cat_no_memory(g->e);
    return g->visit(g->ctx, r);
}

/* Every row that the statement gives; ?1 is the watch, ?2 and ?3 its least and greatest id. */
static int give_all(struct giving *g, const char *sql, row_fill fill)
{
    int rc;

    sqlite3_stmt *s = cat_prepare(g->catalog, sql, g->e);
    if (!s)
        return g->e->code;
    if (g->watch) {
        sqlite3_bind_int64(s, 1, g->watch->serial);
        sqlite3_bind_int64(s, 2, cat_node_id(g->watch->serial, 0));
        sqlite3_bind_int64(s, 3, cat_node_id(g->watch->serial, NODE_NUMBER_MAX));
    }
    while ((rc = cat_step(g->catalog, s, g->e)) == 1) {
        struct row r = {0};
        if (g->watch)
            memcpy(r.watch_id, g->watch->id, WATCH_ID_LEN);
        fill(s, &r);
        rc = give(g, &r);
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

static void take_blob(sqlite3_stmt *s, int column, struct row *r)
{
    r->bytes = sqlite3_column_blob(s, column);
    r->len = (uint32_t)sqlite3_column_bytes(s, column);
}

static struct row_text text_of(sqlite3_stmt *s, int column)
{
    const char *p = (const char *)sqlite3_column_text(s, column);

    return (struct row_text){.p = p ? p : "", .len = (uint32_t)sqlite3_column_bytes(s, column)};
}

static void fill_pack(sqlite3_stmt *s, struct row *r)
{
    struct catalog_pack p;

    cat_pack_from(s, &p);
    r->type = ROW_PACK;
    r->pack_id = p.id;
    r->pack_kind = p.kind;
    r->pack_len = p.len;
    r->pack_fence = p.fence;
    r->pack_gone = p.gone;
    r->sha256 = p.sha256;
}

static void fill_snapshot(sqlite3_stmt *s, struct row *r)
{
    r->type = ROW_SNAPSHOT;
    take_blob(s, 0, r);
    r->texts[0] = text_of(s, 1);
    r->texts[1] = text_of(s, 2);
    r->time.s = sqlite3_column_int64(s, 3);
    r->time.ns = (uint32_t)sqlite3_column_int64(s, 4);
    r->damaged = sqlite3_column_int(s, 5) != 0;
    r->pinned = sqlite3_column_int(s, 6) != 0;
    r->whole = sqlite3_column_int(s, 7) != 0;
}

static void fill_name(sqlite3_stmt *s, struct row *r)
{
    r->type = ROW_NAME;
    r->parent = (uint64_t)sqlite3_column_int64(s, 0);
    r->to = (uint64_t)sqlite3_column_int64(s, 1);
    r->name = sqlite3_column_blob(s, 2);
    r->name_len = (uint8_t)sqlite3_column_bytes(s, 2);
    r->from = (uint64_t)sqlite3_column_int64(s, 3);
    r->node = (uint64_t)sqlite3_column_int64(s, 4);
}

static void fill_node(sqlite3_stmt *s, struct row *r)
{
    r->type = ROW_NODE;
    r->node = cat_node_of(sqlite3_column_int64(s, 0));
    r->to = (uint64_t)sqlite3_column_int64(s, 1);
    r->from = (uint64_t)sqlite3_column_int64(s, 2);
    take_blob(s, 3, r);
}

static void fill_mark(sqlite3_stmt *s, struct row *r)
{
    r->type = ROW_MARK;
    r->sequence = (uint64_t)sqlite3_column_int64(s, 0);
    take_blob(s, 1, r);
}

static struct row_text plain_text(const char *s)
{
    return (struct row_text){.p = s, .len = (uint32_t)strlen(s)};
}

static int give_watch(struct giving *g, const struct watch_row *w)
{
    struct row r = {.type = ROW_WATCH,
                    .serial = (uint64_t)w->serial,
                    .last = w->last,
                    .node = w->next_node,
                    .files = w->files,
                    .total_bytes = w->bytes,
                    .incomplete = w->incomplete_count,
                    .sum = w->sum,
                    .frozen = (uint8_t)w->frozen,
                    .texts = {plain_text(w->name), plain_text(w->root), plain_text(w->rules)}};

    memcpy(r.watch_id, w->id, WATCH_ID_LEN);
    return g->visit(g->ctx, &r);
}

static int give_state(struct giving *g, const struct watch_row *w)
{
    g->watch = w;
    memset(&g->sum, 0, sizeof(g->sum));
    int rc = give_all(g, "SELECT parent," OPEN_TEXT ",name,from_,node FROM names WHERE watch=?1",
                      fill_name);
    if (rc == 0)
        rc = give_all(g, "SELECT parent,to_,name,from_,node FROM old_names WHERE watch=?1",
                      fill_name);
    if (rc == 0)
        rc = give_all(g, "SELECT id," OPEN_TEXT ",from_,meta FROM nodes WHERE id>=?2 AND id<=?3",
                      fill_node);
    if (rc == 0)
        rc = give_all(g, "SELECT node,to_,from_,meta FROM old_nodes WHERE watch=?1", fill_node);
    g->watch = NULL;
    if (rc == 0 && !sums_equal(&g->sum, &w->sum))
        rc = wrong_sum(w->name, g->e);
    return rc;
}

static int by_serial(const void *a, const void *b)
{
    const struct watch_row *x = a, *y = b;

    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

static int give_everything(struct giving *g, const struct watch_row *watches, size_t count)
{
    int rc = give_all(g, "SELECT " PACK_COLUMNS " FROM packs ORDER BY id", fill_pack);

    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = give_watch(g, &watches[i]);
    if (rc == 0)
        rc = give_all(g,
                      "SELECT body,name,note,verified_s,verified_ns,damaged,pinned,whole "
                      "FROM snapshots ORDER BY number",
                      fill_snapshot);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = give_state(g, &watches[i]);
    return rc == 0 ? give_all(g, "SELECT sequence,body FROM marks ORDER BY sequence", fill_mark)
                   : rc;
}

int catalog_rows(struct catalog *c, row_visit visit, void *ctx, struct error *e)
{
    struct giving g = {.catalog = c, .visit = visit, .ctx = ctx, .e = e, .scratch = BUFFER_INIT};
    struct watch_row *watches;
    size_t count;

    int rc = catalog_watches(c, &watches, &count, e);
    if (rc < 0)
        return rc;
    if (count > 0)
        qsort(watches, count, sizeof(*watches), by_serial);
    rc = give_everything(&g, watches, count);
    for (size_t i = 0; i < count; i++)
        watch_row_release(&watches[i]);
    free(watches);
    buffer_release(&g.scratch);
    return rc;
}

/* ---- rows in ---- */

void cat_load_release(struct catalog *c)
{
    free(c->load.watches);
    memset(&c->load, 0, sizeof(c->load));
}

static char *text_copy(const struct row_text *t)
{
    char *s = malloc(t->len + 1);

    if (!s)
        return NULL;
    if (t->len > 0)
        memcpy(s, t->p, t->len);
    s[t->len] = '\0';
    return s;
}

static int load_watch(struct catalog *c, const struct row *r, struct error *e)
{
    struct load *l = &c->load;
    struct load_watch *list = realloc(l->watches, (l->count + 1) * sizeof(*list));

    if (!list)
        return cat_no_memory(e);
    l->watches = list;
    list[l->count] = (struct load_watch){.serial = (int64_t)r->serial, .want = r->sum};
    memcpy(list[l->count++].id, r->watch_id, WATCH_ID_LEN);
    struct watch_row w = {.serial = (int64_t)r->serial,
                          .name = text_copy(&r->texts[0]),
                          .root = text_copy(&r->texts[1]),
                          .rules = text_copy(&r->texts[2]),
                          .last = r->last,
                          .next_node = r->node,
                          .files = r->files,
                          .bytes = r->total_bytes,
                          .incomplete_count = r->incomplete,
                          .sum = r->sum,
                          .frozen = r->frozen};
    memcpy(w.id, r->watch_id, WATCH_ID_LEN);
    int rc = w.name && w.root && w.rules ? cat_watch_put(c, &w, true, e) : cat_no_memory(e);
    watch_row_release(&w);
    return rc;
}

static int find_watch(struct catalog *c, const uint8_t *id, struct load_watch **w, struct error *e)
{
    struct load *l = &c->load;

    for (size_t i = 0; i < l->count; i++) {
        size_t at = (l->last + i) % l->count;
        if (memcmp(l->watches[at].id, id, WATCH_ID_LEN) == 0) {
            l->last = at;
            *w = &l->watches[at];
            return 0;
        }
    }
    return error_set(e, ERR_DAMAGED, "a row of a checkpoint belongs to no watch");
}

static int load_snapshot(struct catalog *c, const struct row *r, struct error *e)
{
    char *name = r->texts[0].len ? text_copy(&r->texts[0]) : NULL;
    char *note = r->texts[1].len ? text_copy(&r->texts[1]) : NULL;
    struct load_watch *w = NULL;
    struct commit m;

    int rc = commit_decode(r->bytes, r->len, &m, e);
    if (rc == 0) {
        rc = find_watch(c, m.watch_id, &w, e);
        if (rc == 0)
            rc = cat_run(c, e, CAT_SNAPSHOT_LOAD, "iibiiittiiiii", (int64_t)m.number, w->serial,
                         r->bytes, (size_t)r->len, m.time.s, (int64_t)m.kind, (int64_t)m.flags,
                         name, note, r->time.s, (int64_t)r->time.ns, (int64_t)r->damaged,
                         (int64_t)r->pinned, (int64_t)r->whole);
        if (rc == 0 && c->position.next_number <= m.number)
            c->position.next_number = m.number + 1;
        commit_release(&m);
    }
    free(name);
    free(note);
    return rc;
}

/* The watch of a row; what holds now is added to its state sum. */
static int load_into(struct catalog *c, const struct row *r,
                     void (*add)(struct state_sum *sum, const struct row *r,
                                 struct buffer *scratch),
                     struct load_watch **w, struct error *e)
{
    struct buffer scratch = BUFFER_INIT;
    int rc = find_watch(c, r->watch_id, w, e);

    if (rc == 0 && is_open(r))
        add(&(*w)->sum, r, &scratch);
    if (scratch.failed)
        rc = cat_no_memory(e);
    buffer_release(&scratch);
    return rc;
}

static int load_name(struct catalog *c, const struct row *r, struct error *e)
{
    struct load_watch *w = NULL;
    int rc = load_into(c, r, sum_name, &w, e);

    if (rc < 0)
        return rc;
    if (is_open(r))
        return cat_run(c, e, CAT_NAME_ROW, "iibii", w->serial, (int64_t)r->parent, r->name,
                       (size_t)r->name_len, (int64_t)r->from, (int64_t)r->node);
    return cat_run(c, e, CAT_OLD_NAME_ROW, "iiibii", w->serial, (int64_t)r->parent, (int64_t)r->to,
                   r->name, (size_t)r->name_len, (int64_t)r->from, (int64_t)r->node);
}

static int load_node(struct catalog *c, const struct row *r, struct error *e)
{
    struct load_watch *w = NULL;
    int rc = load_into(c, r, sum_node, &w, e);

    if (rc < 0)
        return rc;
    if (is_open(r))
        rc = cat_run(c, e, CAT_NODE_ROW, "iiib", cat_node_id(w->serial, r->node), (int64_t)r->from,
                     (int64_t)cat_node_incomplete(r->bytes, r->len), r->bytes, (size_t)r->len);
    else
        rc = cat_run(c, e, CAT_OLD_NODE_ROW, "iiiib", w->serial, (int64_t)r->node, (int64_t)r->to,
                     (int64_t)r->from, r->bytes, (size_t)r->len);
    return rc < 0 ? rc : cat_node_refs(c, r->bytes, r->len, 1, e);
}

static int load_mark(struct catalog *c, const struct row *r, struct error *e)
{
    struct mark m;

    int rc = mark_decode(r->bytes, r->len, &m, e);
    if (rc < 0)
        return rc;
    rc = cat_run(c, e, CAT_MARK_PUT, "iib", (int64_t)r->sequence, (int64_t)m.type, r->bytes,
                 (size_t)r->len);
    mark_release(&m);
    return rc;
}

/* What of it is indexed already stays known. */
static int load_pack(struct catalog *c, const struct row *r, struct error *e)
{
    struct catalog_pack p = {0};

    int rc = catalog_pack(c, r->pack_id, &p, e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    p.id = r->pack_id;
    p.kind = r->pack_kind;
    p.fence = r->pack_fence;
    p.gone = r->pack_gone;
    p.sha256 = r->sha256;
    if (p.kind == PACK_LOG) {
        p.len = r->pack_len;
        p.sealed = p.fence == 0;
    }
    return catalog_pack_put(c, &p, e);
}

int catalog_load_row(struct catalog *c, const struct row *r, struct error *e)
{
    assert(c->in_write);
    switch (r->type) {
    case ROW_PACK:
        return load_pack(c, r, e);
    case ROW_WATCH:
        return load_watch(c, r, e);
    case ROW_SNAPSHOT:
        return load_snapshot(c, r, e);
    case ROW_NAME:
        return load_name(c, r, e);
    case ROW_NODE:
        return load_node(c, r, e);
    case ROW_MARK:
        return load_mark(c, r, e);
    default:
        return error_set(e, ERR_DAMAGED, "a checkpoint row of type %u is unknown", r->type);
    }
}

int catalog_load_end(struct catalog *c, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->load.count; i++)
        if (!sums_equal(&c->load.watches[i].sum, &c->load.watches[i].want))
            rc = error_set(e, ERR_DAMAGED,
                           "a checkpoint's rows do not give the state that it names");
    cat_load_release(c);
    return rc;
}
