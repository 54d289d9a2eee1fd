/* A new version of a chunk is stored as a delta on an earlier one.
 *
 * The versions of a line are ranked 0, 1, 2, ...; rank 0 has no base. The base of rank m is the one
 * of rank m with its lowest set bit cleared (the "skip deltas" of Subversion's FSFS). So most
 * deltas stand on the version just before, none is more than eight deltas deep, and the bytes of
 * rank 0 are paid once in 256 versions. Each base is an ancestor of the version that is replaced,
 * hence found by walking back from it.
 *
 * A delta over several versions repeats what changed in between. Where much changes at once (a page
 * of a chunk, lines of a log) that costs more than rank 0 does: then each delta stands on the
 * version before it, and the line begins anew after eight.
 *
 * What a delta saves is measured, not guessed: one that is large is packed without its base too,
 * and the line begins anew when that is hardly longer. */
#include "store/repo_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    RANK_MAX = 255,
    DEPTH_MAX = 8,
    MUCH = 32,     /* beyond raw length / MUCH a change is much */
    LARGE = 4,     /* a delta beyond raw length / LARGE is compared with the chunk packed alone */
    WORTH = 8,     /* and has to be shorter by one part in WORTH */
    BASE_GROW = 4, /* a base many times longer than the chunk costs more than it gives */
};

struct ancestor {
    struct hash id;
    bool has_base;
    struct block_base base; /* its own; rank and depth are 0 without one */
};

/* 1: it is stored; 0: it is not, or in a pack that is gone. */
static int look_up(struct txn *t, const struct hash *id, struct ancestor *a, struct error *e)
{
    struct error absent = ERROR_INIT;
    struct chunk_place at;

    *a = (struct ancestor){.id = *id};
    int rc = txn_claims_catalog(t, e);
    if (rc < 0 || t->none_known)
        return rc;
    rc = catalog_chunk(t->claims_catalog, id, &at, &absent);
    if (rc == ERR_NOTFOUND || (rc == 0 && at.pack_id == 0))
        return 0;
    if (rc == 0 && !repo_place_holds(t->repo, at.pack_id))
        return 0;
    if (rc == 0)
        rc = catalog_delta_base(t->claims_catalog, at.pack_id, at.offset, &a->base, &absent);
    a->has_base = rc == 0;
    if (rc == 0 || rc == ERR_NOTFOUND)
        return 1;
    *e = absent;
    return rc;
}

/* Back to the ancestor of that rank, or else to the one without a base. */
static int walk_back(struct txn *t, struct ancestor *a, unsigned rank, struct error *e)
{
    int rc = 1;

    for (unsigned i = 0; rc == 1 && i <= 2 * DEPTH_MAX; i++) {
        if (!a->has_base || a->base.rank == rank)
            return 1;
        if (a->base.rank < rank)
            rank = 0; /* the line is not ranked as it should be */
        struct hash next = a->base.id;
        rc = look_up(t, &next, a, e);
    }
    return rc < 0 ? rc : 0;
}

struct choice {
    bool any, two;
    struct block_base far;  /* by rank */
    struct block_base near; /* two: the version that is replaced is another one, and may serve */
};

static int choose(struct txn *t, const struct hash *old, struct choice *c, struct error *e)
{
    struct ancestor a;

    *c = (struct choice){.any = false};
    int rc = look_up(t, old, &a, e);
    if (rc != 1)
        return rc;
    unsigned rank = a.base.rank + 1u;
    if (rank > RANK_MAX)
        return 0;
    c->near = (struct block_base){
        .id = *old, .rank = (uint8_t)rank, .depth = (uint8_t)(a.base.depth + 1)};
    rc = walk_back(t, &a, rank & (rank - 1), e);
    if (rc != 1 || a.base.depth >= DEPTH_MAX)
        return rc < 0 ? rc : 0;
    c->far = (struct block_base){
        .id = a.id, .rank = (uint8_t)rank, .depth = (uint8_t)(a.base.depth + 1)};
    c->any = true;
    c->two = c->near.depth <= DEPTH_MAX && !hash_equal(&a.id, old);
    return 0;
}

