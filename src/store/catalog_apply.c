/* Commits, marks and prunes become rows, for a live save and a rebuild alike.
 *
 * A commit with number N closes a row by setting its to_ to N, or deletes it when no kept snapshot
 * lies in [from_, N): nobody could ask for it. A prune deletes the closed rows whose interval held
 * no kept snapshot but the one that goes. Open rows never die: they are the watch's present state.
 * The state sum follows every open row that comes or goes. */
#include "store/catalog_private.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "base/text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { SERIAL_MAX = (1 << 22) - 1 }; /* with a node's number in 63 bits */

/* The bytes that an open row adds to the state sum: those of the operation that would put it. */
static int sum_take_away(struct apply *a, const struct op *op, struct error *e)
{
    struct buffer b = BUFFER_INIT;

    op_encode(op, &b);
    bool ok = buffer_ok(&b);
    if (ok)
        state_sum_sub(&a->watch.sum, b.data, b.len);
    buffer_release(&b);
    return ok ? 0 : cat_no_memory(e);
}

static bool was_constraint(const struct catalog *c)
{
    return (sqlite3_errcode(c->db) & 0xff) == SQLITE_CONSTRAINT;
}

/* ---- names ---- */

static int open_name(struct catalog *c, const struct op *op, bool *found, uint64_t *node,
                     int64_t *from, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_LOOKUP_OPEN, "iib", c->apply.watch.serial,
                               (int64_t)op->parent, op->name, (size_t)op->name_len);
    int rc = s ? cat_step(c, s, e) : e->code;

    *found = rc == 1;
    if (rc < 1)
        return rc;
    *node = (uint64_t)sqlite3_column_int64(s, 0);
    *from = sqlite3_column_int64(s, 1);
    sqlite3_reset(s);
    return 0;
}

static int close_name(struct catalog *c, const struct op *op, uint64_t node, int64_t from,
                      struct error *e)
{
    struct apply *a = &c->apply;
    struct op old = {.type = OP_NAME_PUT,
                     .parent = op->parent,
                     .name = op->name,
                     .name_len = op->name_len,
                     .node = node};

    int rc = sum_take_away(a, &old, e);
    if (rc < 0)
        return rc;
    rc = cat_run(c, e, CAT_NAME_DELETE, "iib", a->watch.serial, (int64_t)op->parent, op->name,
                 (size_t)op->name_len);
    if (rc < 0 || from > (int64_t)a->kept)
        return rc;
    return cat_run(c, e, CAT_OLD_NAME_ROW, "iiibii", a->watch.serial, (int64_t)op->parent,
                   (int64_t)a->number, op->name, (size_t)op->name_len, from, (int64_t)node);
}

static int insert_name(struct catalog *c, const struct op *op, struct error *e)
{
    struct apply *a = &c->apply;

    return cat_run(c, e, CAT_NAME_INSERT, "iibii", a->watch.serial, (int64_t)op->parent, op->name,
                   (size_t)op->name_len, (int64_t)a->number, (int64_t)op->node);
}

static int put_name(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                    struct error *e)
{
    struct apply *a = &c->apply;
    uint64_t node = 0;
    int64_t from = 0;
    bool found = false;
    int rc = 0;

    if (a->empty) {
        rc = insert_name(c, op, e);
        if (rc == 0)
            state_sum_add(&a->watch.sum, raw, len);
        if (rc == 0 || !was_constraint(c))
            return rc;
        a->empty = false; /* put twice in one save */
    }
    rc = open_name(c, op, &found, &node, &from, e);
    if (rc < 0 || (found && node == op->node))
        return rc;
    if (found)
        rc = close_name(c, op, node, from, e);
    if (rc == 0)
        rc = insert_name(c, op, e);
    if (rc == 0)
        state_sum_add(&a->watch.sum, raw, len);
    return rc;
}

static int remove_name(struct catalog *c, const struct op *op, struct error *e)
{
    uint64_t node = 0;
    int64_t from = 0;
    bool found = false;

    int rc = open_name(c, op, &found, &node, &from, e);
    return rc < 0 || !found ? rc : close_name(c, op, node, from, e);
}

/* ---- nodes ---- */

bool cat_node_incomplete(const void *meta, size_t len)
{
    struct node_brief brief;
    struct error ignored = ERROR_INIT;

    return node_brief_decode(meta, len, &brief, &ignored) == 0 &&
           (brief.flags & (NODE_INCOMPLETE | NODE_SPOILT));
}

