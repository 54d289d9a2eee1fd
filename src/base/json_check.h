/* json_check.h - whether bytes that come in pieces are one whole JSON text. Pure, of fixed size.
 *
 * RFC 8259, read generously where programs do: bytes in strings need not be UTF-8, NaN, Infinity
 * and -Infinity are numbers, a byte-order mark may stand in front. Nesting deeper than
 * JSON_DEPTH_MAX is not looked into: then nothing is known. */
#ifndef WK_BASE_JSON_CHECK_H
#define WK_BASE_JSON_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_DEPTH_MAX 1024

struct json_check {
    uint8_t state;
    uint8_t hex;                           /* digits of an escape that are missing */
    bool key;                              /* the string is a name in an object */
    const char *rest;                      /* of a word like "true", or of the byte-order mark */
    uint32_t depth;                        /* arrays and objects that are open */
    uint8_t first;                         /* first byte that is no blank, 0: none yet */
    uint64_t objects[JSON_DEPTH_MAX / 64]; /* a bit for each depth: an object, else an array */
};

void json_check_init(struct json_check *c);
void json_check_feed(struct json_check *c, const void *p, size_t n);

enum json_verdict { JSON_WHOLE, JSON_NOT, JSON_UNKNOWN };
enum json_verdict json_check_end(const struct json_check *c);

#endif
