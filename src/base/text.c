#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static bool continues(uint8_t c)
{
    return (c & 0xc0) == 0x80;
}

/* The ranges of Unicode's table 3-7: no overlong forms, no surrogates, nothing past U+10FFFF. */
size_t text_utf8_char(const char *s, size_t n)
{
    const uint8_t *p = (const uint8_t *)s;

    if (n == 0 || p[0] == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n < 2 || !continues(p[1]))
        return 0;
    if (p[0] < 0xe0)
        return 2;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    if (n < 3 || !continues(p[2]))
        return 0;
    if (p[0] < 0xf0)
        return 3;
    return n >= 4 && continues(p[3]) ? 4 : 0;
}

bool text_printable(const char *s, size_t len)
{
    const uint8_t *p = (const uint8_t *)s;

    if (len == 1)
        return p[0] >= 0x20 && p[0] != 0x7f;
    return len > 2 || (len == 2 && !(p[0] == 0xc2 && p[1] < 0xa0));
}

bool text_utf8_ok(const char *s, size_t n)
{
    while (n > 0) {
        size_t len = text_utf8_char(s, n);
        if (len == 0)
            return false;
        s += len;
        n -= len;
    }
    return true;
}

int text_path_order(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    int x = *a == '/' ? 1 : *a ? (uint8_t)*a + 1 : 0;
    int y = *b == '/' ? 1 : *b ? (uint8_t)*b + 1 : 0;
    return x - y;
}

/* Write the printable form of what begins s into piece, its length into *made; returns how many
 * bytes of s it stands for. */
static size_t escape_one(const char *s, size_t n, char piece[8], size_t *made)
{
    size_t len = text_utf8_char(s, n);

    if (len > 0 && text_printable(s, len) && *s != '\\') {
        memcpy(piece, s, len);
        *made = len;
        return len;
    }
    const char *names = "\nn\tt\rr\\\\";
    for (; *names; names += 2) {
        if (*s == names[0]) {
            piece[0] = '\\';
            piece[1] = names[1];
            *made = 2;
            return 1;
        }
    }
    snprintf(piece, 8, "\\x%02x", (unsigned)(uint8_t)*s);
    *made = 4;
    return 1;
}

char *text_escape(const char *s, char *out, size_t cap)
{
    static const char dots[] = "...";
    size_t left = strlen(s);
    size_t pos = 0;
    size_t cut = 0; /* the last place where the dots still fit */

    if (cap == 0)
        return out;
    while (left > 0) {
        char piece[8];
        size_t made;
        size_t used = escape_one(s, left, piece, &made);
        if (pos + made >= cap) {
            size_t n = cap - 1 - cut < 3 ? cap - 1 - cut : 3;
            memcpy(out + cut, dots, n);
            pos = cut + n;
            break;
        }
        memcpy(out + pos, piece, made);
        pos += made;
        if (pos + 3 < cap)
            cut = pos;
        s += used;
        left -= used;
    }
    out[pos] = 0;
    return out;
}

char *text_lossy_utf8(const char *s, size_t n)
{
    if (n > (SIZE_MAX - 1) / 3)
        return NULL;
    char *out = malloc(3 * n + 1);
    if (!out)
        return NULL;
    char *to = out;
    while (n > 0) {
        size_t len = text_utf8_char(s, n);
        memcpy(to, len ? s : "\xef\xbf\xbd", len ? len : 3);
        to += len ? len : 3;
        s += len ? len : 1;
        n -= len ? len : 1;
    }
    *to = 0;
    return out;
}

char *text_base64(const void *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *in = p;

    if (n > SIZE_MAX / 2)
        return NULL;
    char *out = malloc((n + 2) / 3 * 4 + 1);
    if (!out)
        return NULL;
    char *to = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16;
        v |= i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0;
        v |= i + 2 < n ? in[i + 2] : 0;
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *to = 0;
    return out;
}

void text_hex(const void *p, size_t n, char *out)
{
    const uint8_t *in = p;

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = "0123456789abcdef"[in[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[in[i] & 15];
    }
    out[2 * n] = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool text_unhex(const char *s, void *out, size_t n)
{
    uint8_t *to = out;

    for (size_t i = 0; i < n; i++) {
        int high = hex_digit(s[2 * i]);
        int low = high < 0 ? -1 : hex_digit(s[2 * i + 1]);
        if (low < 0)
            return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return s[2 * n] == 0;
}

void text_size(uint64_t bytes, char *out, size_t cap)
{
    static const char units[] = "KMGTPE";
    unsigned unit = 0;

    if (bytes < 1024) {
        snprintf(out, cap, "%u B", (unsigned)bytes);
        return;
    }
    /* 1023.95 of one unit already reads 1.0 of the next. */
    uint64_t one = 1024;
    while (unit < 5 && bytes >= one * 1024 - one / 20) {
        one *= 1024;
        unit++;
    }
    uint64_t whole = bytes / one;
    uint64_t tenths = (bytes % one * 10 + one / 2) / one;
    if (unit == 5) /* bytes % one * 10 still fits: below 2^64 for one = 2^60 */
        tenths = (bytes % one / 16 * 10 + one / 32) / (one / 16);
    if (tenths == 10) {
        whole++;
        tenths = 0;
    }
    snprintf(out, cap, "%u.%u %ciB", (unsigned)whole, (unsigned)tenths, units[unit]);
}

char *text_format(const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : s;
}