/* The open version into meta; *found. */
static int open_node(struct catalog *c, uint64_t node, bool *found, int64_t *from,
                     struct buffer *meta, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_NODE_OPEN, "i", cat_node_id(c->apply.watch.serial, node));
    int rc = s ? cat_step(c, s, e) : e->code;

    *found = rc == 1;
    if (rc < 1)
        return rc;
    *from = sqlite3_column_int64(s, 0);
    buffer_append(meta, sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1));
    sqlite3_reset(s);
    return buffer_ok(meta) ? 0 : cat_no_memory(e);
}

static int close_node(struct catalog *c, uint64_t node, int64_t from, const struct buffer *meta,
                      struct error *e)
{
    struct apply *a = &c->apply;
    struct op old = {
        .type = OP_NODE_PUT, .node = node, .meta = meta->data, .meta_len = (uint32_t)meta->len};

    int rc = sum_take_away(a, &old, e);
    if (rc < 0)
        return rc;
    rc = cat_run(c, e, CAT_NODE_DELETE, "i", cat_node_id(a->watch.serial, node));
    if (rc < 0)
        return rc;
    if (from > (int64_t)a->kept)
        return cat_node_refs(c, meta->data, meta->len, -1, e);
    return cat_run(c, e, CAT_OLD_NODE_ROW, "iiiib", a->watch.serial, (int64_t)node,
                   (int64_t)a->number, from, meta->data, meta->len);
}

static int insert_node(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                       struct error *e)
{
    struct apply *a = &c->apply;

    int rc = cat_run(c, e, CAT_NODE_INSERT, "iiib", cat_node_id(a->watch.serial, op->node),
                     (int64_t)a->number, (int64_t)cat_node_incomplete(op->meta, op->meta_len),
                     op->meta, (size_t)op->meta_len);
    if (rc < 0)
        return rc;
    state_sum_add(&a->watch.sum, raw, len);
    return cat_node_refs(c, op->meta, op->meta_len, 1, e);
}

static int replace_node(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                        struct error *e)
{
    struct buffer old = BUFFER_INIT;
    int64_t from = 0;
    bool found = false;

    int rc = open_node(c, op->node, &found, &from, &old, e);
    bool same = found && old.len == op->meta_len && memcmp(old.data, op->meta, old.len) == 0;
    if (rc == 0 && found && !same)
        rc = close_node(c, op->node, from, &old, e);
    if (rc == 0 && !same)
        rc = insert_node(c, op, raw, len, e);
    /* The signature was that of the version before. */
    if (rc == 0 && found)
        rc = cat_run(c, e, CAT_CACHE_DELETE, "i", cat_node_id(c->apply.watch.serial, op->node));
    buffer_release(&old);
    return rc;
}

static int put_node(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                    struct error *e)
{
    if (c->apply.empty) {
        int rc = insert_node(c, op, raw, len, e);
        if (rc == 0 || !was_constraint(c))
            return rc;
        c->apply.empty = false;
    }
    return replace_node(c, op, raw, len, e);
}

static int remove_node(struct catalog *c, const struct op *op, struct error *e)
{
    struct buffer old = BUFFER_INIT;
    int64_t from = 0;
    bool found = false;

    int rc = open_node(c, op->node, &found, &from, &old, e);
    if (rc == 0 && found)
        rc = close_node(c, op->node, from, &old, e);
    if (rc == 0 && found)
        rc = cat_run(c, e, CAT_CACHE_DELETE, "i", cat_node_id(c->apply.watch.serial, op->node));
    buffer_release(&old);
    return rc;
}

/* ---- a commit ---- */

static bool sum_is_zero(const struct state_sum *s)
{
    static const struct state_sum zero;

    return memcmp(s, &zero, sizeof(zero)) == 0;
}

static int new_watch(struct catalog *c, const uint8_t *id, struct watch_row *w, struct error *e)
{
    memset(w, 0, sizeof(*w));
    memcpy(w->id, id, WATCH_ID_LEN);
    w->next_node = NODE_ROOT + 1;
    w->name = strdup("");
    w->root = strdup("");
    w->rules = strdup("");
    if (!w->name || !w->root || !w->rules)
        return cat_no_memory(e);
    int rc = cat_number(c, e, &w->serial, CAT_WATCH_SERIAL, "");
    if (rc == 0 && w->serial > SERIAL_MAX)
        rc = error_set(e, ERR_FAILED, "more watches than a repository can hold");
    if (rc < 0)
        watch_row_release(w);
    return rc;
}

