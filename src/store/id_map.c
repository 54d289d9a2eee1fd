#include "store/id_map.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { FIRST_CAP = 64 };

void id_map_init(struct id_map *m, size_t record_len)
{
    *m = (struct id_map){.record_len = record_len};
}

void id_map_release(struct id_map *m)
{
    free(m->records);
    free(m->index);
    id_map_init(m, m->record_len);
}

void *id_map_at(const struct id_map *m, size_t i)
{
    return m->records + i * m->record_len;
}

/* Where id stands, or the free place where it belongs. */
static uint32_t *place_of(const struct id_map *m, const struct hash *id)
{
    size_t at = (size_t)load_u64(id->b) & (m->index_len - 1);

    while (m->index[at] != 0 && memcmp(id_map_at(m, m->index[at] - 1), id->b, HASH_LEN) != 0)
        at = (at + 1) & (m->index_len - 1);
    return &m->index[at];
}

void *id_map_find(const struct id_map *m, const struct hash *id)
{
    if (m->count == 0)
        return NULL;
    uint32_t i = *place_of(m, id);
    return i ? id_map_at(m, i - 1) : NULL;
}

static bool grow_records(struct id_map *m)
{
    size_t cap = m->cap ? m->cap + m->cap / 2 : FIRST_CAP;
    if (cap > UINT32_MAX - 1)
        return false;
    uint8_t *p = realloc(m->records, cap * m->record_len);
    if (!p)
        return false;
    m->records = p;
    m->cap = cap;
    return true;
}

static bool grow_index(struct id_map *m)
{
    size_t len = m->index_len ? m->index_len * 2 : FIRST_CAP * 2;
    uint32_t *p = calloc(len, sizeof(*p));
    if (!p)
        return false;
    free(m->index);
    m->index = p;
    m->index_len = len;
    for (size_t i = 0; i < m->count; i++) {
        struct hash id;
        memcpy(id.b, id_map_at(m, i), HASH_LEN);
        *place_of(m, &id) = (uint32_t)i + 1;
    }
    return true;
}

void *id_map_put(struct id_map *m, const struct hash *id, bool *fresh)
{
    if ((m->count + 1) * 3 > m->index_len * 2 && !grow_index(m))
        return NULL;
    uint32_t *place = place_of(m, id);
    *fresh = *place == 0;
    if (!*fresh)
        return id_map_at(m, *place - 1);
    if (m->count == m->cap && !grow_records(m))
        return NULL;
    uint8_t *record = id_map_at(m, m->count);
    memset(record, 0, m->record_len);
    memcpy(record, id->b, HASH_LEN);
    *place = (uint32_t)++m->count;
    return record;
}

struct sorted {
    uint64_t first; /* eight bytes of the id, as a number */
    uint32_t record;
};

static int by_first(const void *a, const void *b, void *ctx)
{
    const struct sorted *x = a, *y = b;

    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return memcmp(id_map_at(ctx, x->record), id_map_at(ctx, y->record), HASH_LEN);
}

uint32_t *id_map_sorted(const struct id_map *m)
{
    size_t n = m->count ? m->count : 1;
    struct sorted *list = malloc(n * sizeof(*list));
    uint32_t *order = malloc(n * sizeof(*order));
    struct id_map ctx = *m;

    if (list && order) {
        for (size_t i = 0; i < m->count; i++)
            list[i] = (struct sorted){__builtin_bswap64(load_u64(id_map_at(m, i))), (uint32_t)i};
        qsort_r(list, m->count, sizeof(*list), by_first, &ctx);
        for (size_t i = 0; i < m->count; i++)
            order[i] = list[i].record;
    } else {
        free(order);
        order = NULL;
    }
    free(list);
    return order;
}
