/* The middle of a compaction: what lives is found, moved and read back. */
#include "store/repo_compact.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    GATHER_RAW = 256 * 1024,       /* small chunks are packed together up to this */
    INDEX_EVERY = 4 * 1024 * 1024, /* stored bytes between two flushes */
    CHUNKS_PER_BLOCK = 4096,
};

static bool room(void **list, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *p = realloc(*list, more * size);
    if (!p)
        return false;
    *list = p;
    *cap = more;
    return true;
}

/* ---- survey ---- */

struct survey {
    struct compacting *k;
    size_t pack;
    struct buffer raw; /* of a block */
};

static int add_chunk(struct compacting *k, const struct block_chunk *c, uint64_t pack_id,
                     uint64_t offset)
{
    struct error absent = ERROR_INIT;
    struct chunk_place at;

    if (!room((void **)&k->chunks, k->chunk_count, &k->chunk_cap, sizeof(*k->chunks)))
        return repo_no_memory(k->e);
    struct old_chunk *o = &k->chunks[k->chunk_count++];
    *o = (struct old_chunk){
        .id = c->id, .pack_id = pack_id, .raw_off = c->raw_off, .raw_len = c->raw_len};
    int rc = catalog_chunk(k->state, &c->id, &at, &absent);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc < 0) {
        *k->e = absent;
        return rc;
    }
    o->mine = at.pack_id == pack_id && at.offset == offset && at.raw_off == c->raw_off;
    o->refs = at.refs;
    return 0;
}

static int visit_block(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                       const uint8_t *body)
{
    struct survey *s = ctx;
    struct compacting *k = s->k;
    struct error damage = ERROR_INIT;
    struct block b;

    if (repo_upkeep_stopped(k->upkeep, k->e))
        return k->e->code;
    if (!h || h->type != RECORD_BLOCK ||
        block_decode_ids(body, h->body_len, &b, &s->raw, &damage) < 0)
        return 0; /* what is missing then is found missing by its bytes */
    int rc = 0;
    if (!room((void **)&k->blocks, k->block_count, &k->block_cap, sizeof(*k->blocks)))
        rc = repo_no_memory(k->e);
    if (rc == 0)
        k->blocks[k->block_count++] = (struct old_block){.pack = s->pack,
                                                         .offset = from,
                                                         .first = k->chunk_count,
                                                         .count = b.count,
                                                         .raw_len = b.raw_len,
                                                         .stored = (uint32_t)(to - from),
                                                         .has_base = b.has_base,
                                                         .base = b.base.id};
    for (uint32_t i = 0; rc == 0 && i < b.count; i++)
        rc = add_chunk(k, &b.chunks[i], k->packs[s->pack].id, from);
    block_release(&b);
    return rc;
}

static int let_go(struct compacting *k, const struct old_block *b)
{
    struct error none = ERROR_INIT;
    struct block_base base;
    bool fresh;

    int rc = catalog_delta_base(k->state, k->packs[b->pack].id, b->offset, &base, &none);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc < 0) {
        *k->e = none;
        return rc;
    }
    struct let_go *l = id_map_put(&k->let_go, &base.id, &fresh);
    if (!l)
        return repo_no_memory(k->e);
    l->count++;
    return 0;
}

static void judge_chunk(struct compacting *k, struct old_block *b, struct old_chunk *c)
{
    const struct let_go *l = c->mine ? id_map_find(&k->let_go, &c->id) : NULL;

    c->live = c->mine && c->refs > (l ? l->count : 0);
    b->live |= c->live;
    b->whole &= c->live;
}

/* From the end of the pack to its beginning: a delta comes after its base. */
static int judge_blocks(struct compacting *k, size_t first)
{
    int rc = 0;

    for (size_t i = k->block_count; rc == 0 && i-- > first;) {
        struct old_block *b = &k->blocks[i];
        b->whole = true;
        for (size_t n = 0; n < b->count; n++)
            judge_chunk(k, b, &k->chunks[b->first + n]);
        if (!b->live && b->has_base)
            rc = let_go(k, b);
    }
    return rc;
}

