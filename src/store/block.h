/* block.h - the body of a block record: neighbouring chunks compressed together.
 *
 * With a base (a chunk id), the stored bytes are a delta against that chunk's raw bytes. Where a
 * delta stands in its line of versions is noted beside it, for whoever chooses the next base. */
#ifndef WK_STORE_BLOCK_H
#define WK_STORE_BLOCK_H

#include "store/codec.h"
#include "store/hash.h"

#include <stdint.h>

#define BLOCK_CHUNKS_MAX 65536
#define BLOCK_RAW_MAX (8u * 1024 * 1024)
#define BLOCK_FLAGS_OFFSET 1 /* of a body */
#define BLOCK_HAS_BASE 1
#define BLOCK_BARE 2 /* of its chunks it has the lengths alone; other flags must be known */

struct block_chunk {
    struct hash id;   /* of a bare block: not before block_name */
    uint32_t raw_off; /* within the expanded block */
    uint32_t raw_len;
};

struct block_base {
    struct hash id;
    uint8_t rank;  /* how many versions since the one without a base */
    uint8_t depth; /* how many deltas have to be expanded, this one included */
};

struct block {
    int codec;
    bool has_base, bare;
    struct block_base base;
    uint32_t raw_len;
    uint32_t count;
    struct block_chunk *chunks; /* malloc'ed */
    const uint8_t *packed;      /* borrowed from the body */
    uint32_t packed_len;
};

/* Append the body for chunks (ids and lengths; offsets follow from the order) over raw. Where many
 * are small and there is no base their ids are left out. link, base may be NULL. What does not
 * shrink is stored without a base: `has_base` after block_decode, or the body's flags, tell whether
 * the base is referred to. Returns 0, or ERR_FAILED on no memory. */
int block_encode(const struct block_chunk *chunks, uint32_t count, const void *raw,
                 uint32_t raw_len, enum codec want, enum codec_effort effort,
                 const struct block_base *link, const void *base, size_t base_len,
                 struct buffer *out, struct error *e);

/* Parse a body; every length bounded and consistent, or ERR_DAMAGED. Free with block_release. */
int block_decode(const void *body, size_t len, struct block *b, struct error *e);
void block_release(struct block *b);

/* Expand into raw (b->raw_len bytes); base bytes are required when has_base. */
int block_expand(const struct block *b, const void *base, size_t base_len, void *raw,
                 struct error *e);

/* The ids that a bare block leaves out, from its expanded bytes. */
void block_name(struct block *b, const void *raw);
/* block_decode, and of a bare block the ids too: it is expanded for them, in `raw`. */
int block_decode_ids(const void *body, size_t len, struct block *b, struct buffer *raw,
                     struct error *e);

#endif
