/* bytes.h - explicit little-endian integers, and a bounded reader over (buffer, length).
 *
 * put_* append to a buffer; store_* and load_* work on memory the caller bounded. A reader never
 * reads past its end: the first overrun sets `bad`, every later read gives 0 or NULL. */
#ifndef WK_BASE_BYTES_H
#define WK_BASE_BYTES_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

void store_u16(uint8_t *p, uint16_t v);
void store_u32(uint8_t *p, uint32_t v);
void store_u64(uint8_t *p, uint64_t v);
uint16_t load_u16(const uint8_t *p);
uint32_t load_u32(const uint8_t *p);
uint64_t load_u64(const uint8_t *p);

void put_u8(struct buffer *b, uint8_t v);
void put_u16(struct buffer *b, uint16_t v);
void put_u32(struct buffer *b, uint32_t v);
void put_u64(struct buffer *b, uint64_t v);
void put_i64(struct buffer *b, int64_t v);

/* LEB128: seven bits a byte from the lowest on, the top bit says that more follow. Small numbers
 * are short. Signed ones alternate: 0, -1, 1, -2, ... */
#define VARINT_MAX 10
size_t store_varint(uint8_t *p, uint64_t v); /* bytes written, 1..VARINT_MAX */
void put_varint(struct buffer *b, uint64_t v);
static inline uint64_t zigzag(int64_t v)
{
    return (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0);
}
static inline int64_t unzigzag(uint64_t v)
{
    return (int64_t)(v >> 1 ^ (v & 1 ? UINT64_MAX : 0));
}

struct reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

struct reader reader_of(const void *p, size_t n);
uint8_t take_u8(struct reader *r);
uint16_t take_u16(struct reader *r);
uint32_t take_u32(struct reader *r);
uint64_t take_u64(struct reader *r);
int64_t take_i64(struct reader *r);
uint64_t take_varint(struct reader *r); /* one that is longer than it need be is bad */
const uint8_t *take_bytes(struct reader *r, size_t n); /* borrowed from the input, or NULL */
bool reader_done(const struct reader *r);              /* all consumed, nothing bad */

#endif
