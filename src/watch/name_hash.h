/* name_hash.h - a seeded hash of short names, for the tables of this room (FNV-1a, mixed once). */
#ifndef WK_WATCH_NAME_HASH_H
#define WK_WATCH_NAME_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t name_hash(const char *s, uint64_t seed)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ seed;

    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * UINT64_C(0x100000001b3);
    h ^= h >> 32;
    return h * UINT64_C(0x9e3779b97f4a7c15);
}

#endif
