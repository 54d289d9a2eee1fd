/* chunker.h - where a stream is cut, the same on every machine. Pure functions.
 *
 * Content-defined cuts for files: gear hash with normalised chunking (FastCDC, Xia et al., USENIX
 * ATC 2016), minimum 8 KiB, average 32 KiB, maximum 256 KiB; larger sizes (x4) from 256 MiB and
 * (x16) from 4 GiB on. A stream up to 64 KiB is one chunk. Databases: fixed page-aligned chunks.
 * The gear table is derived from SplitMix64 with a fixed seed, given in FORMAT.md. */
#ifndef WK_STORE_CHUNKER_H
#define WK_STORE_CHUNKER_H

#include <stddef.h>
#include <stdint.h>

#define CHUNK_WHOLE_MAX (64 * 1024)     /* a stream up to this long is one chunk */
#define CHUNK_LEN_MAX (4 * 1024 * 1024) /* of any chunk */

struct chunker {
    size_t min, avg, max; /* fixed chunks: all three equal */
};

/* For a stream of total_len bytes; page_size 0 for plain files, else a power of two 512..65536. */
struct chunker chunker_for(uint64_t total_len, uint32_t page_size);

/* Length of the next chunk at p, of n bytes available; at_end tells that nothing follows. Returns
 * 0 when more bytes are needed to decide (only if !at_end and n < c->max). */
size_t chunker_next(const struct chunker *c, const uint8_t *p, size_t n, int at_end);

#endif
