#include "snapshot/pair_map.h"

#include <stdlib.h>

#include "base/banned.h"

/* Linear probing at most half full. */

static size_t home(const struct pair_map *m, uint64_t a, uint64_t b)
{
    uint64_t h = (a * UINT64_C(0x9e3779b97f4a7c15)) ^ (b * UINT64_C(0xc2b2ae3d27d4eb4f));

    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return (size_t)(h >> 32) & (m->cap - 1);
}

static struct pair_slot *place(const struct pair_map *m, uint64_t a, uint64_t b)
{
    size_t i = home(m, a, b);

    while (m->slots[i].used && (m->slots[i].a != a || m->slots[i].b != b))
        i = (i + 1) & (m->cap - 1);
    return &m->slots[i];
}

static bool grow(struct pair_map *m)
{
    struct pair_map big = {.cap = m->cap ? 2 * m->cap : 64, .count = m->count};

    big.slots = calloc(big.cap, sizeof(*big.slots));
    if (!big.slots)
        return false;
    for (size_t i = 0; i < m->cap; i++) {
        if (m->slots[i].used)
            *place(&big, m->slots[i].a, m->slots[i].b) = m->slots[i];
    }
    free(m->slots);
    *m = big;
    return true;
}

void pair_map_release(struct pair_map *m)
{
    free(m->slots);
    *m = (struct pair_map){0};
}

uint64_t *pair_map_get(const struct pair_map *m, uint64_t a, uint64_t b)
{
    if (m->count == 0)
        return NULL;
    struct pair_slot *s = place(m, a, b);
    return s->used ? &s->value : NULL;
}

bool pair_map_put(struct pair_map *m, uint64_t a, uint64_t b, uint64_t value)
{
    if (2 * (m->count + 1) > m->cap && !grow(m))
        return false;
    struct pair_slot *s = place(m, a, b);
    m->count += !s->used;
    *s = (struct pair_slot){a, b, value, true};
    return true;
}

void pair_map_remove(struct pair_map *m, uint64_t a, uint64_t b)
{
    struct pair_slot *s = m->count ? place(m, a, b) : NULL;

    if (!s || !s->used)
        return;
    size_t mask = m->cap - 1;
    size_t hole = (size_t)(s - m->slots);
    /* Close the gap: whoever probed past it moves back. */
    for (size_t i = (hole + 1) & mask; m->slots[i].used; i = (i + 1) & mask) {
        size_t h = home(m, m->slots[i].a, m->slots[i].b);
        if (((i - h) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].used = false;
    m->count--;
}
