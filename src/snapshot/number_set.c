#include "snapshot/number_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CAP_MIN = 64 };

void number_set_release(struct number_set *s)
{
    free(s->slots);
    memset(s, 0, sizeof(*s));
}

/* The finisher of SplitMix64: numbers that follow each other land far apart. cap is a power of 2.
 */
static size_t slot_of(const uint64_t *slots, size_t cap, uint64_t v)
{
    uint64_t z = v;

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    size_t i = (size_t)(z ^ (z >> 31)) & (cap - 1);
    while (slots[i] != 0 && slots[i] != v)
        i = (i + 1) & (cap - 1);
    return i;
}

static bool grow(struct number_set *s)
{
    size_t cap = s->cap ? 2 * s->cap : CAP_MIN;
    uint64_t *slots = calloc(cap, sizeof(*slots));

    if (!slots)
        return false;
    for (size_t i = 0; i < s->cap; i++) {
        if (s->slots[i] != 0)
            slots[slot_of(slots, cap, s->slots[i])] = s->slots[i];
    }
    free(s->slots);
    s->slots = slots;
    s->cap = cap;
    return true;
}

int number_set_add(struct number_set *s, uint64_t v)
{
    if (v == 0) {
        bool had = s->has_zero;
        s->has_zero = true;
        return had ? 0 : 1;
    }
    if (s->count + s->count / 3 >= s->cap && !grow(s))
        return -1;
    size_t i = slot_of(s->slots, s->cap, v);
    if (s->slots[i] == v)
        return 0;
    s->slots[i] = v;
    s->count++;
    return 1;
}

bool number_set_has(const struct number_set *s, uint64_t v)
{
    if (v == 0)
        return s->has_zero;
    return s->cap > 0 && s->slots[slot_of(s->slots, s->cap, v)] == v;
}
