/* The writing half; gzip_read.c is the other. */
#include "keep/gzip.h"

#include "base/bytes.h"

#include <libdeflate.h>
#include <stdlib.h>

#include "base/banned.h"

enum { HEADER_LEN = 20, TRAILER_LEN = 8, FLAG_EXTRA = 4, OS_UNIX = 3 };

struct gzip_packer {
    struct libdeflate_compressor *deflate;
};

struct gzip_packer *gzip_packer_new(unsigned level)
{
    struct gzip_packer *p = calloc(1, sizeof(*p));

    if (p)
        p->deflate = libdeflate_alloc_compressor((int)level);
    if (p && !p->deflate) {
        free(p);
        return NULL;
    }
    return p;
}

void gzip_packer_free(struct gzip_packer *p)
{
    if (!p)
        return;
    libdeflate_free_compressor(p->deflate);
    free(p);
}

/* RFC 1952: magic, deflate, a flag for the extra field, no time, how it was packed, system. */
static void put_header(uint8_t h[HEADER_LEN], size_t member_len)
{
    static const uint8_t fixed[HEADER_LEN] = {0x1f, 0x8b,    8, FLAG_EXTRA, 0,   0,   0, 0,
                                              0,    OS_UNIX, 8, 0,          'W', 'K', 4, 0};

    memcpy(h, fixed, HEADER_LEN);
    store_u32(h + 16, (uint32_t)member_len);
}

int gzip_pack(struct gzip_packer *p, const void *raw, size_t n, struct buffer *out, struct error *e)
{
    size_t start = out->len;
    size_t bound = libdeflate_deflate_compress_bound(p->deflate, n);
    uint8_t *to =
        n <= GZIP_MEMBER_RAW_MAX ? buffer_grow(out, HEADER_LEN + bound + TRAILER_LEN) : NULL;

    if (!to)
        return error_set(e, ERR_FAILED, "out of memory");
    size_t packed = libdeflate_deflate_compress(p->deflate, raw, n, to + HEADER_LEN, bound);
    if (packed == 0)
        return error_set(e, ERR_FAILED, "cannot compress %zu bytes", n);
    size_t len = HEADER_LEN + packed + TRAILER_LEN;
    put_header(to, len);
    store_u32(to + HEADER_LEN + packed, libdeflate_crc32(0, raw, n));
    store_u32(to + HEADER_LEN + packed + 4, (uint32_t)n);
    out->len = start + len;
    return 0;
}
