/* Where chunks stand and how many references each has.
 *
 * References: one for each reference in a kept version of a node; one for each in a list chunk that
 * is itself referenced as a list (once, not for each of its own references); one for each delta
 * block from its base. A chunk may be data of one file and a list of another, so references as a
 * list are counted apart, by level, in `lists`: the first one counts the children, the last one
 * uncounts them.
 *
 * Changes of a write transaction gather as pending first (catalog_pending.c). */
#include "store/catalog_private.h"
#include "store/chunk_list.h"

#include "base/bytes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- places ---- */

static int chunk_from(sqlite3_stmt *s, struct chunk_place *p)
{
    p->pack_id = (uint64_t)sqlite3_column_int64(s, 0);
    p->offset = (uint64_t)sqlite3_column_int64(s, 1);
    p->raw_off = (uint32_t)sqlite3_column_int64(s, 2);
    p->raw_len = (uint32_t)sqlite3_column_int64(s, 3);
    p->refs = (uint64_t)sqlite3_column_int64(s, 4);
    return 0;
}

int catalog_chunk(struct catalog *c, const struct hash *id, struct chunk_place *p, struct error *e)
{
    struct pending_chunk *n = c->in_write ? id_map_find(&c->pending, id) : NULL;

    if (n && n->placed) {
        *p = (struct chunk_place){.pack_id = n->pack,
                                  .offset = n->offset,
                                  .raw_off = n->raw_off,
                                  .raw_len = n->raw_len,
                                  .refs = n->delta > 0 ? (uint64_t)n->delta : 0};
        return 0;
    }
    sqlite3_stmt *s = cat_bind(c, e, CAT_CHUNK, "b", id->b, (size_t)HASH_LEN);
    int rc = s ? cat_step(c, s, e) : e->code;
    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "chunk %02x%02x%02x%02x is not in the repository",
                         id->b[0], id->b[1], id->b[2], id->b[3]);
    chunk_from(s, p);
    sqlite3_reset(s);
    return 0;
}

int catalog_chunks(struct catalog *c, chunk_visit visit, void *ctx, struct error *e)
{
    struct chunk_place p;
    struct hash id;
    int rc;

    sqlite3_stmt *s =
        cat_prepare(c, "SELECT pack,offset,raw_off,raw_len,refs,id FROM chunks ORDER BY id", e);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        if (sqlite3_column_bytes(s, 5) != HASH_LEN) {
            rc = error_set(e, ERR_CATALOG, "catalog: a chunk's row is damaged");
            break;
        }
        memcpy(id.b, sqlite3_column_blob(s, 5), HASH_LEN);
        chunk_from(s, &p);
        rc = visit(ctx, &id, &p);
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

uint64_t catalog_chunk_count(struct catalog *c)
{
    struct error ignored = ERROR_INIT;

    if (!c->in_write)
        cat_state_load(c, &ignored);
    return c->chunk_count;
}

int catalog_chunk_lost(struct catalog *c, const struct hash *id, struct error *e)
{
    int rc = cat_flush_chunks(c, e);

    return rc == 0 ? cat_run(c, e, CAT_CHUNK_LOST, "b", id->b, (size_t)HASH_LEN) : rc;
}

/* The base of a delta block gains a reference, once for each place. */
static int add_delta(struct catalog *c, uint64_t pack_id, uint64_t offset,
                     const struct block_base *base, struct error *e)
{
    int rc = cat_run(c, e, CAT_DELTA_PUT, "iibii", (int64_t)pack_id, (int64_t)offset, base->id.b,
                     (size_t)HASH_LEN, (int64_t)base->rank, (int64_t)base->depth);

    if (rc < 0 || sqlite3_changes(c->db) == 0)
        return rc;
    return cat_pending_add(c, &base->id, 1, e);
}

static int recount(struct catalog *c, const struct hash *id, struct error *e);

int catalog_add_block(struct catalog *c, uint64_t pack_id, uint64_t offset,
                      const struct block_chunk *chunks, uint32_t count,
                      const struct block_base *base, bool replace, struct error *e)
{
    int rc = base ? add_delta(c, pack_id, offset, base, e) : 0;

    assert(c->in_write);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        struct pending_chunk *p = cat_pending_put(c, &chunks[i].id, e);
        if (!p)
            return e->code;
        if (!p->placed || replace) {
            p->pack = pack_id;
            p->offset = offset;
            p->raw_off = chunks[i].raw_off;
            p->raw_len = chunks[i].raw_len;
        }
        p->placed = true;
        p->replace |= replace;
        if (c->uncounted > 0)
            rc = recount(c, &chunks[i].id, e);
    }
    return rc;
}

