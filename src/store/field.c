#include "store/field.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

void field_put(struct buffer *b, uint16_t tag, const void *p, size_t len, size_t max)
{
    if (len > max || len > UINT32_MAX) {
        b->failed = true;
        return;
    }
    put_u16(b, tag);
    put_u16(b, 0);
    put_u32(b, (uint32_t)len);
    buffer_append(b, p, len);
}

void field_put_text(struct buffer *b, uint16_t tag, const char *s, size_t max)
{
    if (s)
        field_put(b, tag, s, strlen(s), max);
}

struct field_reader field_reader_of(struct reader in)
{
    return (struct field_reader){.in = in, .last = -1};
}

int field_next(struct field_reader *r, struct field *f, struct error *e)
{
    if (reader_done(&r->in))
        return 0;
    f->tag = take_u16(&r->in);
    take_u16(&r->in);
    f->len = take_u32(&r->in);
    f->p = take_bytes(&r->in, f->len);
    if (r->in.bad)
        return error_set(e, ERR_DAMAGED, "a field is cut off");
    if (f->tag <= r->last)
        return error_set(e, ERR_DAMAGED, "field %u is out of order", f->tag);
    r->last = f->tag;
    return 1;
}

int field_unknown(const struct field *f, struct error *e)
{
    if (f->tag & FIELD_MUST_KNOW)
        return error_set(e, ERR_NOREPO,
                         "field %#x is unknown to this watchkeep (" WK_VERSION
                         ") and may not be skipped",
                         f->tag);
    return 0;
}

int arena_init(struct arena *a, size_t cap, struct error *e)
{
    *a = (struct arena){.p = malloc(cap + 8), .used = 0, .cap = cap + 8};
    return a->p ? 0 : error_set(e, ERR_FAILED, "out of memory");
}

void *arena_take(struct arena *a, size_t n)
{
    size_t at = (a->used + 7) & ~(size_t)7;

    assert(n <= a->cap && at <= a->cap - n);
    a->used = at + n;
    return a->p + at;
}

char *arena_text(struct arena *a, const uint8_t *p, size_t len, size_t max, struct error *e)
{
    if (len > max || memchr(p, 0, len)) {
        error_set(e, ERR_DAMAGED, "a text is too long or holds a NUL");
        return NULL;
    }
    char *s = arena_take(a, len + 1);
    memcpy(s, p, len);
    s[len] = 0;
    return s;
}
