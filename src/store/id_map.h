/* id_map.h - a hash table in memory from chunk ids to small records of one fixed length.
 *
 * A record begins with its struct hash. Ids are SHA-256, hence spread evenly by themselves; the
 * first eight bytes are the hash. Records lie in one array; a put may move them all, so keep no
 * pointer across one. Not thread safe. */
#ifndef WK_STORE_ID_MAP_H
#define WK_STORE_ID_MAP_H

#include "store/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_map {
    uint8_t *records;
    uint32_t *index; /* record number + 1, 0 = free */
    size_t record_len, count, cap, index_len;
};

void id_map_init(struct id_map *m, size_t record_len); /* >= sizeof(struct hash) */
void id_map_release(struct id_map *m);                 /* empty again, memory freed */

void *id_map_find(const struct id_map *m, const struct hash *id); /* or NULL */
/* Find or add; a fresh record is zero but for its id. NULL on no memory. */
void *id_map_put(struct id_map *m, const struct hash *id, bool *fresh);
void *id_map_at(const struct id_map *m, size_t i); /* 0 <= i < count, in order of addition */

/* Record numbers in rising order of id; malloc'ed, caller frees. NULL on no memory. */
uint32_t *id_map_sorted(const struct id_map *m);

#endif
