#include "base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { SMALLEST = 64 };

void buffer_release(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer)BUFFER_INIT;
}

void buffer_clear(struct buffer *b)
{
    b->len = 0;
}

bool buffer_reserve(struct buffer *b, size_t extra)
{
    if (b->failed)
        return false;
    if (extra <= b->cap - b->len)
        return true;
    if (extra > SIZE_MAX / 2 || b->len > SIZE_MAX / 2 - extra) {
        b->failed = true;
        return false;
    }
    size_t cap = b->cap < SMALLEST ? SMALLEST : b->cap;
    while (cap < b->len + extra)
        cap *= 2;
    uint8_t *data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

uint8_t *buffer_grow(struct buffer *b, size_t n)
{
    /* One byte more, so that n == 0 gives a pointer too. */
    if (n == SIZE_MAX || !buffer_reserve(b, n + 1)) {
        b->failed = true;
        return NULL;
    }
    uint8_t *p = b->data + b->len;
    b->len += n;
    return p;
}

void buffer_append(struct buffer *b, const void *p, size_t n)
{
    if (n == 0 || !buffer_reserve(b, n))
        return;
    memcpy(b->data + b->len, p, n);
    b->len += n;
}

void buffer_append_str(struct buffer *b, const char *s)
{
    buffer_append(b, s, strlen(s));
}

void buffer_printf(struct buffer *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !buffer_reserve(b, (size_t)n + 1)) {
        b->failed = true;
        return;
    }
    va_start(ap, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

bool buffer_ok(const struct buffer *b)
{
    return !b->failed;
}

const char *buffer_cstr(struct buffer *b)
{
    if (!buffer_reserve(b, 1))
        return "";
    b->data[b->len] = 0;
    return (const char *)b->data;
}
