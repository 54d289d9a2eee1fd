/* codec.h - compressing and expanding one buffer, by a codec byte. Thread safe.
 *
 * A base is the raw bytes of an earlier version that serve as dictionary: zstd uses it whole
 * (refPrefix), deflate its last 32 KiB. Expansion never writes more than raw_len bytes and fails
 * with ERR_DAMAGED unless it gives exactly raw_len. */
#ifndef WK_STORE_CODEC_H
#define WK_STORE_CODEC_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum codec { CODEC_STORED = 0, CODEC_DEFLATE = 1, CODEC_ZSTD = 2 };
enum codec_effort { CODEC_FAST, CODEC_STRONG };

/* "zstd" | "zlib" | "none" -> codec, or -1. */
int codec_by_name(const char *name);

/* Append the packed form of raw to out and return the codec really used: CODEC_STORED when it
 * would not shrink (found early, from samples, for large buffers). Negative on no memory. */
int codec_pack(enum codec want, enum codec_effort effort, const void *raw, size_t raw_len,
               const void *base, size_t base_len, struct buffer *out);

int codec_unpack(int codec, const void *packed, size_t len, const void *base, size_t base_len,
                 void *raw, size_t raw_len, struct error *e);

#endif
