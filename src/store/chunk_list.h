/* chunk_list.h - long lists of chunk references as a tree of list chunks.
 *
 * A list of more than NODE_INLINE_REFS references is cut into runs at references whose id ends a
 * run (content-defined: load_u16(id) % 64 == 0, at least 16 and at most 256 in a run); each run,
 * encoded as count x {id 32, u64 len}, is a chunk of its own; the list of those is cut again until
 * at most NODE_INLINE_REFS stay. A change in the middle of a huge file renews one run a level. */
#ifndef WK_STORE_CHUNK_LIST_H
#define WK_STORE_CHUNK_LIST_H

#include "store/node.h"

#define CHUNK_LIST_DEPTH_MAX 6
#define CHUNK_REF_LEN 40

/* Called for each list chunk made, children before parents: encoded bytes and id. 0 or error. */
typedef int (*chunk_list_sink)(void *ctx, const struct hash *id, const void *p, size_t n,
                               struct error *e);

/* Fold refs (count) to at most NODE_INLINE_REFS; *refs is replaced (malloc'ed array, caller frees),
 * *count and *depth set. */
int chunk_list_fold(struct chunk_ref **refs, uint32_t *count, uint8_t *depth, chunk_list_sink sink,
                    void *ctx, struct error *e);

/* Decode one list chunk into an array that the caller frees. */
int chunk_list_decode(const void *p, size_t n, struct chunk_ref **refs, uint32_t *count,
                      struct error *e);

#endif
