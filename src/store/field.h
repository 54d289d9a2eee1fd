/* field.h - what bodies of records and nodes have in common: optional fields at their end, and the
 * one allocation that a decoded body owns.
 *
 * A field is {u16 tag, u16 0, u32 len, bytes}. Fields stand in rising order of tag, each at most
 * once, so that equal content has equal bytes. A tag with the high bit set must be known to the
 * reader, others may be skipped. */
#ifndef WK_STORE_FIELD_H
#define WK_STORE_FIELD_H

#include "base/bytes.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define FIELD_HEADER_LEN 8
#define FIELD_MUST_KNOW 0x8000

struct field {
    uint16_t tag;
    uint32_t len;
    const uint8_t *p; /* borrowed from the input, never NULL */
};

struct field_reader {
    struct reader in;
    int last; /* tag before, -1 at first */
};

/* Append one field. len beyond max marks the buffer failed. */
void field_put(struct buffer *b, uint16_t tag, const void *p, size_t len, size_t max);
/* The same for a string; NULL appends nothing. */
void field_put_text(struct buffer *b, uint16_t tag, const char *s, size_t max);

struct field_reader field_reader_of(struct reader in);
/* The next field: 1, 0 at the end, or ERR_DAMAGED. */
int field_next(struct field_reader *r, struct field *f, struct error *e);
/* What to do with a tag that the caller does not know: 0 to skip it, or ERR_NOREPO. */
int field_unknown(const struct field *f, struct error *e);

/* Memory for pointers out of a decoded body, freed as one. */
struct arena {
    uint8_t *p;
    size_t used, cap;
};
int arena_init(struct arena *a, size_t cap, struct error *e);
/* n bytes aligned to 8; the caller has sized the arena (up to 7 bytes a call go to alignment). */
void *arena_take(struct arena *a, size_t n);
/* A NUL-terminated copy; NULL and ERR_DAMAGED in *e when a NUL stands inside or len > max. */
char *arena_text(struct arena *a, const uint8_t *p, size_t len, size_t max, struct error *e);

#endif
