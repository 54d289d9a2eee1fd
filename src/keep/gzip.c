/* The writing half; gzip_read.c is the other. */
#include "keep/gzip.h"

#include "base/bytes.h"

#include <libdeflate.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/banned.h"

enum {
    HEADER_LEN = 20,
    TRAILER_LEN = 8,
    FLAG_EXTRA = 4,
    OS_UNIX = 3,
    WINDOW = 16 * 1024, /* what is looked at for whether it compresses */
    SAMPLE = 2 * 1024,
};

struct gzip_packer {
    struct libdeflate_compressor *deflate, *store;
    float weight[WINDOW / 4 + 1]; /* n log2 n */
};

/* libdeflate's levels reach what zlib's do with less work. */
static int deflate_level(unsigned level)
{
    static const int levels[] = {1, 1, 1, 2, 2, 3, 4, 6, 7, 8, 10, 11, 12};

    return levels[level < sizeof(levels) / sizeof(levels[0]) ? level : 12];
}

struct gzip_packer *gzip_packer_new(unsigned level)
{
    struct gzip_packer *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->deflate = libdeflate_alloc_compressor(deflate_level(level));
    p->store = libdeflate_alloc_compressor(0);
    if (!p->deflate || !p->store) {
        gzip_packer_free(p);
        return NULL;
    }
    for (unsigned i = 1; i <= WINDOW / 4; i++)
        p->weight[i] = (float)i * log2f((float)i);
    return p;
}

void gzip_packer_free(struct gzip_packer *p)
{
    if (!p)
        return;
    if (p->deflate)
        libdeflate_free_compressor(p->deflate);
    if (p->store)
        libdeflate_free_compressor(p->store);
    free(p);
}

/* ---- what does not compress ---- */

/* Bits a byte of n bytes, taken each for itself; 0 where one value makes up a quarter of them. */
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

/* Compressed or random bytes have as good as eight bits each. A sample tells of most others, more
 * cheaply: of so few bytes even random ones show less. */
static bool is_dense(const struct gzip_packer *p, const uint8_t *data, size_t n)
{
    return n == WINDOW && entropy(p, data, SAMPLE) > 7.8F && entropy(p, data, WINDOW) > 7.98F;
}

/* How many bytes from here on are all dense, or all not. */
static size_t same_kind(const struct gzip_packer *p, const uint8_t *data, size_t n, bool *dense)
{
    size_t at = n < WINDOW ? n : WINDOW;

    *dense = is_dense(p, data, at);
    while (at < n) {
        size_t now = n - at < WINDOW ? n - at : WINDOW;
        if (is_dense(p, data + at, now) != *dense)
            break;
        at += now;
    }
    return at;
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

    while (rc == 0 && n > 0) {
        bool dense;
        size_t now = same_kind(p, data, n, &dense);
        rc = put_member(dense ? p->store : p->deflate, data, now, out, e);
        data += now;
        n -= now;
    }
    return rc;
}
