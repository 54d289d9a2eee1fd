/* The levels were chosen by measuring (FORMAT.md, "Codecs", has the table); the format does not fix
 * them, any level expands the same way. Packing is what a first save waits for: zstd 3 with smaller
 * tables, which stay in the processor's cache, is 15 % faster than with its own for one per cent
 * more bytes. 12 reaches what 15 does at three times its speed. */
#include "store/codec.h"

#include "base/bytes.h"

#include <libdeflate.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "base/banned.h"

enum {
    ZSTD_FAST = 3,
    ZSTD_BASE_FAST = 2,
    ZSTD_HASH_LOG = 16, /* smaller tables than level 3 has for large blocks */
    ZSTD_CHAIN_LOG = 14,
    LARGE_BLOCK = 256 * 1024,
    ZSTD_STRONG = 12,
    DEFLATE_FAST = 1,
    DEFLATE_STRONG = 6,
    DEFLATE_BASE_FAST = 3, /* zlib's own levels, for deltas */
    DEFLATE_BASE_STRONG = 9,
    DEFLATE_WINDOW = 32768,
    LONG_BASE = 8192, /* beyond this the plain match tables are led astray by what repeats in it */
    VERY_LONG_BASE = 1024 * 1024,
    SAMPLE_LEN = 1024,
    SAMPLE_EVERY = 32 * 1024,
    EFFORTS = 2,
};

/* What a thread keeps between calls; made at need, gone with the thread. */
struct codec_state {
    ZSTD_CCtx *zstd_pack;
    ZSTD_DCtx *zstd_unpack;
    struct libdeflate_compressor *deflate[EFFORTS];
    struct libdeflate_decompressor *inflate;
    z_stream deflate_base[EFFORTS];
    z_stream inflate_base;
    bool deflate_base_ready[EFFORTS];
    bool inflate_base_ready;
};

static pthread_once_t state_once = PTHREAD_ONCE_INIT;
static pthread_key_t state_key;
static bool state_key_ok;

static void state_free(void *p)
{
    struct codec_state *s = p;

    if (!s)
        return;
    ZSTD_freeCCtx(s->zstd_pack);
    ZSTD_freeDCtx(s->zstd_unpack);
    libdeflate_free_decompressor(s->inflate);
    for (int i = 0; i < EFFORTS; i++) {
        libdeflate_free_compressor(s->deflate[i]);
        if (s->deflate_base_ready[i])
            deflateEnd(&s->deflate_base[i]);
    }
    if (s->inflate_base_ready)
        inflateEnd(&s->inflate_base);
    free(s);
}

static void state_key_make(void)
{
    state_key_ok = pthread_key_create(&state_key, state_free) == 0;
}

/* A key's destructor does not run for the thread that leaves main, and must not run any more when
 * this code was part of a library that is unloaded. */
__attribute__((destructor)) static void state_end(void)
{
    if (!state_key_ok)
        return;
    state_free(pthread_getspecific(state_key));
    pthread_setspecific(state_key, NULL);
    pthread_key_delete(state_key);
}

static struct codec_state *state_get(void)
{
    pthread_once(&state_once, state_key_make);
    if (!state_key_ok)
        return NULL;
    struct codec_state *s = pthread_getspecific(state_key);
    if (s)
        return s;
    s = calloc(1, sizeof(*s));
    if (s && pthread_setspecific(state_key, s) != 0) {
        free(s);
        s = NULL;
    }
    return s;
}

int codec_by_name(const char *name)
{
    if (strcmp(name, "zstd") == 0)
        return CODEC_ZSTD;
    if (strcmp(name, "zlib") == 0)
        return CODEC_DEFLATE;
    if (strcmp(name, "none") == 0)
        return CODEC_STORED;
    return -1;
}

/* ---- packing: each gives the packed length, 0 when it did not shrink, negative on no memory ----
 */

/* Smallest log2 of a window over n bytes, in what zstd allows for a window of ours. */
static int window_log(size_t n)
{
    int log = 10;

    while (log < 24 && ((size_t)1 << log) < n)
        log++;
    return log;
}

