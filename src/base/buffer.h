/* buffer.h - a growable array of bytes.
 *
 * Allocation failure is remembered in `failed` and makes every later append a no-op; check it once
 * at the end with buffer_ok. Not thread safe. */
#ifndef WK_BASE_BUFFER_H
#define WK_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t len;
    size_t cap;
    bool failed;
};

#define BUFFER_INIT       \
    {                     \
        NULL, 0, 0, false \
    }

void buffer_release(struct buffer *b);               /* frees the bytes; *b is empty again */
void buffer_clear(struct buffer *b);                 /* len = 0, keeps the memory */
bool buffer_reserve(struct buffer *b, size_t extra); /* room for extra more bytes */
void buffer_append(struct buffer *b, const void *p, size_t n);
void buffer_append_str(struct buffer *b, const char *s);
void buffer_printf(struct buffer *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint8_t *buffer_grow(struct buffer *b, size_t n); /* n uninitialised bytes at the end, or NULL */
bool buffer_ok(const struct buffer *b);
const char *buffer_cstr(struct buffer *b); /* NUL-terminated view ("" when failed) */

#endif
