/* Many new rows at once: a first save, a rebuild, the chunks of any save.
 *
 * One statement that inserts sixteen rows costs less than half of sixteen that insert one, if it
 * need not be able to take a part of them back: hence OR FAIL, where the rows before the one that
 * stood there already stay, and are counted. */
#include "store/catalog_private.h"

#include <assert.h>

#include "base/banned.h"

static const struct {
    const char *into;
    int columns;
} tables[BULK_COUNT] = {
    [BULK_NAMES] = {"INSERT OR FAIL INTO names(watch,parent,name,from_,node) VALUES", 5},
    [BULK_NODES] = {"INSERT OR FAIL INTO nodes(id,from_,incomplete,meta) VALUES", 4},
    [BULK_CACHE] = {"INSERT OR REPLACE INTO cache(id,ino,pending,sig) VALUES", 4},
    [BULK_CHUNKS] = {"INSERT OR FAIL INTO chunks(id,pack,offset,raw_off,raw_len,refs) VALUES", 6},
};

static sqlite3_stmt *prepare(struct catalog *c, enum catalog_bulk which, struct error *e)
{
    struct buffer sql = BUFFER_INIT;
    sqlite3_stmt *s = NULL;

    buffer_append_str(&sql, tables[which].into);
    for (int i = 0; i < BULK_ROWS; i++) {
        for (int j = 0; j < tables[which].columns; j++)
            buffer_append_str(&sql, j == 0 ? "(?" : ",?");
        buffer_append_str(&sql, i < BULK_ROWS - 1 ? ")," : ")");
    }
    if (buffer_ok(&sql))
        s = cat_prepare(c, buffer_cstr(&sql), e);
    else
        cat_no_memory(e);
    buffer_release(&sql);
    return s;
}

int cat_bulk_begin(struct catalog *c, enum catalog_bulk which, struct error *e)
{
    if (!c->bulk[which] && !(c->bulk[which] = prepare(c, which, e)))
        return e->code;
    sqlite3_reset(c->bulk[which]);
    c->bulk_at = 0;
    return 0;
}

void cat_bulk_int(struct catalog *c, enum catalog_bulk which, int64_t v)
{
    sqlite3_bind_int64(c->bulk[which], ++c->bulk_at, v);
}

void cat_bulk_blob(struct catalog *c, enum catalog_bulk which, const void *p, size_t n)
{
    sqlite3_bind_blob64(c->bulk[which], ++c->bulk_at, n ? p : "", n, SQLITE_STATIC);
}

int cat_bulk_end(struct catalog *c, enum catalog_bulk which, struct error *e)
{
    assert(c->bulk_at == BULK_ROWS * tables[which].columns);
    int rc = sqlite3_step(c->bulk[which]);
    int rows = rc == SQLITE_DONE                  ? BULK_ROWS
               : (rc & 0xff) == SQLITE_CONSTRAINT ? sqlite3_changes(c->db)
                                                  : cat_error(c, rc, "write", e);

    sqlite3_reset(c->bulk[which]);
    return rows;
}

void cat_bulk_free(struct catalog *c)
{
    for (int i = 0; i < BULK_COUNT; i++) {
        sqlite3_finalize(c->bulk[i]);
        c->bulk[i] = NULL;
    }
}

/* ---- names and nodes of a watch that has none ---- */

static int insert_names(struct catalog *c, struct error *e)
{
    struct apply *a = &c->apply;
    int rc = cat_bulk_begin(c, BULK_NAMES, e);

    if (rc < 0)
        return rc;
    for (int i = 0; i < BULK_ROWS; i++) {
        const struct op *op = &a->names[i].op;
        cat_bulk_int(c, BULK_NAMES, a->watch.serial);
        cat_bulk_int(c, BULK_NAMES, (int64_t)op->parent);
        cat_bulk_blob(c, BULK_NAMES, op->name, op->name_len);
        cat_bulk_int(c, BULK_NAMES, (int64_t)a->number);
        cat_bulk_int(c, BULK_NAMES, (int64_t)op->node);
    }
    return cat_bulk_end(c, BULK_NAMES, e);
}