static ptrdiff_t pack_zstd(enum codec_effort effort, const void *raw, size_t raw_len,
                           const void *base, size_t base_len, void *to, size_t cap)
{
    struct codec_state *s = state_get();

    if (s && !s->zstd_pack)
        s->zstd_pack = ZSTD_createCCtx();
    if (!s || !s->zstd_pack)
        return -1;
    ZSTD_CCtx *c = s->zstd_pack;
    ZSTD_CCtx_reset(c, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel,
                           effort == CODEC_STRONG ? ZSTD_STRONG
                           : base_len > 0         ? ZSTD_BASE_FAST
                                                  : ZSTD_FAST);
    if (effort == CODEC_FAST && base_len == 0 && raw_len > LARGE_BLOCK) {
        ZSTD_CCtx_setParameter(c, ZSTD_c_hashLog, ZSTD_HASH_LOG);
        ZSTD_CCtx_setParameter(c, ZSTD_c_chainLog, ZSTD_CHAIN_LOG);
    }
    if (base_len > 0) {
        /* The window has to reach from the end of raw back to the beginning of the base. */
        ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log(raw_len + base_len));
        ZSTD_CCtx_setParameter(c, ZSTD_c_enableLongDistanceMatching, base_len >= LONG_BASE);
        ZSTD_CCtx_setParameter(c, ZSTD_c_ldmMinMatch, 64);
        ZSTD_CCtx_setParameter(c, ZSTD_c_ldmHashRateLog, base_len < VERY_LONG_BASE ? 6 : 0);
        ZSTD_CCtx_refPrefix(c, base, base_len);
    }
    size_t n = ZSTD_compress2(c, to, cap, raw, raw_len);
    return ZSTD_isError(n) ? -1 : (ptrdiff_t)n;
}

static ptrdiff_t pack_deflate(enum codec_effort effort, const void *raw, size_t raw_len, void *to,
                              size_t cap)
{
    struct codec_state *s = state_get();

    if (s && !s->deflate[effort])
        s->deflate[effort] =
            libdeflate_alloc_compressor(effort == CODEC_STRONG ? DEFLATE_STRONG : DEFLATE_FAST);
    if (!s || !s->deflate[effort])
        return -1;
    return (ptrdiff_t)libdeflate_deflate_compress(s->deflate[effort], raw, raw_len, to, cap);
}

