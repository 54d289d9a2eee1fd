#include "capture/helper_protocol.h"

#include "base/bytes.h"

#include "base/banned.h"

static void put_text(struct buffer *out, const char *s)
{
    size_t n = strlen(s) + 1;

    if (n > UINT16_MAX) {
        out->failed = true;
        return;
    }
    put_u16(out, (uint16_t)n);
    buffer_append(out, s, n);
}

/* A text with exactly one NUL, at its end; NULL and r->bad otherwise. */
static const char *take_text(struct reader *r)
{
    size_t n = take_u16(r);
    const uint8_t *p = take_bytes(r, n);

    if (!p || n == 0 || memchr(p, 0, n) != p + n - 1) {
        r->bad = true;
        return NULL;
    }
    return (const char *)p;
}

void helper_request_encode(const struct helper_request *r, struct buffer *out)
{
    put_u8(out, HELPER_VERSION);
    put_u8(out, r->op);
    put_u32(out, r->deadline_ms);
    put_text(out, r->path);
    put_text(out, r->scratch);
}

bool helper_request_decode(const void *p, size_t n, struct helper_request *r)
{
    struct reader in = reader_of(p, n);
    bool known = take_u8(&in) == HELPER_VERSION;

    r->op = take_u8(&in);
    r->deadline_ms = take_u32(&in);
    r->path = take_text(&in);
    r->scratch = take_text(&in);
    return known && reader_done(&in);
}

void helper_reply_encode(const struct helper_reply *r, struct buffer *out)
{
    put_u8(out, HELPER_VERSION);
    put_u32(out, (uint32_t)r->code);
    put_u32(out, (uint32_t)r->sys);
    put_u8(out, r->ok);
    put_text(out, r->message);
    put_text(out, r->result);
}

bool helper_reply_decode(const void *p, size_t n, struct helper_reply *r)
{
    struct reader in = reader_of(p, n);
    bool known = take_u8(&in) == HELPER_VERSION;

    r->code = (int)take_u32(&in);
    r->sys = (int)take_u32(&in);
    r->ok = take_u8(&in) != 0;
    r->message = take_text(&in);
    r->result = take_text(&in);
    return known && reader_done(&in) && r->code <= 0;
}
