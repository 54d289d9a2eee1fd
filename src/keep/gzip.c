/* The writing half; gzip_read.c is the other. */
#include "keep/gzip.h"

#include "base/bytes.h"

#include <libdeflate.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    HEADER_LEN = 20,
    TRAILER_LEN = 8,
    FLAG_EXTRA = 4,
    OS_UNIX = 3,
    UNIT = 512 * 1024,  /* of one kind; a member of its own forgets what stood before */
    WINDOW = 16 * 1024, /* what is looked at for whether it compresses */
    SAMPLE = 2 * 1024,  /* of each window */
};

/* What it is worth to look for in it. */
enum kind { PLAIN, QUICK, DENSE };

struct gzip_packer {
    struct libdeflate_compressor *by_kind[DENSE + 1];
    float weight[WINDOW / 4 + 1]; /* n log2 n */
    uint8_t kinds[GZIP_MEMBER_RAW_MAX / UNIT];
};

/* libdeflate's levels reach what zlib's do with less work. From 7 on bytes count for more than
 * time. */
static int deflate_level(unsigned level, enum kind kind)
{
    static const int plain[] = {1, 1, 1, 2, 2, 4, 5, 6, 7, 8, 10, 11, 12};

    level = level < sizeof(plain) / sizeof(plain[0]) ? level : 12;
    if (kind == DENSE)
        return 0;
    return kind == QUICK && level < 7 ? 1 : plain[level];
}

struct gzip_packer *gzip_packer_new(unsigned level)
{
    struct gzip_packer *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    for (int i = PLAIN; i <= DENSE; i++) {
        p->by_kind[i] = libdeflate_alloc_compressor(deflate_level(level, (enum kind)i));
        if (!p->by_kind[i]) {
            gzip_packer_free(p);
            return NULL;
        }
    }
    for (unsigned i = 1; i <= WINDOW / 4; i++)
        p->weight[i] = (float)i * log2f((float)i);
    return p;
}

void gzip_packer_free(struct gzip_packer *p)
{
    if (!p)
        return;
    for (int i = 0; i <= DENSE; i++)
        if (p->by_kind[i])
            libdeflate_free_compressor(p->by_kind[i]);
    free(p);
}

/* ---- what does not compress ---- */

/* Bits a byte of n bytes, taken each for itself; 0 where one value makes up a quarter of a window.
 */
static float entropy(const struct gzip_packer *p, const uint8_t *data, size_t n)
{
    uint32_t counts[4][256] = {{0}};
    float sum = 0;

    for (size_t i = 0; i + 4 <= n; i += 4) {
        counts[0][data[i]]++;
        counts[1][data[i + 1]]++;
        counts[2][data[i + 2]]++;
        counts[3][data[i + 3]]++;
    }
    for (size_t v = 0; v < 256; v++) {
        uint32_t count = counts[0][v] + counts[1][v] + counts[2][v] + counts[3][v];
        if (count > WINDOW / 4)
            return 0;
        sum += p->weight[count];
    }
    return log2f((float)n) - sum / (float)n;
}

/* The mean of the first `look` bytes of each window. */
static float mean_entropy(const struct gzip_packer *p, const uint8_t *data, size_t n, size_t look)
{
    float sum = 0;
    size_t count = 0;

    for (size_t at = 0; n - at >= WINDOW; at += WINDOW, count++)
        sum += entropy(p, data + at, look);
    return count > 0 ? sum / (float)count : 0;
}

/* Compressed or random bytes have as good as eight bits each; with somewhat less there is hardly
 * more in them than a quick look finds. Samples tell of most others, more cheaply. */
static enum kind kind_of(const struct gzip_packer *p, const uint8_t *data, size_t n)
{
    if (mean_entropy(p, data, n, SAMPLE) < 6.75F)
        return PLAIN;
    return mean_entropy(p, data, n, WINDOW) > 7.98F ? DENSE : QUICK;
}

/* ---- members ---- */

/* RFC 1952: magic, deflate, a flag for the extra field, no time, how it was packed, system. */
static void put_header(uint8_t h[HEADER_LEN], size_t member_len)
{
    static const uint8_t fixed[HEADER_LEN] = {0x1f, 0x8b,    8, FLAG_EXTRA, 0,   0,   0, 0,
                                              0,    OS_UNIX, 8, 0,          'W', 'K', 4, 0};

    memcpy(h, fixed, HEADER_LEN);
    store_u32(h + 16, (uint32_t)member_len);
}

static int put_member(struct libdeflate_compressor *c, const uint8_t *raw, size_t n,
                      struct buffer *out, struct error *e)
{
    size_t start = out->len;
    size_t bound = libdeflate_deflate_compress_bound(c, n);
    uint8_t *to = buffer_grow(out, HEADER_LEN + bound + TRAILER_LEN);

    if (!to)
        return error_set(e, ERR_FAILED, "out of memory");
    size_t packed = libdeflate_deflate_compress(c, raw, n, to + HEADER_LEN, bound);
    if (packed == 0)
        return error_set(e, ERR_FAILED, "cannot compress %zu bytes", n);
    size_t len = HEADER_LEN + packed + TRAILER_LEN;
    put_header(to, len);
    store_u32(to + HEADER_LEN + packed, libdeflate_crc32(0, raw, n));
    store_u32(to + HEADER_LEN + packed + 4, (uint32_t)n);
    out->len = start + len;
    return 0;
}

int gzip_pack(struct gzip_packer *p, const void *raw, size_t n, struct buffer *out, struct error *e)
{
    const uint8_t *data = raw;
    int rc = n <= GZIP_MEMBER_RAW_MAX ? 0 : error_set(e, ERR_FAILED, "a member is too long");
    size_t count = rc == 0 ? n / UNIT : 0; /* what is left over goes with the last */

    for (size_t i = 0; i < count; i++)
        p->kinds[i] = (uint8_t)kind_of(p, data + i * UNIT, UNIT);
    if (rc == 0 && count == 0 && n > 0)
        p->kinds[count++] = (uint8_t)kind_of(p, data, n);
    for (size_t i = 0, end; rc == 0 && i < count; i = end) {
        for (end = i + 1; end < count && p->kinds[end] == p->kinds[i];)
            end++;
        size_t from = i * UNIT, to = end < count ? end * UNIT : n;
        rc = put_member(p->by_kind[p->kinds[i]], data + from, to - from, out, e);
    }
    return rc;
}
