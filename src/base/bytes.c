#include "base/bytes.h"

#include "base/banned.h"

void store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

void store_u32(uint8_t *p, uint32_t v)
{
    store_u16(p, (uint16_t)v);
    store_u16(p + 2, (uint16_t)(v >> 16));
}

void store_u64(uint8_t *p, uint64_t v)
{
    store_u32(p, (uint32_t)v);
    store_u32(p + 4, (uint32_t)(v >> 32));
}

uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t load_u64(const uint8_t *p)
{
    return (uint64_t)load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

void put_u8(struct buffer *b, uint8_t v)
{
    buffer_append(b, &v, 1);
}

void put_u16(struct buffer *b, uint16_t v)
{
    uint8_t le[2];

    store_u16(le, v);
    buffer_append(b, le, sizeof(le));
}

void put_u32(struct buffer *b, uint32_t v)
{
    uint8_t le[4];

    store_u32(le, v);
    buffer_append(b, le, sizeof(le));
}

void put_u64(struct buffer *b, uint64_t v)
{
    uint8_t le[8];

    store_u64(le, v);
    buffer_append(b, le, sizeof(le));
}

void put_i64(struct buffer *b, int64_t v)
{
    put_u64(b, (uint64_t)v);
}

size_t store_varint(uint8_t *p, uint64_t v)
{
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

void put_varint(struct buffer *b, uint64_t v)
{
    uint8_t bytes[VARINT_MAX];

    buffer_append(b, bytes, store_varint(bytes, v));
}

struct reader reader_of(const void *p, size_t n)
{
    return (struct reader){.p = p, .left = n, .bad = false};
}

const uint8_t *take_bytes(struct reader *r, size_t n)
{
    if (r->bad || n > r->left) {
        r->bad = true;
        return NULL;
    }
    if (n == 0)
        return r->p ? r->p : (const uint8_t *)"";
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

uint8_t take_u8(struct reader *r)
{
    const uint8_t *p = take_bytes(r, 1);
    return p ? *p : 0;
}

uint16_t take_u16(struct reader *r)
{
    const uint8_t *p = take_bytes(r, 2);
    return p ? load_u16(p) : 0;
}

uint32_t take_u32(struct reader *r)
{
    const uint8_t *p = take_bytes(r, 4);
    return p ? load_u32(p) : 0;
}

uint64_t take_u64(struct reader *r)
{
    const uint8_t *p = take_bytes(r, 8);
    return p ? load_u64(p) : 0;
}

int64_t take_i64(struct reader *r)
{
    uint64_t v = take_u64(r);
    int64_t out;

    memcpy(&out, &v, sizeof(out));
    return out;
}

uint64_t take_varint(struct reader *r)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = take_u8(r);
        if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0))
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    r->bad = true;
    return 0;
}

bool reader_done(const struct reader *r)
{
    return !r->bad && r->left == 0;
}