int catalog_delta_base(struct catalog *c, uint64_t pack_id, uint64_t offset,
                       struct block_base *base, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_DELTA_GET, "ii", (int64_t)pack_id, (int64_t)offset);
    int rc = s ? cat_step(c, s, e) : e->code;

    if (rc < 0)
        return rc;
    if (rc == 0)
        return error_set(e, ERR_NOTFOUND, "the block is no delta");
    bool fits = sqlite3_column_bytes(s, 0) == HASH_LEN;
    if (fits)
        memcpy(base->id.b, sqlite3_column_blob(s, 0), HASH_LEN);
    base->rank = (uint8_t)sqlite3_column_int(s, 1);
    base->depth = (uint8_t)sqlite3_column_int(s, 2);
    sqlite3_reset(s);
    return fits ? 0 : error_set(e, ERR_CATALOG, "catalog: a delta's row is damaged");
}

/* ---- references ---- */

static int list_refs(struct catalog *c, const struct hash *id, unsigned depth, int sign,
                     struct error *e);

int catalog_ref_list(struct catalog *c, const struct hash *id, const struct chunk_ref *refs,
                     uint32_t count, int sign, struct error *e)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = cat_pending_add(c, &refs[i].id, sign, e);
    return rc;
}

/* Children of a list chunk depth levels above the data. ERR_DAMAGED or ERR_NOTFOUND: its content
 * cannot be had. */
static int child_refs(struct catalog *c, const struct hash *id, unsigned depth, int sign,
                      struct error *e)
{
    struct chunk_ref *refs = NULL;
    uint32_t count = 0;

    if (!c->read_list)
        return error_set(e, ERR_NOTFOUND, "lists of chunks cannot be read here");
    int rc = c->read_list(c->read_list_ctx, id, &refs, &count, e);
    if (rc == ERR_FAILED && sign < 0) /* it is asked for the last time: see last_list_ref */
        rc = c->read_list(c->read_list_ctx, id, &refs, &count, e);
    if (rc < 0)
        return rc;
    rc = catalog_ref_list(c, id, refs, count, sign, e);
    for (uint32_t i = 0; rc == 0 && depth > 1 && i < count; i++)
        rc = list_refs(c, &refs[i].id, depth - 1, sign, e);
    free(refs);
    return rc;
}

static int list_row(struct catalog *c, const struct hash *id, unsigned depth, int64_t *refs,
                    bool *counted, struct error *e)
{
    sqlite3_stmt *s = cat_bind(c, e, CAT_LIST_GET, "bi", id->b, (size_t)HASH_LEN, (int64_t)depth);
    int rc = s ? cat_step(c, s, e) : e->code;

    *refs = 0;
    *counted = false;
    if (rc < 1)
        return rc;
    *refs = sqlite3_column_int64(s, 0);
    *counted = sqlite3_column_int(s, 1) != 0;
    sqlite3_reset(s);
    return 0;
}

static int put_list(struct catalog *c, const struct hash *id, unsigned depth, int64_t refs,
                    bool counted, struct error *e)
{
    return cat_run(c, e, CAT_LIST_PUT, "biii", id->b, (size_t)HASH_LEN, (int64_t)depth, refs,
                   (int64_t)counted);
}

/* Else the disk gave no answer: nothing may be counted as if there were no children. */
static bool content_is_lost(int rc)
{
    return rc == ERR_DAMAGED || rc == ERR_NOTFOUND;
}

static int first_list_ref(struct catalog *c, const struct hash *id, unsigned depth, struct error *e)
{
    int rc = child_refs(c, id, depth, 1, e);
    bool counted = rc == 0;

    if (rc < 0 && !content_is_lost(rc))
        return rc;
    if (!counted)
        c->uncounted++;
    return put_list(c, id, depth, 1, counted, e);
}

static int last_list_ref(struct catalog *c, const struct hash *id, unsigned depth, bool counted,
                         struct error *e)
{
    int rc = counted ? child_refs(c, id, depth, -1, e) : 0;

    if (rc < 0 && !content_is_lost(rc) && rc != ERR_FAILED)
        return rc; /* else the children keep too many references, which loses nothing; one bad
                      sector must not keep old snapshots from going */
    if (!counted && c->uncounted > 0)
        c->uncounted--;
    return cat_run(c, e, CAT_LIST_DELETE, "bi", id->b, (size_t)HASH_LEN, (int64_t)depth);
}

