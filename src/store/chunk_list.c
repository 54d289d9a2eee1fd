#include "store/chunk_list.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { RUN_MIN = 16, RUN_MAX = 256, RUN_MASK = 63 };

/* References in the run that begins at refs; the ids alone decide, so that equal stretches of two
 * lists are cut alike. */
static uint32_t run_length(const struct chunk_ref *refs, uint32_t count)
{
    uint32_t max = count < RUN_MAX ? count : RUN_MAX;

    for (uint32_t n = RUN_MIN; n < max; n++)
        if ((load_u16(refs[n - 1].id.b) & RUN_MASK) == 0)
            return n;
    return max;
}

/* Encode a run as a list chunk, hand it out, and make the reference to it. */
static int fold_run(const struct chunk_ref *refs, uint32_t count, struct chunk_ref *parent,
                    chunk_list_sink sink, void *ctx, struct error *e)
{
    uint8_t bytes[RUN_MAX * CHUNK_REF_LEN];
    uint8_t *p = bytes;

    parent->len = 0;
    for (uint32_t i = 0; i < count; i++, p += CHUNK_REF_LEN) {
        memcpy(p, refs[i].id.b, HASH_LEN);
        store_u64(p + HASH_LEN, refs[i].len);
        parent->len += refs[i].len;
    }
    hash_sha256(bytes, (size_t)(p - bytes), &parent->id);
    return sink(ctx, &parent->id, bytes, (size_t)(p - bytes), e);
}

static int fold_level(struct chunk_ref **refs, uint32_t *count, chunk_list_sink sink, void *ctx,
                      struct error *e)
{
    struct chunk_ref *parents = malloc((*count / RUN_MIN + 1) * sizeof(*parents));
    uint32_t made = 0;

    if (!parents)
        return error_set(e, ERR_FAILED, "out of memory");
    for (uint32_t at = 0; at < *count;) {
        uint32_t n = run_length(*refs + at, *count - at);
        int rc = fold_run(*refs + at, n, &parents[made++], sink, ctx, e);
        if (rc != 0) {
            free(parents);
            return rc;
        }
        at += n;
    }
    free(*refs);
    *refs = parents;
    *count = made;
    return 0;
}

int chunk_list_fold(struct chunk_ref **refs, uint32_t *count, uint8_t *depth, chunk_list_sink sink,
                    void *ctx, struct error *e)
{
    *depth = 0;
    while (*count > NODE_INLINE_REFS) {
        if (*depth == CHUNK_LIST_DEPTH_MAX)
            return error_set(e, ERR_FAILED, "a list of chunks is too long");
        int rc = fold_level(refs, count, sink, ctx, e);
        if (rc != 0)
            return rc;
        ++*depth;
    }
    return 0;
}

static int damaged(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "a list of chunks does not parse");
}

int chunk_list_decode(const void *p, size_t n, struct chunk_ref **refs, uint32_t *count,
                      struct error *e)
{
    const uint8_t *b = p;
    uint64_t sum = 0;

    *refs = NULL;
    *count = 0;
    if (n == 0 || n % CHUNK_REF_LEN != 0 || n / CHUNK_REF_LEN > RUN_MAX)
        return damaged(e);
    struct chunk_ref *out = malloc(n / CHUNK_REF_LEN * sizeof(*out));
    if (!out)
        return error_set(e, ERR_FAILED, "out of memory");
    for (size_t i = 0; i < n / CHUNK_REF_LEN; i++, b += CHUNK_REF_LEN) {
        memcpy(out[i].id.b, b, HASH_LEN);
        out[i].len = load_u64(b + HASH_LEN);
        if (out[i].len == 0 || out[i].len > INT64_MAX - sum) {
            free(out);
            return damaged(e);
        }
        sum += out[i].len;
    }
    *refs = out;
    *count = (uint32_t)(n / CHUNK_REF_LEN);
    return 0;
}
