/* gzip.h - gzip as a chain of members that know nothing of each other, so that several workers pack
 * and unpack them at once; every gzip reads the chain as one stream.
 *
 * A member we write tells its own length in the header's extra field (RFC 1952, subfield "WK": u32,
 * little-endian), which is how a reader of ours finds the next one without unpacking this. What it
 * says is a hint: a member that ends elsewhere is damage. Packed by libdeflate, read by zlib, the
 * decoder that everybody has. */
#ifndef WK_KEEP_GZIP_H
#define WK_KEEP_GZIP_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GZIP_MEMBER_RAW_MAX (8u * 1024 * 1024) /* raw bytes in a member we write */

/* ---- packing; a packer serves one thread ---- */

struct gzip_packer;
/* level 1..9: packs about as well as gzip at that level, in a fraction of its time;
 * 10..12: better, and slower. NULL on no memory. */
struct gzip_packer *gzip_packer_new(unsigned level);
void gzip_packer_free(struct gzip_packer *p);
/* Append members that hold the n (<= GZIP_MEMBER_RAW_MAX) bytes: one, or several where a part
 * hardly compresses, and less is looked for in it, or does not, and is stored as it is. 0 or
 * ERR_FAILED. */
int gzip_pack(struct gzip_packer *p, const void *raw, size_t n, struct buffer *out,
              struct error *e);

/* ---- unpacking a file ---- */

struct gzip_reader;
/* Reads fd (borrowed) from its beginning; past_cache: drop what was read from the page cache, and
 * have nothing from it. threads: how many unpack at once where the members tell their lengths (0:
 * in this thread). */
int gzip_reader_open(int fd, bool past_cache, unsigned threads, struct gzip_reader **out,
                     struct error *e);
void gzip_reader_close(struct gzip_reader *r);
/* The next bytes, borrowed until the next call; *len 0 at the end. ERR_DAMAGED: not gzip, cut off,
 * or a checksum that does not match. */
int gzip_reader_next(struct gzip_reader *r, const uint8_t **p, size_t *len, struct error *e);

#endif