static int list_refs(struct catalog *c, const struct hash *id, unsigned depth, int sign,
                     struct error *e)
{
    int64_t refs;
    bool counted;

    int rc = list_row(c, id, depth, &refs, &counted, e);
    if (rc < 0)
        return rc;
    if (sign > 0 && refs == 0)
        return first_list_ref(c, id, depth, e);
    if (sign < 0 && refs <= 1)
        return refs == 1 ? last_list_ref(c, id, depth, counted, e) : 0;
    return put_list(c, id, depth, refs + sign, counted, e);
}

/* A list chunk whose content was lost has been stored again. */
static int recount(struct catalog *c, const struct hash *id, struct error *e)
{
    int64_t refs;
    bool counted;

    for (unsigned depth = 1; depth <= CHUNK_LIST_DEPTH_MAX; depth++) {
        int rc = list_row(c, id, depth, &refs, &counted, e);
        if (rc < 0)
            return rc;
        if (refs == 0 || counted)
            continue;
        rc = child_refs(c, id, depth, 1, e);
        if (rc < 0 && content_is_lost(rc))
            continue;
        if (rc == 0)
            rc = put_list(c, id, depth, refs, true, e);
        if (rc < 0)
            return rc;
        c->uncounted--;
    }
    return 0;
}

int cat_node_refs(struct catalog *c, const void *meta, size_t len, int sign, struct error *e)
{
    struct node n;

    int rc = node_decode(meta, len, &n, e);
    if (rc < 0)
        return rc == ERR_DAMAGED ? 0 : rc; /* a version nobody can read references nothing */
    rc = catalog_ref_list(c, NULL, n.refs, n.ref_count, sign, e);
    for (uint32_t i = 0; rc == 0 && n.depth > 0 && i < n.ref_count; i++)
        rc = list_refs(c, &n.refs[i].id, n.depth, sign, e);
    node_release(&n);
    return rc;
}

/* ---- packs that are cut ---- */

int catalog_last_blocks(struct catalog *c, uint64_t pack_id, block_visit visit, void *ctx,
                        struct error *e)
{
    const char *sql = "SELECT pack,max(offset) FROM chunks WHERE refs>0 AND pack>0 "
                      "AND (?1=0 OR pack=?1) GROUP BY pack";

    int rc = cat_state_load(c, e);

