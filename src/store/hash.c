/* The one-shot SHA-256 context lives on the stack: unlike an EVP context it needs no memory and
 * cannot fail, so that an identity is never missing, and a tiny chunk costs 50 ns instead of 85.
 * OpenSSL 3 marks these calls as deprecated in favour of EVP; they run the same assembly. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "store/hash.h"

#include "base/bytes.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/banned.h"

_Static_assert(HASH_LEN == SHA256_DIGEST_LENGTH, "identities are SHA-256");
_Static_assert(FAST_SECRET_LEN >= XXH3_SECRET_SIZE_MIN, "secret too short for XXH3");
_Static_assert(sizeof(struct fast_hash) == sizeof(XXH128_canonical_t), "fast hash is XXH3-128");

struct hash_stream {
    SHA256_CTX ctx;
};

void hash_sha256(const void *p, size_t n, struct hash *out)
{
    SHA256_CTX ctx;

    SHA256_Init(&ctx);
    SHA256_Update(&ctx, p, n);
    SHA256_Final(out->b, &ctx);
}

bool hash_equal(const struct hash *a, const struct hash *b)
{
    return memcmp(a->b, b->b, HASH_LEN) == 0;
}

bool hash_is_zero(const struct hash *h)
{
    static const struct hash zero;

    return hash_equal(h, &zero);
}

struct hash_stream *hash_stream_new(void)
{
    struct hash_stream *s = malloc(sizeof(*s));

    if (s)
        SHA256_Init(&s->ctx);
    return s;
}

void hash_stream_update(struct hash_stream *s, const void *p, size_t n)
{
    SHA256_Update(&s->ctx, p, n);
}

void hash_stream_final(struct hash_stream *s, struct hash *out)
{
    SHA256_Final(out->b, &s->ctx);
}

void hash_stream_free(struct hash_stream *s)
{
    free(s);
}

void hash_fast(const void *p, size_t n, const uint8_t *secret, struct fast_hash *out)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSecret(p, n, secret, FAST_SECRET_LEN));
    memcpy(out->b, canonical.digest, sizeof(out->b));
}

uint64_t hash_guard(const void *p, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

/* sum = a + b as 128-bit little-endian integers; the carry out of the top is dropped. */
static void add_128(struct state_sum *sum, uint64_t low, uint64_t high)
{
    uint64_t old = load_u64(sum->b);
    uint64_t new_low = old + low;

    store_u64(sum->b, new_low);
    store_u64(sum->b + 8, load_u64(sum->b + 8) + high + (new_low < old));
}

void state_sum_add(struct state_sum *s, const void *p, size_t n)
{
    struct hash h;

    hash_sha256(p, n, &h);
    add_128(s, load_u64(h.b), load_u64(h.b + 8));
}

void state_sum_sub(struct state_sum *s, const void *p, size_t n)
{
    struct hash h;

    hash_sha256(p, n, &h);
    uint64_t low = load_u64(h.b);
    uint64_t high = load_u64(h.b + 8);
    /* Two's complement: -x = ~x + 1. */
    add_128(s, ~low + 1, ~high + (low == 0));
}