static void keep_pack(struct compacting *k, size_t pack, size_t first_block, size_t first_chunk)
{
    k->packs[pack].stays = true;
    for (size_t i = first_block; i < k->block_count; i++)
        k->blocks[i].live = false;
    for (size_t i = first_chunk; i < k->chunk_count; i++)
        k->chunks[i].stays = k->chunks[i].live = true;
}

/* Most of the bytes of a log pack are blocks that are needed: to move them would make the packs
 * longer for a day and save next to nothing after it. */
static bool is_mostly_needed(const struct compacting *k, size_t i, size_t first_block)
{
    const struct old_pack *o = &k->packs[i];
    uint64_t needed = 0;

    if (o->kind != PACK_LOG || k->eager)
        return false;
    for (size_t n = first_block; n < k->block_count; n++) {
        const struct old_block *b = &k->blocks[n];
        bool any = false;
        for (size_t c = b->first; c < b->first + b->count; c++)
            any |= k->chunks[c].mine && k->chunks[c].refs > 0;
        needed += any ? b->stored : 0;
    }
    return needed > o->end / 4 * 3;
}

static int settle_pack(struct compacting *k, size_t i)
{
    struct repo *r = k->repo;

    for (size_t n = 0; n < r->settled_count; n++) {
        if (r->settled[n].pack_id == k->packs[i].id) {
            r->settled[n].live = k->packs[i].live;
            return 0;
        }
    }
    struct pack_use *list = realloc(r->settled, (r->settled_count + 1) * sizeof(*list));
    if (!list)
        return repo_no_memory(k->e);
    r->settled = list;
    list[r->settled_count++] =
        (struct pack_use){.pack_id = k->packs[i].id, .live = k->packs[i].live};
    return 0;
}

static int survey_pack(struct compacting *k, size_t i)
{
    struct survey s = {.k = k, .pack = i, .raw = BUFFER_INIT};
    struct old_pack *o = &k->packs[i];
    struct error why = ERROR_INIT;
    struct pack *pack;
    size_t first_block = k->block_count, first_chunk = k->chunk_count;
    uint64_t found = 0;

    int rc = pack_open(k->repo->packs_fd, o->kind, o->id, k->repo->id, false, &pack, &why);
    if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND) {
        o->stays = true;
        return 0;
    }
    if (rc < 0) {
        *k->e = why;
        return rc;
    }
    rc = pack_walk(pack, 0, o->end, visit_block, &s, NULL, k->e);
    buffer_release(&s.raw);
    pack_close(pack);
    if (rc < 0)
        return rc;
    for (size_t n = first_chunk; n < k->chunk_count; n++)
        found += k->chunks[n].mine && k->chunks[n].refs > 0 ? k->chunks[n].raw_len : 0;
    if (found == o->live && is_mostly_needed(k, i, first_block)) {
        keep_pack(k, i, first_block, first_chunk);
        o->settled = true;
        return settle_pack(k, i);
    }
    if (found == o->live)
        return judge_blocks(k, first_block);
    keep_pack(k, i, first_block, first_chunk);
    repo_notice(k->repo, "pack %016" PRIx64 " is not compacted: not all of it can be read", o->id);
    return 0;
}

int compact_survey(struct compacting *k)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < k->pack_count; i++)
        rc = survey_pack(k, i);
    return rc;
}

/* ---- move ---- */

static int index_moved(struct compacting *k)
{
    struct repo *r = k->repo;

    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, k->e);
    if (rc == 0)
        rc = repo_data_index_now(r, k->e);
    repo_catalog_failed(r, rc, false);
    repo_fences_flush(r);
    pthread_mutex_unlock(&r->write_lock);
    k->unindexed = 0;
    return rc;
}

static int need(struct compacting *k, uint64_t pack_id, uint64_t end)
{
    for (size_t i = 0; i < k->need_count; i++) {
        if (k->needs[i].pack_id == pack_id) {
            k->needs[i].len = end;
            return 0;
        }
    }
    struct pack_need *list = realloc(k->needs, (k->need_count + 1) * sizeof(*list));
    if (!list)
        return repo_no_memory(k->e);
    k->needs = list;
    list[k->need_count++] = (struct pack_need){.pack_id = pack_id, .len = end};
    return 0;
}

static struct block_chunk *chunks_copy(const struct block_chunk *chunks, uint32_t count)
{
    struct block_chunk *copy = malloc((count + 1) * sizeof(*copy));