static z_stream *deflate_base_stream(enum codec_effort effort)
{
    struct codec_state *s = state_get();

    if (!s)
        return NULL;
    z_stream *z = &s->deflate_base[effort];
    if (s->deflate_base_ready[effort])
        return deflateReset(z) == Z_OK ? z : NULL;
    int level = effort == CODEC_STRONG ? DEFLATE_BASE_STRONG : DEFLATE_BASE_FAST;
    if (deflateInit2(z, level, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return NULL;
    s->deflate_base_ready[effort] = true;
    return z;
}

/* The last 32 KiB of a base, which is all that deflate can look back to. */
static const uint8_t *window_of(const void *base, size_t base_len, uInt *len)
{
    *len = (uInt)(base_len < DEFLATE_WINDOW ? base_len : DEFLATE_WINDOW);
    return (const uint8_t *)base + (base_len - *len);
}

static ptrdiff_t pack_deflate_base(enum codec_effort effort, const void *raw, size_t raw_len,
                                   const void *base, size_t base_len, void *to, size_t cap)
{
    z_stream *z = deflate_base_stream(effort);
    uInt window_len;

    if (!z)
        return -1;
    const uint8_t *window = window_of(base, base_len, &window_len);
    if (deflateSetDictionary(z, window, window_len) != Z_OK)
        return -1;
    z->next_in = raw;
    z->avail_in = (uInt)raw_len;
    z->next_out = to;
    z->avail_out = (uInt)cap;
    return deflate(z, Z_FINISH) == Z_STREAM_END ? (ptrdiff_t)(cap - z->avail_out) : 0;
}

/* Whether the byte values of a sample are spread as evenly as chance spreads them: Pearson's
 * statistic over 256 values, mean 255 and deviation 23 for random bytes; far below is too even to
 * be chance (a counter, say). */
static bool sample_is_random(const uint8_t *p)
{
    uint16_t count[256] = {0};
    uint32_t squares = 0;

    for (int i = 0; i < SAMPLE_LEN; i++)
        count[p[i]]++;
    for (int i = 0; i < 256; i++)
        squares += (uint32_t)count[i] * count[i];
    uint32_t chi = squares / (SAMPLE_LEN / 256) - SAMPLE_LEN;
    return chi > 160 && chi < 400;
}

/* Every sample looks random: compressed, encrypted or media data. One that does not is enough to
 * try, so that a compressible part in a mixed block is not missed. */
static bool looks_incompressible(const uint8_t *p, size_t n)
{
    if (n < 4 * SAMPLE_LEN)
        return false;
    for (size_t at = 0; at + SAMPLE_LEN <= n; at += SAMPLE_EVERY)
        if (!sample_is_random(p + at))
            return false;
    return sample_is_random(p + n - SAMPLE_LEN);
}

static int store_raw(const void *raw, size_t raw_len, struct buffer *out)
{
    buffer_append(out, raw, raw_len);
    return buffer_ok(out) ? CODEC_STORED : ERR_FAILED;
}

int codec_pack(enum codec want, enum codec_effort effort, const void *raw, size_t raw_len,
               const void *base, size_t base_len, struct buffer *out)
{
    ptrdiff_t n;

    if (want == CODEC_STORED || raw_len == 0 || raw_len > UINT32_MAX / 2 ||
        (base_len == 0 && looks_incompressible(raw, raw_len)))
        return store_raw(raw, raw_len, out);
    size_t cap = want == CODEC_ZSTD ? ZSTD_compressBound(raw_len) : raw_len;
    if (!buffer_reserve(out, cap))
        return ERR_FAILED;
    uint8_t *to = out->data + out->len;
    if (want == CODEC_ZSTD)
        n = pack_zstd(effort, raw, raw_len, base, base_len, to, cap);
    else if (base_len > 0)
        n = pack_deflate_base(effort, raw, raw_len, base, base_len, to, cap);
    else
        n = pack_deflate(effort, raw, raw_len, to, cap);
    if (n < 0)
        return ERR_FAILED;
    /* Less than one part in 64 saved is not worth expanding on every read. */
    if (n == 0 || (size_t)n + raw_len / 64 >= raw_len)
        return store_raw(raw, raw_len, out);
    out->len += (size_t)n;
    return (int)want;
}

/* ---- expanding ---- */

static int no_match(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "packed bytes do not expand to what is recorded");
}

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int unpack_stored(const void *packed, size_t len, void *raw, size_t raw_len, struct error *e)
{
    if (len != raw_len)
        return no_match(e);
    if (len > 0)
        memcpy(raw, packed, len);
    return 0;
}

/* Exactly one frame of today's format: the library would also take older ones, and several. */
static bool one_zstd_frame(const uint8_t *packed, size_t len)
{
    return len >= 4 && load_u32(packed) == ZSTD_MAGICNUMBER &&
           ZSTD_findFrameCompressedSize(packed, len) == len;
}

static int unpack_zstd(const void *packed, size_t len, const void *base, size_t base_len, void *raw,
                       size_t raw_len, struct error *e)
{
    struct codec_state *s = state_get();

    if (s && !s->zstd_unpack)
        s->zstd_unpack = ZSTD_createDCtx();
    if (!s || !s->zstd_unpack)
        return no_memory(e);
    if (!one_zstd_frame(packed, len))
        return no_match(e);
    ZSTD_DCtx *d = s->zstd_unpack;
    ZSTD_DCtx_reset(d, ZSTD_reset_session_only);
    if (ZSTD_isError(ZSTD_DCtx_refPrefix(d, base, base_len)))
        return no_memory(e);
    if (ZSTD_decompressDCtx(d, raw, raw_len, packed, len) != raw_len)
        return no_match(e);
    return 0;
}

static int unpack_deflate(const void *packed, size_t len, void *raw, size_t raw_len,
                          struct error *e)
{
    struct codec_state *s = state_get();
    size_t used = 0, got = 0;

    if (s && !s->inflate)
        s->inflate = libdeflate_alloc_decompressor();
    if (!s || !s->inflate)
        return no_memory(e);
    enum libdeflate_result rc =
        libdeflate_deflate_decompress_ex(s->inflate, packed, len, raw, raw_len, &used, &got);
    return rc == LIBDEFLATE_SUCCESS && used == len && got == raw_len ? 0 : no_match(e);
}

static z_stream *inflate_base_stream(void)
{
    struct codec_state *s = state_get();

    if (!s)
        return NULL;
    z_stream *z = &s->inflate_base;
    if (s->inflate_base_ready)
        return inflateReset(z) == Z_OK ? z : NULL;
    if (inflateInit2(z, -15) != Z_OK)
        return NULL;
    s->inflate_base_ready = true;
    return z;
}

static int unpack_deflate_base(const void *packed, size_t len, const void *base, size_t base_len,
                               void *raw, size_t raw_len, struct error *e)
{
    z_stream *z = inflate_base_stream();
    uInt window_len;

    if (!z)
        return no_memory(e);
    const uint8_t *window = window_of(base, base_len, &window_len);
    if (inflateSetDictionary(z, window, window_len) != Z_OK)
        return no_memory(e);
    z->next_in = packed;
    z->avail_in = (uInt)len;
    z->next_out = raw;
    z->avail_out = (uInt)raw_len;
    int rc = inflate(z, Z_FINISH);
    if (rc == Z_MEM_ERROR)
        return no_memory(e);
    return rc == Z_STREAM_END && z->avail_in == 0 && z->avail_out == 0 ? 0 : no_match(e);
}

int codec_unpack(int codec, const void *packed, size_t len, const void *base, size_t base_len,
                 void *raw, size_t raw_len, struct error *e)
{
    if (len > UINT32_MAX / 2 || raw_len > UINT32_MAX / 2)
        return no_match(e);
    switch (codec) {
    case CODEC_STORED:
        return unpack_stored(packed, len, raw, raw_len, e);
    case CODEC_ZSTD:
        return unpack_zstd(packed, len, base, base_len, raw, raw_len, e);
    case CODEC_DEFLATE:
        return base_len > 0 ? unpack_deflate_base(packed, len, base, base_len, raw, raw_len, e)
                            : unpack_deflate(packed, len, raw, raw_len, e);
    default:
        return error_set(e, ERR_NOREPO, "codec %d is unknown to this watchkeep (" WK_VERSION ")",
                         codec);
    }
}
