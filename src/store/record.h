/* record.h - the framing of packs: the pack header and the header of a record (FORMAT.md).
 *
 * Parsers take (buffer, length), bound everything, and never trust a length before its checksum
 * has matched. The checksum's seed is made of pack id and offset, so that pack bytes that stand
 * inside some file's content are never taken for records of this pack. */
#ifndef WK_STORE_RECORD_H
#define WK_STORE_RECORD_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT_VERSION 1
#define PACK_HEADER_LEN 128
#define RECORD_HEADER_LEN 40
#define RECORD_ALIGN 8
#define RECORD_BODY_MAX (16u * 1024 * 1024)

/* Feature words: unknown incompat bits refuse every use, unknown ro_compat bits refuse writing,
 * unknown compat bits may be ignored. */
#define FEATURES_INCOMPAT UINT64_C(0)
#define FEATURES_RO_COMPAT UINT64_C(0)

enum pack_kind { PACK_LOG = 1, PACK_DATA = 2 };

struct pack_header {
    uint32_t version;
    uint64_t incompat, ro_compat, compat;
    uint8_t repo_id[16];
    uint64_t pack_id;
    uint8_t kind;
    uint8_t id_algorithm; /* 1 = SHA-256 */
    uint32_t key_id;      /* 0 = not encrypted */
    int64_t created_s;
    uint32_t created_ns;
};

void pack_header_encode(const struct pack_header *h, uint8_t out[PACK_HEADER_LEN]);
/* ERR_DAMAGED, or ERR_NOREPO with the feature named when it is of a kind we cannot use. */
int pack_header_decode(const void *p, size_t n, struct pack_header *h, bool for_writing,
                       struct error *e);

enum record_type {
    RECORD_BLOCK = 1,
    RECORD_FILE_LIST = 2,
    RECORD_COMMIT = 3,
    RECORD_MARK = 4,
    RECORD_CHECKPOINT = 5,
    RECORD_PRUNE = 6,
    RECORD_COMPACTION = 7,
    RECORD_FENCE = 8,
    RECORD_SEAL = 9,
};
#define RECORD_TYPE_SKIP 128 /* unknown types from here on may be skipped, others are refused */

struct record_header {
    uint8_t type;
    uint64_t sequence; /* one total order over all log packs; blocks carry 0 */
    uint32_t body_len;
    uint64_t body_guard; /* XXH3-64 of the body, seeded like the header's */
};

/* Append header, body and padding for a record that will stand at offset in pack. A body beyond
 * RECORD_BODY_MAX marks out failed. */
void record_encode(uint8_t type, uint64_t sequence, uint64_t pack_id, uint64_t offset,
                   const void *body, size_t body_len, struct buffer *out);
/* The same without a copy: *record is RECORD_HEADER_LEN bytes of room and then the body. */
void record_finish(uint8_t type, uint64_t sequence, uint64_t pack_id, uint64_t offset,
                   struct buffer *record);
/* Bytes a record takes with header and padding. */
uint64_t record_span(uint32_t body_len);

/* Check a header (RECORD_HEADER_LEN bytes) that stands at offset in pack. ERR_DAMAGED, or
 * ERR_NOREPO for a sound header of a type or flag that only a newer version knows. */
int record_header_decode(const void *p, uint64_t pack_id, uint64_t offset, struct record_header *h,
                         struct error *e);
bool record_body_ok(const struct record_header *h, uint64_t pack_id, uint64_t offset,
                    const void *body);

#endif
