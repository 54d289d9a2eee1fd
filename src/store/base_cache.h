/* base_cache.h - raw bytes of chunks that changed lately: the likely bases of the next deltas.
 *
 * A small table bounded in bytes; what was used least lately goes first. Any thread. */
#ifndef WK_STORE_BASE_CACHE_H
#define WK_STORE_BASE_CACHE_H

#include "store/hash.h"

struct base_cache;

struct base_cache *base_cache_new(size_t bytes_max); /* NULL on no memory */
void base_cache_free(struct base_cache *c);          /* NULL is fine */

/* A copy of the chunk's bytes that the caller frees, or NULL. */
uint8_t *base_cache_get(struct base_cache *c, const struct hash *id, size_t *len);
/* Keep a copy; one that is too long, or no memory: it is not kept. */
void base_cache_put(struct base_cache *c, const struct hash *id, const void *raw, size_t len);

#endif