int catalog_apply_begin(struct catalog *c, const uint8_t *watch_id, uint64_t number,
                        struct error *e)
{
    struct apply *a = &c->apply;
    int64_t kept = 0;

    assert(c->in_write && !a->active);
    memset(a, 0, sizeof(*a));
    int rc = catalog_watch_by_id(c, watch_id, &a->watch, e);
    if (rc == ERR_NOTFOUND) {
        a->is_new = true;
        rc = new_watch(c, watch_id, &a->watch, e);
    }
    if (rc == 0 && !a->is_new)
        rc = cat_number(c, e, &kept, CAT_SNAPSHOT_BEFORE, "ii", a->watch.serial, (int64_t)number);
    if (rc < 0)
        return rc;
    a->active = true;
    a->number = number;
    a->kept = (uint64_t)kept;
    a->empty = sum_is_zero(&a->watch.sum);
    return 0;
}

int cat_apply_op(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                 struct error *e)
{
    switch (op->type) {
    case OP_NAME_PUT:
        return put_name(c, op, raw, len, e);
    case OP_NAME_REMOVE:
        return remove_name(c, op, e);
    case OP_NODE_PUT:
        return put_node(c, op, raw, len, e);
    case OP_NODE_REMOVE:
        return remove_node(c, op, e);
    default:
        return error_set(e, ERR_DAMAGED, "an operation of type %u is unknown", op->type);
    }
}

static int apply_next(struct catalog *c, const struct op *op, const uint8_t *raw, size_t len,
                      struct error *e)
{
    bool put = op->type == OP_NAME_PUT || op->type == OP_NODE_PUT;

    if (put && c->apply.empty)
        return cat_apply_later(c, op, raw, len, e);
    int rc = cat_apply_flush(c, e);
    return rc == 0 ? cat_apply_op(c, op, raw, len, e) : rc;
}

int catalog_apply_ops(struct catalog *c, const void *ops, size_t len, struct error *e)
{
    struct reader r = reader_of(ops, len);
    struct op op;
    int rc;

    assert(c->apply.active);
    for (;;) {
        const uint8_t *raw = r.p;
        rc = op_decode(&r, &op, e);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return cat_apply_flush(c, e);
        rc = apply_next(c, &op, raw, (size_t)(r.p - raw), e);
        if (rc < 0)
            return rc;
    }
}

const struct state_sum *catalog_apply_sum(const struct catalog *c)
{
    return &c->apply.watch.sum;
}

int64_t catalog_apply_serial(const struct catalog *c)
{
    return c->apply.watch.serial;
}

static bool set_text(char **to, const char *text)
{
    if (!text)
        return true;
    char *copy = strdup(text);
    if (!copy)
        return false;
    free(*to);
    *to = copy;
    return true;
}

/* A name for a watch whose records do not tell one, or one that another watch has. */
static int settle_name(struct catalog *c, struct watch_row *w, struct error *e)
{
    struct watch_row other;
    char hex[9];

    if (w->name[0]) {
        int rc = catalog_watch_by_name(c, w->name, &other, e);
        if (rc == ERR_NOTFOUND)
            return 0;
        if (rc < 0)
            return rc;
        bool same = memcmp(other.id, w->id, WATCH_ID_LEN) == 0;
        watch_row_release(&other);
        if (same)
            return 0;
    }
    text_hex(w->id, 4, hex);
    char *name = text_format("%s-%s", w->name[0] ? w->name : "watch", hex);
    if (!name)
        return cat_no_memory(e);
    free(w->name);
    w->name = name;
    return 0;
}

static int store_watch(struct catalog *c, const struct commit *m, struct error *e)
{
    struct watch_row *w = &c->apply.watch;

    if (!set_text(&w->name, m->watch_name) || !set_text(&w->root, m->root) ||
        !set_text(&w->rules, m->rules))
        return cat_no_memory(e);
    int rc = c->apply.is_new || m->watch_name ? settle_name(c, w, e) : 0;
    if (rc < 0)
        return rc;
    w->last = m->number;
    w->next_node = m->next_node;
    w->files = m->files;
    w->bytes = m->bytes;
    w->incomplete_count = m->incomplete_count;
    return cat_watch_put(c, w, c->apply.is_new, e);
}

