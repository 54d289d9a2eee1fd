#include "store/base_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { ENTRIES = 128 };

struct entry {
    struct hash id;
    uint8_t *raw; /* NULL: free */
    size_t len;
    uint64_t used;
};

struct base_cache {
    pthread_mutex_t lock;
    size_t bytes, bytes_max;
    uint64_t clock;
    struct entry entries[ENTRIES];
};

struct base_cache *base_cache_new(size_t bytes_max)
{
    struct base_cache *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    c->bytes_max = bytes_max;
    return c;
}

void base_cache_free(struct base_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < ENTRIES; i++)
        free(c->entries[i].raw);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct entry *find(struct base_cache *c, const struct hash *id)
{
    for (int i = 0; i < ENTRIES; i++)
        if (c->entries[i].raw && hash_equal(&c->entries[i].id, id))
            return &c->entries[i];
    return NULL;
}

static void drop(struct base_cache *c, struct entry *x)
{
    c->bytes -= x->len;
    free(x->raw);
    *x = (struct entry){.raw = NULL};
}

/* The one to go next: free, or unused for the longest time. */
static struct entry *oldest(struct base_cache *c)
{
    struct entry *x = &c->entries[0];

    for (int i = 1; x->raw && i < ENTRIES; i++)
        if (!c->entries[i].raw || c->entries[i].used < x->used)
            x = &c->entries[i];
    return x;
}

static struct entry *oldest_taken(struct base_cache *c)
{
    struct entry *x = NULL;

    for (int i = 0; i < ENTRIES; i++)
        if (c->entries[i].raw && (!x || c->entries[i].used < x->used))
            x = &c->entries[i];
    return x;
}

static uint8_t *copy_of(const void *p, size_t n)
{
    uint8_t *copy = malloc(n);

    if (copy)
        memcpy(copy, p, n);
    return copy;
}

uint8_t *base_cache_get(struct base_cache *c, const struct hash *id, size_t *len)
{
    uint8_t *copy = NULL;

    pthread_mutex_lock(&c->lock);
    struct entry *x = find(c, id);
    if (x) {
        x->used = ++c->clock;
        *len = x->len;
        copy = copy_of(x->raw, x->len);
    }
    pthread_mutex_unlock(&c->lock);
    return copy;
}

void base_cache_put(struct base_cache *c, const struct hash *id, const void *raw, size_t len)
{
    if (len == 0 || len > c->bytes_max / 4)
        return;
    pthread_mutex_lock(&c->lock);
    struct entry *x = find(c, id);
    if (!x) {
        uint8_t *copy = copy_of(raw, len);
        while (copy && c->bytes + len > c->bytes_max)
            drop(c, oldest_taken(c));
        if (copy) {
            x = oldest(c);
            if (x->raw)
                drop(c, x);
            *x = (struct entry){.id = *id, .raw = copy, .len = len};
            c->bytes += len;
        }
    }
    if (x)
        x->used = ++c->clock;
    pthread_mutex_unlock(&c->lock);
}
