#include "store/block.h"

#include "base/bytes.h"
#include "store/record.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    BLOCK_HEADER_LEN = 16,
    ENTRY_LEN = HASH_LEN + 4,
    BARE_BELOW = 16 * 1024, /* chunks shorter than this on average are not worth their ids */
    OFF_CODEC = 0,
    OFF_PACKED_LEN = 12,
};
_Static_assert(BLOCK_HEADER_LEN + HASH_LEN + BLOCK_CHUNKS_MAX * (uint64_t)ENTRY_LEN +
                       BLOCK_RAW_MAX <=
                   RECORD_BODY_MAX,
               "every block fits a record");

static int damaged(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "a block does not parse");
}

/* Header, base and table of chunks; codec and packed length are filled in later. */
static void put_head(const struct block_chunk *chunks, uint32_t count, uint32_t raw_len,
                     const struct block_base *link, struct buffer *out)
{
    bool bare = !link && count > 1 && raw_len / count < BARE_BELOW;

    put_u8(out, CODEC_STORED);
    put_u8(out, (uint8_t)((link ? BLOCK_HAS_BASE : 0) | (bare ? BLOCK_BARE : 0)));
    put_u8(out, link ? link->rank : 0);
    put_u8(out, link ? link->depth : 0);
    put_u32(out, count);
    put_u32(out, raw_len);
    put_u32(out, 0);
    if (link)
        buffer_append(out, link->id.b, HASH_LEN);
    for (uint32_t i = 0; i < count; i++) {
        if (bare) {
            put_varint(out, chunks[i].raw_len);
        } else {
            buffer_append(out, chunks[i].id.b, HASH_LEN);
            put_u32(out, chunks[i].raw_len);
        }
    }
}

static bool lengths_ok(const struct block_chunk *chunks, uint32_t count, uint32_t raw_len)
{
    uint64_t sum = 0;

    if (count < 1 || count > BLOCK_CHUNKS_MAX || raw_len > BLOCK_RAW_MAX)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (chunks[i].raw_len == 0)
            return false;
        sum += chunks[i].raw_len;
    }
    return sum == raw_len;
}

int block_encode(const struct block_chunk *chunks, uint32_t count, const void *raw,
                 uint32_t raw_len, enum codec want, enum codec_effort effort,
                 const struct block_base *link, const void *base, size_t base_len,
                 struct buffer *out, struct error *e)
{
    size_t begin = out->len;

    if (!lengths_ok(chunks, count, raw_len))
        return error_set(e, ERR_FAILED, "chunks of a block do not add up");
    if (base_len == 0)
        link = NULL;
    put_head(chunks, count, raw_len, link, out);
    size_t packed = out->len;
    int codec = codec_pack(want, effort, raw, raw_len, base, link ? base_len : 0, out);
    if (codec == CODEC_STORED && link) {
        /* A delta that does not pay is no reference to its base either. */
        out->len = begin;
        put_head(chunks, count, raw_len, NULL, out);
        packed = out->len;
        buffer_append(out, raw, raw_len);
    }
    if (codec < 0 || !buffer_ok(out))
        return error_set(e, ERR_FAILED, "out of memory");
    out->data[begin + OFF_CODEC] = (uint8_t)codec;
    store_u32(out->data + begin + OFF_PACKED_LEN, (uint32_t)(out->len - packed));
    return 0;
}

static uint64_t take_chunk(struct reader *r, bool bare, struct hash *id)
{
    if (bare)
        return take_varint(r);
    const uint8_t *p = take_bytes(r, HASH_LEN);
    if (p)
        memcpy(id->b, p, HASH_LEN);
    return take_u32(r);
}

/* The table of chunks; offsets follow from the order. */
static int take_chunks(struct reader *r, struct block *b, struct error *e)
{
    uint32_t off = 0;

    if (r->left / (b->bare ? 1 : ENTRY_LEN) < b->count)
        return damaged(e);
    b->chunks = calloc(b->count, sizeof(*b->chunks));
    if (!b->chunks)
        return error_set(e, ERR_FAILED, "out of memory");
    for (uint32_t i = 0; i < b->count; i++) {
        struct block_chunk *c = &b->chunks[i];
        uint64_t len = take_chunk(r, b->bare, &c->id);
        if (len == 0 || len > b->raw_len - off)
            return damaged(e);
        c->raw_len = (uint32_t)len;
        c->raw_off = off;
        off += c->raw_len;
    }
    return off == b->raw_len ? 0 : damaged(e);
}

static int take_block(struct reader *r, struct block *b, struct error *e)
{
    b->codec = take_u8(r);
    uint8_t flags = take_u8(r);
    b->base.rank = take_u8(r);
    b->base.depth = take_u8(r);
    b->count = take_u32(r);
    b->raw_len = take_u32(r);
    b->packed_len = take_u32(r);
    if (r->bad || b->count < 1 || b->count > BLOCK_CHUNKS_MAX || b->raw_len > BLOCK_RAW_MAX)
        return damaged(e);
    if ((flags & ~(BLOCK_HAS_BASE | BLOCK_BARE)) || b->codec > CODEC_ZSTD)
        return error_set(e, ERR_NOREPO,
                         "block with codec %d, flags %#x is unknown to this "
                         "watchkeep (" WK_VERSION ")",
                         b->codec, flags);
    b->has_base = flags & BLOCK_HAS_BASE;
    b->bare = flags & BLOCK_BARE;
    if (b->has_base) {
        const uint8_t *base = take_bytes(r, HASH_LEN);
        if (!base || b->codec == CODEC_STORED || b->bare)
            return damaged(e);
        memcpy(b->base.id.b, base, HASH_LEN);
    }
    int rc = take_chunks(r, b, e);
    if (rc < 0)
        return rc;
    b->packed = take_bytes(r, b->packed_len);
    return reader_done(r) ? 0 : damaged(e);
}

int block_decode(const void *body, size_t len, struct block *b, struct error *e)
{
    struct reader r = reader_of(body, len);

    memset(b, 0, sizeof(*b));
    int rc = take_block(&r, b, e);
    if (rc < 0)
        block_release(b);
    return rc;
}

void block_release(struct block *b)
{
    free(b->chunks);
    memset(b, 0, sizeof(*b));
}

int block_expand(const struct block *b, const void *base, size_t base_len, void *raw,
                 struct error *e)
{
    if (b->has_base && base_len == 0)
        return error_set(e, ERR_DAMAGED, "the base of a block is missing");
    return codec_unpack(b->codec, b->packed, b->packed_len, b->has_base ? base : NULL,
                        b->has_base ? base_len : 0, raw, b->raw_len, e);
}

void block_name(struct block *b, const void *raw)
{
    for (uint32_t i = 0; b->bare && i < b->count; i++) {
        struct block_chunk *c = &b->chunks[i];
        hash_sha256((const uint8_t *)raw + c->raw_off, c->raw_len, &c->id);
    }
}

int block_decode_ids(const void *body, size_t len, struct block *b, struct buffer *raw,
                     struct error *e)
{
    int rc = block_decode(body, len, b, e);

    if (rc < 0 || !b->bare)
        return rc;
    buffer_clear(raw);
    uint8_t *p = buffer_grow(raw, b->raw_len);
    rc = p ? block_expand(b, NULL, 0, p, e) : error_set(e, ERR_FAILED, "out of memory");
    if (rc == 0)
        block_name(b, p);
    else
        block_release(b);
    return rc;
}