    if (copy)
        memcpy(copy, chunks, count * sizeof(*copy));
    return copy;
}

/* Into the data pack; what it was is remembered, to be read back. */
static int put_body(struct compacting *k, const struct buffer *body,
                    const struct block_chunk *chunks, uint32_t count, const struct block_base *base)
{
    struct repo *r = k->repo;
    struct buffer record = BUFFER_INIT;
    struct block_place place = {.count = count, .chunks = chunks_copy(chunks, count)};
    struct moved_block m = {.count = count, .chunks = chunks_copy(chunks, count)};
    int rc = 0;

    if (base) {
        place.has_base = true;
        place.base = *base;
    }
    if (buffer_grow(&record, RECORD_HEADER_LEN))
        buffer_append(&record, body->data, body->len);
    if (!buffer_ok(&record) || !place.chunks || !m.chunks ||
        !room((void **)&k->moved, k->moved_count, &k->moved_cap, sizeof(*k->moved)))
        rc = repo_no_memory(k->e);
    if (rc == 0) {
        pthread_mutex_lock(&r->write_lock);
        rc = repo_room_for(r, record.len, true, k->e);
        if (rc == 0)
            rc = repo_data_put(r, &record, &place, k->e);
        repo_fences_flush(r);
        pthread_mutex_unlock(&r->write_lock);
    }
    buffer_release(&record);
    free(place.chunks);
    if (rc < 0) {
        free(m.chunks);
        return rc;
    }
    m.pack_id = place.pack_id;
    m.offset = place.offset;
    k->moved[k->moved_count++] = m;
    k->bytes_moved += body->len;
    k->unindexed += body->len;
    rc = need(k, place.pack_id, place.end);
    return rc == 0 && k->unindexed >= INDEX_EVERY ? index_moved(k) : rc;
}

/* old: the body of the one block that all of the chunks come from, or NULL. */
static int put_pending(struct compacting *k, const struct buffer *old)
{
    struct buffer body = BUFFER_INIT;

    if (k->pending_count == 0)
        return 0;
    int rc = block_encode(k->pending, (uint32_t)k->pending_count, k->raw.data, (uint32_t)k->raw.len,
                          k->repo->codec, CODEC_STRONG, NULL, NULL, 0, &body, k->e);
    if (rc == 0 && !buffer_ok(&body))
        rc = repo_no_memory(k->e);
    if (rc == 0)
        rc = put_body(k, old && old->len <= body.len ? old : &body, k->pending,
                      (uint32_t)k->pending_count, NULL);
    buffer_release(&body);
    buffer_clear(&k->raw);
    k->pending_count = 0;
    return rc;
}

static int gather_chunk(struct compacting *k, const struct old_chunk *c)
{
    const uint8_t *p;
    size_t len;

    if (!room((void **)&k->pending, k->pending_count, &k->pending_cap, sizeof(*k->pending)))
        return repo_no_memory(k->e);
    int rc = chunk_source_get(k->source, &c->id, &p, &len, k->e);
    if (rc < 0)
        return rc;
    k->pending[k->pending_count++] = (struct block_chunk){
        .id = c->id, .raw_off = (uint32_t)k->raw.len, .raw_len = (uint32_t)len};
    buffer_append(&k->raw, p, len);
    return buffer_ok(&k->raw) ? 0 : repo_no_memory(k->e);
}

static int read_old(struct compacting *k, const struct old_block *b, struct buffer *body)
{
    struct record_header h;
    struct pack *pack = NULL;

    int rc = repo_pack_get(k->repo, k->packs[b->pack].id, &pack, k->e);
    if (rc == 0)
        rc = pack_read(pack, b->offset, &h, body, k->e);
    repo_pack_put(k->repo, pack);
    return rc;
}

/* A delta keeps its base's id, wherever that one goes. */
static int move_delta(struct compacting *k, const struct old_block *b)
{
    struct buffer body = BUFFER_INIT;
    struct block parsed;

    int rc = read_old(k, b, &body);
    if (rc == 0)
        rc = block_decode(body.data, body.len, &parsed, k->e);
    if (rc == 0) {
        rc = put_body(k, &body, parsed.chunks, parsed.count, &parsed.base);
        block_release(&parsed);
    }
    buffer_release(&body);
    return rc;
}