    if (rc == 0 && c->uncounted > 0)
        rc = error_set(e, ERR_FAILED, "what is needed of the packs is not known");
    sqlite3_stmt *s = rc < 0 ? NULL : cat_prepare(c, sql, e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, (int64_t)pack_id);
    while ((rc = cat_step(c, s, e)) == 1) {
        rc = visit(ctx, (uint64_t)sqlite3_column_int64(s, 0), (uint64_t)sqlite3_column_int64(s, 1));
        if (rc != 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

/* Deltas go with their blocks, and what they were based on loses a reference. */
static int release_bases(struct catalog *c, uint64_t id, uint64_t end, struct error *e)
{
    struct hash base;
    int rc;

    sqlite3_stmt *s = cat_prepare(c, "SELECT base FROM deltas WHERE pack=?1 AND offset>=?2", e);
    if (!s)
        return e->code;
    sqlite3_bind_int64(s, 1, (int64_t)id);
    sqlite3_bind_int64(s, 2, (int64_t)end);
    while ((rc = cat_step(c, s, e)) == 1) {
        if (sqlite3_column_bytes(s, 0) != HASH_LEN)
            continue;
        memcpy(base.b, sqlite3_column_blob(s, 0), HASH_LEN);
        rc = cat_pending_add(c, &base, -1, e);
        if (rc < 0)
            break;
    }
    sqlite3_finalize(s);
    if (rc == 0)
        rc = cat_run(c, e, CAT_DELTAS_CUT, "ii", (int64_t)id, (int64_t)end);
    return rc == 0 ? cat_flush_chunks(c, e) : rc;
}

/* What was said of bytes that are gone is not said of others that come in their place. */
static int lower_note(struct catalog *c, const char *key, uint64_t id, uint64_t end,
                      struct error *e)
{
    struct buffer note = BUFFER_INIT;
    bool lowered = false;

    int rc = catalog_note_get(c, key, &note, e);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        return 0;
    }
    for (size_t at = 0; rc == 0 && at + CATALOG_READ_LEN <= note.len; at += CATALOG_READ_LEN) {
        uint8_t *p = note.data + at;
        if (load_u64(p) != id || load_u64(p + 8) <= end)
            continue;
        store_u64(p + 8, end);
        lowered = true;
    }
    if (lowered)
        rc = catalog_note_put(c, key, note.data, note.len, e);
    buffer_release(&note);
    return rc;
}

int catalog_pack_cut(struct catalog *c, const struct catalog_pack *row, uint64_t end,
                     struct error *e)
{
    int64_t id = (int64_t)row->id, live = 0;
    struct catalog_pack cut = *row;

    assert(c->in_write);
    int rc = cat_flush_chunks(c, e);
    if (rc == 0)
        rc = cat_number(c, e, &live, CAT_CHUNKS_BEHIND, "ii", id, (int64_t)end);
    if (rc == 0 && live == 0)
        rc = release_bases(c, row->id, end, e);
    if (rc == 0)
        rc = cat_run(c, e, CAT_CHUNKS_CUT, "ii", id, (int64_t)end);
    if (rc < 0)
        return rc;
    c->chunk_count -= (uint64_t)sqlite3_changes(c->db);
    rc = lower_note(c, CATALOG_VERIFIED, row->id, end, e);
    if (rc == 0)
        rc = lower_note(c, CATALOG_VERIFY_BAD, row->id, end, e);
    if (rc < 0 || live > 0)
        return rc;
    cut.len = end;
    cut.sealed = false;
    return catalog_pack_put(c, &cut, e);
}

/* ---- packs that go ---- */

int catalog_pack_emptied(struct catalog *c, uint64_t id, int64_t time, struct error *e)
{
    struct catalog_pack p;

    assert(c->in_write);
    if (c->position.next_pack <= id)
        c->position.next_pack = id + 1;
    int rc = catalog_pack(c, id, &p, e);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    p.gone = time ? time : 1;
    rc = release_bases(c, id, 0, e);
    if (rc == 0)
        rc = cat_flush_chunks(c, e);
    if (c->position.commit_pack == id)
        c->position.commit_pack = c->position.commit_offset = 0;
    return rc == 0 ? catalog_pack_put(c, &p, e) : rc;
}

int catalog_pack_gone(struct catalog *c, uint64_t id, int64_t time, struct error *e)
{
    int rc = catalog_pack_emptied(c, id, time, e);

    if (rc == 0)
        rc = cat_flush_chunks(c, e);
    if (rc == 0)
        rc = cat_run(c, e, CAT_CHUNKS_DEAD, "i", (int64_t)id);
    if (rc == 0) {
        c->chunk_count -= (uint64_t)sqlite3_changes(c->db);
        rc = cat_run(c, e, CAT_CHUNKS_GONE, "i", (int64_t)id);
    }
    return rc;
}

int catalog_chunk_forget(struct catalog *c, const struct hash *id, uint64_t pack_id,
                         struct error *e)
{
    assert(c->in_write && c->pending.count == 0);
    int rc = cat_run(c, e, CAT_CHUNK_DEAD, "bi", id->b, (size_t)HASH_LEN, (int64_t)pack_id);

    if (rc == 0)
        c->chunk_count -= (uint64_t)sqlite3_changes(c->db);
    return rc;
}

int catalog_pack_forget(struct catalog *c, uint64_t id, struct error *e)
{
    return cat_run(c, e, CAT_PACK_DELETE, "i", (int64_t)id);
}

int catalog_pack_uses(struct catalog *c, struct pack_use **out, size_t *count, struct error *e)
{
    struct pack_use *list = NULL;
    int rc;

    *out = NULL;
    *count = 0;
    sqlite3_stmt *s =
        cat_prepare(c,
                    "SELECT pack,sum(CASE WHEN refs>0 THEN raw_len ELSE 0 END),"
                    "sum(raw_len),sum(refs>0) FROM chunks WHERE pack>0 GROUP BY pack ORDER BY pack",
                    e);
    if (!s)
        return e->code;
    while ((rc = cat_step(c, s, e)) == 1) {
        struct pack_use *more = realloc(list, (*count + 1) * sizeof(*more));
        if (!more) {
            rc = cat_no_memory(e);
            break;
        }
        list = more;
        list[(*count)++] = (struct pack_use){.pack_id = (uint64_t)sqlite3_column_int64(s, 0),
                                             .live = (uint64_t)sqlite3_column_int64(s, 1),
                                             .all = (uint64_t)sqlite3_column_int64(s, 2),
                                             .live_count = (uint64_t)sqlite3_column_int64(s, 3)};
    }
    sqlite3_finalize(s);
    if (rc < 0) {
        free(list);
        return rc;
    }
    *out = list;
    return 0;
}

/* ---- audit ---- */

struct count {
    struct hash id;
    uint64_t refs;
};

struct audit {
    struct catalog *catalog;
    struct id_map counts;                         /* struct count */
    struct id_map seen[CHUNK_LIST_DEPTH_MAX + 1]; /* list chunks done, by level */
    uint64_t wrong;
    audit_visit visit;
    void *ctx;
    struct error *e;
};

static int audit_list(struct audit *a, const struct hash *id, unsigned depth);

static int audit_refs(struct audit *a, const struct chunk_ref *refs, uint32_t count, unsigned depth)
{
    bool fresh;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        struct count *n = id_map_put(&a->counts, &refs[i].id, &fresh);
        if (!n)
            return cat_no_memory(a->e);
        n->refs++;
        if (depth > 0)
            rc = audit_list(a, &refs[i].id, depth);
    }
    return rc;
}

static int audit_list(struct audit *a, const struct hash *id, unsigned depth)
{
    struct chunk_ref *refs = NULL;
    uint32_t count = 0;
    bool fresh;

    if (depth > CHUNK_LIST_DEPTH_MAX)
        return 0;
    if (!id_map_put(&a->seen[depth], id, &fresh))
        return cat_no_memory(a->e);
    if (!fresh || !a->catalog->read_list)
        return 0;
    struct error lost = ERROR_INIT;
    int rc = a->catalog->read_list(a->catalog->read_list_ctx, id, &refs, &count, &lost);
    if (rc < 0 && content_is_lost(rc))
        return 0; /* the reader of chunks tells this damage */
    if (rc < 0) {
        *a->e = lost;
        return rc;
    }
    rc = audit_refs(a, refs, count, depth - 1);
    free(refs);
    return rc;
}

static int audit_nodes(struct audit *a)
{
    struct node n;
    int rc;

    sqlite3_stmt *s = cat_prepare(
        a->catalog, "SELECT meta FROM nodes UNION ALL SELECT meta FROM old_nodes", a->e);
    if (!s)
        return a->e->code;
    while ((rc = cat_step(a->catalog, s, a->e)) == 1) {
        rc = node_decode(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0), &n, a->e);
        if (rc == ERR_DAMAGED)
            continue; /* as when it was applied: it references nothing */
        if (rc == 0) {
            rc = audit_refs(a, n.refs, n.ref_count, n.depth);
            node_release(&n);
        }
        if (rc < 0)
            break;
    }
    sqlite3_finalize(s);
    return rc;
}