/* The base's bytes, which the caller frees; NULL: they cannot be had. */
static uint8_t *base_bytes(struct txn *t, struct chunk_source **s, const struct hash *id, bool read,
                           size_t *len)
{
    struct error ignored = ERROR_INIT;
    const uint8_t *p;

    uint8_t *copy = base_cache_get(t->repo->bases, id, len);
    if (copy || !read)
        return copy;
    if (!*s && chunk_source_open(t->repo, s, &ignored) < 0)
        return NULL;
    if (chunk_source_get(*s, id, &p, len, &ignored) < 0)
        return NULL;
    copy = malloc(*len ? *len : 1);
    if (copy)
        memcpy(copy, p, *len);
    base_cache_put(t->repo->bases, id, p, *len);
    return copy;
}

static bool is_delta(const struct buffer *record)
{
    const size_t flags = RECORD_HEADER_LEN + BLOCK_FLAGS_OFFSET;

    return record->len > flags && record->data[flags] & BLOCK_HAS_BASE;
}

struct version { /* being stored */
    struct txn *txn;
    struct chunk_source **source;
    const struct block_chunk *chunk;
    const void *raw;
    bool read;
};

/* The block's body, behind room for its record's header. */
static int pack_block(const struct version *v, const struct block_base *link, const void *base,
                      size_t base_len, struct buffer *record, struct error *e)
{
    if (!buffer_grow(record, RECORD_HEADER_LEN))
        return repo_no_memory(e);
    return block_encode(v->chunk, 1, v->raw, v->chunk->raw_len, v->txn->repo->codec, CODEC_FAST,
                        link, base, base_len, record, e);
}

/* record stays empty when the base cannot be had, or is out of all proportion. */
static int pack_on(const struct version *v, const struct block_base *link, struct buffer *record,
                   struct error *e)
{
    size_t len = 0;
    int rc = 0;

    uint8_t *base = base_bytes(v->txn, v->source, &link->id, v->read, &len);
    if (base && len / BASE_GROW <= v->chunk->raw_len)
        rc = pack_block(v, link, base, len, record, e);
    free(base);
    if (rc == 0 && !is_delta(record))
        buffer_clear(record);
    return rc;
}

static void take_over(struct buffer *to, struct buffer *from)
{
    buffer_release(to);
    *to = *from;
    *from = (struct buffer)BUFFER_INIT;
}

static int pack_delta(const struct version *v, const struct choice *c, struct buffer *record,
                      struct error *e)
{
    struct buffer near = BUFFER_INIT;
    size_t much = v->chunk->raw_len / MUCH;

    int rc = c->any ? pack_on(v, &c->far, record, e) : 0;
    if (rc == 0 && c->two && record->len > 2 * much)
        rc = pack_on(v, &c->near, &near, e);
    if (rc == 0 && near.len > much && near.len < record->len - record->len / 4)
        take_over(record, &near);
    buffer_release(&near);
    return rc;
}

static int pack(const struct version *v, const struct choice *c, struct buffer *record,
                struct error *e)
{
    struct buffer alone = BUFFER_INIT;

    int rc = pack_delta(v, c, record, e);
    if (rc < 0 || (record->len > 0 && record->len < v->chunk->raw_len / LARGE))
        return rc;
    rc = pack_block(v, NULL, NULL, 0, &alone, e);
    if (rc == 0 && (record->len == 0 || record->len + record->len / WORTH >= alone.len))
        take_over(record, &alone);
    buffer_release(&alone);
    return rc;
}

int txn_put_version(struct txn *t, struct chunk_source **s, const struct block_chunk *chunk,
                    const void *raw, bool is_list, const struct hash *old, bool read,
                    struct error *e)
{
    const struct version v = {.txn = t, .source = s, .chunk = chunk, .raw = raw, .read = read};
    struct buffer record = BUFFER_INIT;
    struct choice c = {.any = false};
    int rc = 0;

    if (t->repo->codec != CODEC_STORED) {
        pthread_mutex_lock(&t->lock);
        rc = choose(t, old, &c, e);
        pthread_mutex_unlock(&t->lock);
    }
    if (rc == 0)
        rc = pack(&v, &c, &record, e);
    bool delta = rc == 0 && is_delta(&record);
    if (rc == 0)
        rc = txn_store(t, chunk, 1, raw, is_list, &record, e);
    if (rc == 0)
        base_cache_put(t->repo->bases, &chunk->id, raw, chunk->raw_len);
    buffer_release(&record);
    return rc < 0 ? rc : delta;
}
