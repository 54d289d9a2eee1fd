/* text.h - names as bytes, in order and made fit for people and JSON; encodings; sizes. */
#ifndef WK_BASE_TEXT_H
#define WK_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether n bytes are valid UTF-8 without NUL (control characters are allowed). */
bool text_utf8_ok(const char *s, size_t n);

/* Length (1..4) of the UTF-8 character that begins the n bytes at s, 0 when none does. */
size_t text_utf8_char(const char *s, size_t n);

/* Whether the character of that length is fit for a line: no control character, C1 included. */
bool text_printable(const char *s, size_t len);

/* As strcmp, with '/' below every other byte: the order in which a walk meets paths, a folder's
 * content before a longer name that begins as the folder's. */
int text_path_order(const char *a, const char *b);

/* Copy s into out (cap bytes, always terminated) with control characters, backslash and invalid
 * bytes as \n, \t, \\ or \xHH; cut with "..." when too long. Returns out. */
char *text_escape(const char *s, char *out, size_t cap);

/* Readable UTF-8 twin of any bytes, for JSON "path": invalid bytes become U+FFFD. Caller frees. */
char *text_lossy_utf8(const char *s, size_t n);

/* Standard base64 with padding. Caller frees; NULL on no memory. */
char *text_base64(const void *p, size_t n);

/* 32-byte or other binary as lower-case hex; out has room for 2n+1. */
void text_hex(const void *p, size_t n, char *out);
bool text_unhex(const char *s, void *out, size_t n); /* exactly 2n digits */

/* "0 B", "123 B", "4.5 KiB", "1.2 GiB"; 16 bytes are enough. */
void text_size(uint64_t bytes, char *out, size_t cap);

/* asprintf that returns the string or NULL. */
char *text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
