/* The chunks that a write transaction places or counts, until they become rows.
 *
 * They do in order of id: ids are random, and rows in order touch each page once. When there are
 * too many, those go first whose place and references have met: such a row is written once, and
 * many with one statement. */
#include "store/catalog_private.h"

#include <stdlib.h>

#include "base/banned.h"

enum {
    PENDING_MAX = 128 * 1024,
    PENDING_MANY = 512 * 1024,
};

void catalog_gather_many(struct catalog *c, bool many)
{
    c->gather_many = many;
}

/* 1: it is a new row; 0: there is one already. */
static int flush_new(struct catalog *c, const struct pending_chunk *p, struct error *e)
{
    int rc = cat_run(c, e, CAT_CHUNK_INSERT, "biiiii", p->id.b, (size_t)HASH_LEN, (int64_t)p->pack,
                     (int64_t)p->offset, (int64_t)p->raw_off, (int64_t)p->raw_len,
                     p->delta > 0 ? p->delta : 0);

    if (rc < 0 || sqlite3_changes(c->db) == 0)
        return rc;
    c->chunk_count++;
    return 1;
}

static int flush_known(struct catalog *c, const struct pending_chunk *p, uint64_t pack,
                       int64_t refs, struct error *e)
{
    refs = refs + p->delta > 0 ? refs + p->delta : 0;
    if (p->placed && (p->replace || pack == 0))
        return cat_run(c, e, CAT_CHUNK_PLACE, "biiiii", p->id.b, (size_t)HASH_LEN, (int64_t)p->pack,
                       (int64_t)p->offset, (int64_t)p->raw_off, (int64_t)p->raw_len, refs);
    if (p->delta == 0)
        return 0;
    return cat_run(c, e, CAT_CHUNK_REFS, "bi", p->id.b, (size_t)HASH_LEN, refs);
}

/* 1: there is a row, and its references are right; 0: there is none. */
static int count_known(struct catalog *c, const struct pending_chunk *p, struct error *e)
{
    int rc = cat_run(c, e, CAT_CHUNK_COUNT, "bi", p->id.b, (size_t)HASH_LEN, p->delta);

    return rc < 0 ? rc : sqlite3_changes(c->db) > 0;
}