static int insert_nodes(struct catalog *c, struct error *e)
{
    struct apply *a = &c->apply;
    int rc = cat_bulk_begin(c, BULK_NODES, e);

    if (rc < 0)
        return rc;
    for (int i = 0; i < BULK_ROWS; i++) {
        const struct op *op = &a->nodes[i].op;
        cat_bulk_int(c, BULK_NODES, cat_node_id(a->watch.serial, op->node));
        cat_bulk_int(c, BULK_NODES, (int64_t)a->number);
        cat_bulk_int(c, BULK_NODES, cat_node_incomplete(op->meta, op->meta_len));
        cat_bulk_blob(c, BULK_NODES, op->meta, op->meta_len);
    }
    return cat_bulk_end(c, BULK_NODES, e);
}

static int note_inserted(struct catalog *c, const struct waiting_op *w, struct error *e)
{
    state_sum_add(&c->apply.watch.sum, w->raw, w->len);
    return w->op.type == OP_NODE_PUT ? cat_node_refs(c, w->op.meta, w->op.meta_len, 1, e) : 0;
}

/* What was put twice in one save, and the few that are left at the end, one by one. */
static int flush(struct catalog *c, const struct waiting_op *list, int count,
                 int (*insert)(struct catalog *c, struct error *e), struct error *e)
{
    int done = count == BULK_ROWS ? insert(c, e) : 0;
    int rc = 0;

    if (done < 0)
        return done;
    if (count == BULK_ROWS && done < count)
        c->apply.empty = false;
    for (int i = 0; rc == 0 && i < done; i++)
        rc = note_inserted(c, &list[i], e);
    for (int i = done; rc == 0 && i < count; i++)
        rc = cat_apply_op(c, &list[i].op, list[i].raw, list[i].len, e);
    return rc;
}

int cat_apply_flush(struct catalog *c, struct error *e)
{
    struct apply *a = &c->apply;
    int names = a->name_count, nodes = a->node_count;

    a->name_count = a->node_count = 0;
    int rc = flush(c, a->names, names, insert_names, e);
    return rc == 0 ? flush(c, a->nodes, nodes, insert_nodes, e) : rc;
}

int cat_apply_later(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                    struct error *e)
{
    struct apply *a = &c->apply;
    const struct waiting_op w = {.op = *op, .raw = raw, .len = len};
    int rc = 0;

    if (op->type == OP_NAME_PUT)
        a->names[a->name_count++] = w;
    else
        a->nodes[a->node_count++] = w;
    if (a->name_count == BULK_ROWS) {
        a->name_count = 0;
        rc = flush(c, a->names, BULK_ROWS, insert_names, e);
    }
    if (rc == 0 && a->node_count == BULK_ROWS) {
        a->node_count = 0;
        rc = flush(c, a->nodes, BULK_ROWS, insert_nodes, e);
    }
    return rc;
}

/* ---- signatures ---- */

static int put_cache_bulk(struct catalog *c, int64_t watch, const struct cache_row *rows,
                          struct error *e)
{
    int rc = cat_bulk_begin(c, BULK_CACHE, e);

    if (rc < 0)
        return rc;
    for (int i = 0; i < BULK_ROWS; i++) {
        cat_bulk_int(c, BULK_CACHE, cat_node_id(watch, rows[i].node));
        cat_bulk_int(c, BULK_CACHE, (int64_t)rows[i].key.ino);
        cat_bulk_int(c, BULK_CACHE, rows[i].key.pending);
        cat_bulk_blob(c, BULK_CACHE, rows[i].signature, rows[i].len);
    }
    rc = cat_bulk_end(c, BULK_CACHE, e);
    return rc < 0 ? rc : 0; /* what stood there is replaced */
}

int catalog_cache_put_rows(struct catalog *c, int64_t watch, const struct cache_row *rows,
                           size_t count, struct error *e)
{
    size_t i = 0;
    int rc = 0;

    for (; rc == 0 && count - i >= BULK_ROWS; i += BULK_ROWS)
        rc = put_cache_bulk(c, watch, rows + i, e);
    for (; rc == 0 && i < count; i++)
        rc = catalog_cache_put(c, watch, rows[i].node, &rows[i].key, rows[i].signature, rows[i].len,
                               e);
    return rc;
}
