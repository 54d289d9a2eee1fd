/* pair_map.h - a hash table in memory from a pair of numbers to a number.
 *
 * Keys like (node, 0), (device, inode), (parent, hash of a name). Not thread safe. */
#ifndef WK_SNAPSHOT_PAIR_MAP_H
#define WK_SNAPSHOT_PAIR_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pair_slot {
    uint64_t a, b, value;
    bool used;
};
struct pair_map { /* all zero is empty */
    struct pair_slot *slots;
    size_t count, cap;
};

void pair_map_release(struct pair_map *m);
/* The value's place, or NULL; until the next put or remove. */
uint64_t *pair_map_get(const struct pair_map *m, uint64_t a, uint64_t b);
/* Add, or set anew. False on no memory. */
bool pair_map_put(struct pair_map *m, uint64_t a, uint64_t b, uint64_t value);
void pair_map_remove(struct pair_map *m, uint64_t a, uint64_t b);

#endif