/* What has been placed is most often new, what only was referenced most often known. */
static int flush_one(struct catalog *c, const struct pending_chunk *p, struct error *e)
{
    int rc = p->placed ? flush_new(c, p, e) : 0;
    if (rc == 0 && !p->placed && p->delta != 0)
        rc = count_known(c, p, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    sqlite3_stmt *s = cat_bind(c, e, CAT_CHUNK, "b", p->id.b, (size_t)HASH_LEN);
    rc = s ? cat_step(c, s, e) : e->code;
    if (rc < 0)
        return rc;
    if (rc == 0) {
        rc = flush_new(c, p, e);
        return rc < 0 ? rc : 0;
    }
    uint64_t pack = (uint64_t)sqlite3_column_int64(s, 0);
    int64_t refs = sqlite3_column_int64(s, 4);
    sqlite3_reset(s);
    return flush_known(c, p, pack, refs, e);
}

/* BULK_ROWS of them that all have been placed; how many were new, up to the first that was not. */
static int flush_bulk(struct catalog *c, const uint32_t *order, struct error *e)
{
    int rc = cat_bulk_begin(c, BULK_CHUNKS, e);

    if (rc < 0)
        return rc;
    for (int i = 0; i < BULK_ROWS; i++) {
        const struct pending_chunk *p = id_map_at(&c->pending, order[i]);
        cat_bulk_blob(c, BULK_CHUNKS, p->id.b, HASH_LEN);
        cat_bulk_int(c, BULK_CHUNKS, (int64_t)p->pack);
        cat_bulk_int(c, BULK_CHUNKS, (int64_t)p->offset);
        cat_bulk_int(c, BULK_CHUNKS, p->raw_off);
        cat_bulk_int(c, BULK_CHUNKS, p->raw_len);
        cat_bulk_int(c, BULK_CHUNKS, p->delta > 0 ? p->delta : 0);
    }
    rc = cat_bulk_end(c, BULK_CHUNKS, e);
    if (rc > 0)
        c->chunk_count += (uint64_t)rc;
    return rc;
}

static bool all_placed(const struct catalog *c, const uint32_t *order)
{
    for (int i = 0; i < BULK_ROWS; i++)
        if (!((const struct pending_chunk *)id_map_at(&c->pending, order[i]))->placed)
            return false;
    return true;
}

static int flush_in_order(struct catalog *c, const uint32_t *order, size_t count, struct error *e)
{
    size_t i = 0;
    int rc = 0;

    while (rc == 0 && i < count) {
        int done = 0;
        if (count - i >= BULK_ROWS && all_placed(c, order + i))
            done = flush_bulk(c, order + i, e);
        if (done < 0)
            return done;
        i += (size_t)done;
        if (done < BULK_ROWS && i < count)
            rc = flush_one(c, id_map_at(&c->pending, order[i++]), e);
    }
    return rc;
}

int cat_flush_chunks(struct catalog *c, struct error *e)
{
    if (c->pending.count == 0)
        return 0;
    uint32_t *order = id_map_sorted(&c->pending);
    if (!order)
        return cat_no_memory(e);
    int rc = flush_in_order(c, order, c->pending.count, e);
    free(order);
    id_map_release(&c->pending);
    return rc;
}

static bool has_met(const struct pending_chunk *p)
{
    return p->placed && p->delta != 0;
}

/* Moves what has not met to a table of its own; order keeps the rest, *met of them. */
static int split_pending(const struct catalog *c, uint32_t *order, size_t *met,
                         struct id_map *others, struct error *e)
{
    bool fresh;

    id_map_init(others, sizeof(struct pending_chunk));
    *met = 0;
    for (size_t i = 0; i < c->pending.count; i++) {
        const struct pending_chunk *p = id_map_at(&c->pending, order[i]);
        struct pending_chunk *other = has_met(p) ? NULL : id_map_put(others, &p->id, &fresh);
        if (other)
            *other = *p;
        else if (has_met(p))
            order[(*met)++] = order[i];
        else
            return cat_no_memory(e);
    }
    return 0;
}

/* All of them where that would hardly make room. */
static int flush_met(struct catalog *c, struct error *e)
{
    struct id_map others;
    size_t met = 0;

    for (size_t i = 0; i < c->pending.count; i++)
        met += has_met(id_map_at(&c->pending, i));
    if (met < c->pending.count / 2)
        return cat_flush_chunks(c, e);
    uint32_t *order = id_map_sorted(&c->pending);
    if (!order)
        return cat_no_memory(e);
    int rc = split_pending(c, order, &met, &others, e);
    if (rc == 0)
        rc = flush_in_order(c, order, met, e);
    free(order);
    if (rc == 0) {
        id_map_release(&c->pending);
        c->pending = others;
    } else {
        id_map_release(&others);
    }
    return rc;
}

struct pending_chunk *cat_pending_put(struct catalog *c, const struct hash *id, struct error *e)
{
    bool fresh;

    size_t max = c->gather_many ? PENDING_MANY : PENDING_MAX;

    if (c->pending.count >= max && !id_map_find(&c->pending, id) && flush_met(c, e) < 0)
        return NULL;
    struct pending_chunk *p = id_map_put(&c->pending, id, &fresh);
    if (!p)
        cat_no_memory(e);
    return p;
}

int cat_pending_add(struct catalog *c, const struct hash *id, int64_t delta, struct error *e)
{
    struct pending_chunk *p = cat_pending_put(c, id, e);

    if (!p)
        return e->code;
    p->delta += delta;
    return 0;
}
