/* hash.h - the three hashes and what each may be trusted with.
 *
 * SHA-256 (libcrypto) is identity: dedup, every read, the chain of commits, state sums.
 * XXH3-128 with the catalog's random secret only answers "is this chunk of this file what its last
 * version held?"; it never reaches a pack. XXH3-64 guards stored bytes of records against
 * accidents. Thread safe. */
#ifndef WK_STORE_HASH_H
#define WK_STORE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_LEN 32

struct hash {
    uint8_t b[HASH_LEN];
};

void hash_sha256(const void *p, size_t n, struct hash *out);
bool hash_equal(const struct hash *a, const struct hash *b);
bool hash_is_zero(const struct hash *h);

/* Streaming SHA-256, for whole files and packs. */
struct hash_stream;
struct hash_stream *hash_stream_new(void); /* NULL on no memory */
void hash_stream_update(struct hash_stream *s, const void *p, size_t n);
void hash_stream_final(struct hash_stream *s, struct hash *out); /* the caller then frees it */
void hash_stream_free(struct hash_stream *s);

#define FAST_SECRET_LEN 192
struct fast_hash {
    uint8_t b[16];
};
/* XXH3-128 with a secret of FAST_SECRET_LEN random bytes. */
void hash_fast(const void *p, size_t n, const uint8_t *secret, struct fast_hash *out);

/* XXH3-64 with a seed. */
uint64_t hash_guard(const void *p, size_t n, uint64_t seed);

/* A 128-bit additive sum over a set: sum +/- first 16 bytes of SHA-256(p), modulo 2^128. The order
 * of additions does not matter; adding and taking away the same bytes cancel. */
struct state_sum {
    uint8_t b[16];
};
void state_sum_add(struct state_sum *s, const void *p, size_t n);
void state_sum_sub(struct state_sum *s, const void *p, size_t n);

#endif