static int store_snapshot(struct catalog *c, const struct commit *m, int64_t watch, bool whole,
                          struct error *e)
{
    struct buffer body = BUFFER_INIT;
    struct commit bare = *m;

    bare.list_len = 0; /* its rows are in the tables */
    commit_encode(&bare, &body);
    int rc = buffer_ok(&body) ? cat_run(c, e, CAT_SNAPSHOT_INSERT, "iibiiitti", (int64_t)m->number,
                                        watch, body.data, body.len, m->time.s, (int64_t)m->kind,
                                        (int64_t)m->flags, m->name && *m->name ? m->name : NULL,
                                        m->note && *m->note ? m->note : NULL, (int64_t)whole)
                              : cat_no_memory(e);
    buffer_release(&body);
    return rc;
}

int catalog_apply_end(struct catalog *c, const struct commit *m, struct error *e)
{
    struct apply *a = &c->apply;

    assert(a->active && m->number == a->number);
    bool whole = SAFETY(STATE_SUM, memcmp(&a->watch.sum, &m->sum, sizeof(m->sum))) == 0;
    int rc = store_watch(c, m, e);
    if (rc == 0)
        rc = store_snapshot(c, m, a->watch.serial, whole, e);
    if (rc == 0 && c->position.next_number <= m->number)
        c->position.next_number = m->number + 1;
    watch_row_release(&a->watch);
    memset(a, 0, sizeof(*a));
    return rc;
}

int catalog_apply_list(struct catalog *c, const struct commit *m, struct error *e)
{
    struct buffer ops = BUFFER_INIT;
    struct error why = ERROR_INIT;

    if (m->list_len == 0)
        return 0;
    int rc = commit_list_decode(m, &ops, &why);
    if (rc == 0)
        rc = catalog_apply_ops(c, ops.data, ops.len, e);
    else if (rc == ERR_DAMAGED)
        rc = 0;
    else
        *e = why;
    buffer_release(&ops);
    return rc;
}

/* ---- marks ---- */

static int mark_snapshot(struct catalog *c, const struct mark *m, uint64_t number, struct error *e)
{
    int64_t n = (int64_t)number;
    const char *text = m->text && *m->text ? m->text : NULL;

    switch (m->type) {
    case MARK_VERIFIED:
        return cat_run(c, e, CAT_SNAPSHOT_VERIFIED, "iii", n, m->time.s, (int64_t)m->time.ns);
    case MARK_DAMAGED:
        return cat_run(c, e, CAT_SNAPSHOT_DAMAGED, "ii", n, INT64_C(1));
    case MARK_REPAIRED:
        return cat_run(c, e, CAT_SNAPSHOT_DAMAGED, "ii", n, INT64_C(0));
    case MARK_NAME:
        return cat_run(c, e, CAT_SNAPSHOT_NAME, "it", n, text);
    case MARK_NOTE:
        return cat_run(c, e, CAT_SNAPSHOT_NOTE, "it", n, text);
    case MARK_PIN:
        return cat_run(c, e, CAT_SNAPSHOT_PIN, "ii", n, INT64_C(1));
    case MARK_UNPIN:
        return cat_run(c, e, CAT_SNAPSHOT_PIN, "ii", n, INT64_C(0));
    default:
        return 0;
    }
}

static int mark_watch(struct catalog *c, const struct mark *m, struct error *e)
{
    static const uint8_t all[WATCH_ID_LEN];
    unsigned causes = freeze_causes(m->text);
    int64_t off = m->type == MARK_THAW ? causes : 0;
    int64_t on = m->type == MARK_THAW ? 0 : m->text && *m->text ? causes : FREEZE_OTHER;

    if (m->type != MARK_FREEZE && m->type != MARK_THAW)
        return 0;
    if (memcmp(m->watch_id, all, WATCH_ID_LEN) == 0)
        return cat_run(c, e, CAT_FREEZE_ALL, "ii", on, off);
    return cat_run(c, e, CAT_FREEZE, "bii", m->watch_id, (size_t)WATCH_ID_LEN, on, off);
}

/* Whether the mark is more than a column of its snapshots. */
static bool mark_is_kept(const struct mark *m)
{
    switch (m->type) {
    case MARK_VERIFIED:
    case MARK_DAMAGED:
    case MARK_REPAIRED:
    case MARK_NAME:
    case MARK_NOTE:
    case MARK_PIN:
    case MARK_UNPIN:
        return false;
    default:
        return true;
    }
}