static int audit_deltas(struct audit *a)
{
    bool fresh;
    int rc;

    sqlite3_stmt *s = cat_prepare(a->catalog, "SELECT base FROM deltas", a->e);
    if (!s)
        return a->e->code;
    while ((rc = cat_step(a->catalog, s, a->e)) == 1) {
        struct hash id = {{0}};
        if (sqlite3_column_bytes(s, 0) == HASH_LEN)
            memcpy(id.b, sqlite3_column_blob(s, 0), HASH_LEN);
        struct count *n = id_map_put(&a->counts, &id, &fresh);
        if (!n) {
            rc = cat_no_memory(a->e);
            break;
        }
        n->refs++;
    }
    sqlite3_finalize(s);
    return rc;
}

static int compare_count(void *ctx, const struct hash *id, const struct chunk_place *p)
{
    struct audit *a = ctx;
    const struct count *n = id_map_find(&a->counts, id);
    uint64_t counted = n ? n->refs : 0;

    if (counted == p->refs)
        return 0;
    a->wrong++;
    return a->visit ? a->visit(a->ctx, id, p->refs, counted) : 0;
}

int catalog_audit_refs(struct catalog *c, uint64_t *wrong, audit_visit visit, void *ctx,
                       struct error *e)
{
    struct audit a = {.catalog = c, .visit = visit, .ctx = ctx, .e = e};

    id_map_init(&a.counts, sizeof(struct count));
    for (unsigned i = 0; i <= CHUNK_LIST_DEPTH_MAX; i++)
        id_map_init(&a.seen[i], sizeof(struct hash));
    int rc = audit_nodes(&a);
    if (rc == 0)
        rc = audit_deltas(&a);
    if (rc == 0)
        rc = catalog_chunks(c, compare_count, &a, e);
    *wrong = a.wrong;
    id_map_release(&a.counts);
    for (unsigned i = 0; i <= CHUNK_LIST_DEPTH_MAX; i++)
        id_map_release(&a.seen[i]);
    return rc;
}