static int move_plain(struct compacting *k, const struct old_block *b)
{
    struct buffer old = BUFFER_INIT;
    bool alone = b->raw_len >= GATHER_RAW;
    int rc = 0;

    if (alone || k->raw.len + b->raw_len > GATHER_RAW ||
        k->pending_count + b->count > CHUNKS_PER_BLOCK)
        rc = put_pending(k, NULL);
    for (size_t i = 0; rc == 0 && i < b->count; i++)
        if (k->chunks[b->first + i].live)
            rc = gather_chunk(k, &k->chunks[b->first + i]);
    if (rc == 0 && alone) {
        if (b->whole)
            rc = read_old(k, b, &old);
        if (rc == 0)
            rc = put_pending(k, b->whole ? &old : NULL);
    }
    buffer_release(&old);
    return rc;
}

int compact_move(struct compacting *k)
{
    int rc = 0;

    k->source = chunk_source_over(k->repo, k->state);
    if (!k->source)
        return repo_no_memory(k->e);
    for (size_t i = 0; rc == 0 && i < k->block_count; i++) {
        const struct old_block *b = &k->blocks[i];
        if (repo_upkeep_stopped(k->upkeep, k->e))
            return k->e->code;
        if (b->live)
            rc = b->has_base ? move_delta(k, b) : move_plain(k, b);
    }
    if (rc == 0)
        rc = put_pending(k, NULL);
    chunk_source_forget(k->source);
    return rc == 0 ? index_moved(k) : rc;
}

/* ---- read back ---- */

static int same_chunks(struct compacting *k, const struct moved_block *m, const struct block *b,
                       const uint8_t *raw)
{
    struct hash id;
    bool same = b->count == m->count;

    for (uint32_t i = 0; same && i < m->count; i++) {
        const struct block_chunk *c = &m->chunks[i];
        hash_sha256(raw + b->chunks[i].raw_off, b->chunks[i].raw_len, &id);
        same = c->raw_off == b->chunks[i].raw_off && c->raw_len == b->chunks[i].raw_len &&
               hash_equal(&id, &c->id);
    }
    return same ? 0
                : error_set(k->e, ERR_DAMAGED,
                            "what was moved to pack %016" PRIx64 " does not read back", m->pack_id);
}

static int check_block(struct compacting *k, struct chunk_source *s, const struct moved_block *m,
                       const struct buffer *body)
{
    const uint8_t *base = NULL;
    uint8_t *raw = NULL;
    size_t base_len = 0;
    struct block b;

    int rc = block_decode(body->data, body->len, &b, k->e);
    if (rc < 0)
        return rc;
    if (b.has_base)
        rc = chunk_source_get(s, &b.base.id, &base, &base_len, k->e);
    if (rc == 0 && !(raw = malloc(b.raw_len + 1)))
        rc = repo_no_memory(k->e);
    if (rc == 0)
        rc = block_expand(&b, base, base_len, raw, k->e);
    if (rc == 0)
        rc = same_chunks(k, m, &b, raw);
    free(raw);
    block_release(&b);
    return rc;
}

static int check_moved(struct compacting *k, struct chunk_source *s, const struct moved_block *m)
{
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    struct pack *pack = NULL;

    if (repo_upkeep_stopped(k->upkeep, k->e))
        return k->e->code;
    int rc = repo_pack_get(k->repo, m->pack_id, &pack, k->e);
    if (rc == 0)
        rc = pack_read(pack, m->offset, &h, &body, k->e);
    repo_pack_put(k->repo, pack);
    if (rc == 0)
        rc = check_block(k, s, m, &body);
    buffer_release(&body);
    return rc;
}

int compact_read_back(struct compacting *k)
{
    struct chunk_source *s = NULL;

    if (k->moved_count == 0)
        return 0;
    int rc = chunk_source_open(k->repo, &s, k->e);
    for (size_t i = 0; i < k->need_count; i++)
        repo_pack_cold(k->repo, k->needs[i].pack_id);
    for (size_t i = 0; rc == 0 && i < k->moved_count; i++)
        rc = check_moved(k, s, &k->moved[i]);
    chunk_source_close(s);
    return rc;
}