static int keep_mark(struct catalog *c, uint64_t sequence, const struct mark *m, struct error *e)
{
    struct buffer body = BUFFER_INIT;

    mark_encode(m, &body);
    int rc = buffer_ok(&body) ? cat_run(c, e, CAT_MARK_PUT, "iib", (int64_t)sequence,
                                        (int64_t)m->type, body.data, body.len)
                              : cat_no_memory(e);
    buffer_release(&body);
    return rc;
}

static size_t key_len(const char *text)
{
    return text ? strcspn(text, " ") : 0;
}

static bool same_state(const struct mark *a, const struct mark *b)
{
    size_t len = key_len(a->text);

    return memcmp(a->watch_id, b->watch_id, WATCH_ID_LEN) == 0 && key_len(b->text) == len &&
           (len == 0 || memcmp(a->text, b->text, len) == 0);
}

/* The sequence of the mark that this one takes the place of, 0 = none. */
static int state_before(struct catalog *c, const struct mark *m, int64_t *sequence, struct error *e)
{
    struct mark old;
    int rc;

    *sequence = 0;
    sqlite3_stmt *s = cat_prepare(c, "SELECT sequence,body FROM marks WHERE type=?1", e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, MARK_STATE);
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = mark_decode(sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1), &old, e);
        if (rc != 0)
            break;
        if (same_state(&old, m))
            *sequence = sqlite3_column_int64(s, 0);
        mark_release(&old);
    }
    sqlite3_finalize(s);
    return rc;
}

/* What a mark that is kept takes the place of. */
static int supersede(struct catalog *c, const struct mark *m, struct error *e)
{
    int64_t before;

    if (m->type == MARK_EVENT)
        return cat_run(c, e, CAT_MARK_DROP_OLD, "ii", (int64_t)MARK_EVENT,
                       (int64_t)MARK_EVENTS_KEPT - 1);
    if (m->type != MARK_STATE)
        return 0;
    int rc = state_before(c, m, &before, e);
    return rc == 0 && before > 0 ? cat_run(c, e, CAT_MARK_DROP, "i", before) : rc;
}

int catalog_apply_mark(struct catalog *c, uint64_t sequence, const struct mark *m, struct error *e)
{
    int rc = mark_watch(c, m, e);

    assert(c->in_write);
    for (uint32_t i = 0; rc == 0 && i < m->count; i++)
        rc = mark_snapshot(c, m, m->snapshots[i], e);
    if (rc == 0 && mark_is_kept(m))
        rc = supersede(c, m, e);
    if (rc == 0 && mark_is_kept(m))
        rc = keep_mark(c, sequence, m, e);
    return rc;
}

/* ---- prune ---- */

/* References of the node rows that are about to go. */
static int release_nodes(struct catalog *c, int64_t watch, int64_t number, int64_t next,
                         int64_t before, struct error *e)
{
    int rc;

    sqlite3_stmt *s = cat_prepare(c,
                                  "SELECT meta FROM old_nodes WHERE watch=?1 AND to_>?2 AND "
                                  "to_<=?3 AND from_>?4",
                                  e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, watch);
    sqlite3_bind_int64(s, 2, number);
    sqlite3_bind_int64(s, 3, next);
    sqlite3_bind_int64(s, 4, before);
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = cat_node_refs(c, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0), -1, e);
        if (rc < 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

int catalog_drop(struct catalog *c, uint64_t number, struct error *e)
{
    int64_t watch = 0, before = 0, next = 0, n = (int64_t)number;

    assert(c->in_write);
    int rc = cat_number(c, e, &watch, CAT_SNAPSHOT_WATCH, "i", n);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    rc = cat_number(c, e, &before, CAT_SNAPSHOT_BEFORE, "ii", watch, n);
    if (rc == 0)
        rc = cat_number(c, e, &next, CAT_SNAPSHOT_AFTER, "ii", watch, n);
    if (next == 0)
        next = CATALOG_OPEN;
    if (rc == 0)
        rc = release_nodes(c, watch, n, next, before, e);
    if (rc == 0)
        rc = cat_run(c, e, CAT_NODE_DROP, "iiii", watch, n, next, before);
    if (rc == 0)
        rc = cat_run(c, e, CAT_NAME_DROP, "iiii", watch, n, next, before);
    if (rc == 0)
        rc = cat_run(c, e, CAT_SNAPSHOT_DELETE, "i", n);
    return rc == 0 ? cat_run(c, e, CAT_WATCH_LAST, "i", watch) : rc;
}
