#include "snapshot/save_cut.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- the last version ---- */

bool known_chunks_add(struct known_chunks *k, const struct chunk_ref *ref)
{
    if (k->count == k->cap) {
        uint32_t cap = k->cap ? 2 * k->cap : 4;
        struct known_chunk *v =
            k->count < KNOWN_CHUNKS_MAX ? reallocarray(k->v, cap, sizeof(*v)) : NULL;
        if (!v)
            return false;
        k->v = v;
        k->cap = cap;
    }
    k->v[k->count++] = (struct known_chunk){.ref = *ref, .off = k->len};
    k->len += ref->len;
    return true;
}

bool known_chunks_add_list(struct known_chunks *k, unsigned level, uint64_t off,
                           const struct chunk_ref *ref)
{
    if (k->list_count == k->list_cap) {
        uint32_t cap = k->list_cap ? 2 * k->list_cap : 16;
        struct known_list *v = reallocarray(k->lists, cap, sizeof(*v));
        if (!v)
            return false;
        k->lists = v;
        k->list_cap = cap;
    }
    k->lists[k->list_count++] = (struct known_list){.ref = *ref, .off = off, .level = level};
    return true;
}

static int compare_key(const struct known_chunks *k, const struct known_chunk *c, const void *key)
{
    return k->hashed ? memcmp(&c->fast, key, sizeof(c->fast))
                     : memcmp(&c->ref.id, key, sizeof(c->ref.id));
}

static const void *key_of(const struct known_chunks *k, uint32_t i)
{
    return k->hashed ? (const void *)&k->v[i].fast : (const void *)&k->v[i].ref.id;
}

static int by_key(const void *a, const void *b, void *known)
{
    const struct known_chunks *k = known;
    const uint32_t *x = a, *y = b;
    int d = compare_key(k, &k->v[*x], key_of(k, *y));

    return d ? d : (*x > *y) - (*x < *y);
}

bool known_chunks_ready(struct known_chunks *k, const uint8_t *fast)
{
    k->hashed = fast != NULL;
    for (uint32_t i = 0; fast && i < k->count; i++)
        memcpy(&k->v[i].fast, fast + (size_t)i * sizeof(k->v[i].fast), sizeof(k->v[i].fast));
    k->sorted = k->count ? calloc(k->count, sizeof(*k->sorted)) : NULL;
    if (k->count && !k->sorted)
        return false;
    for (uint32_t i = 0; i < k->count; i++)
        k->sorted[i] = i;
    if (k->count > 1)
        qsort_r(k->sorted, k->count, sizeof(*k->sorted), by_key, k);
    return true;
}

void known_chunks_release(struct known_chunks *k)
{
    free(k->v);
    free(k->sorted);
    free(k->lists);
    *k = (struct known_chunks){0};
}

/* Of the equal ones the first from `from` on, else the last before it; k->count: none. */
static uint32_t find_key(const struct known_chunks *k, const void *key, uint32_t from)
{
    uint32_t low = 0, high = k->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int d = compare_key(k, &k->v[k->sorted[mid]], key);
        if (d < 0 || (d == 0 && k->sorted[mid] < from))
            low = mid + 1;
        else
            high = mid;
    }
    if (low < k->count && compare_key(k, &k->v[k->sorted[low]], key) == 0)
        return k->sorted[low];
    if (low > 0 && compare_key(k, &k->v[k->sorted[low - 1]], key) == 0)
        return k->sorted[low - 1];
    return k->count;
}

static uint64_t overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    uint64_t from = a > b ? a : b;
    uint64_t to = a + a_len < b + b_len ? a + a_len : b + b_len;

    return to > from ? to - from : 0;
}

const struct hash *known_chunks_list(const struct known_chunks *k, unsigned level, uint64_t off,
                                     uint64_t len)
{
    const struct hash *best = NULL;
    uint64_t most = 0;

    for (uint32_t i = 0; i < k->list_count; i++) {
        const struct known_list *l = &k->lists[i];
        uint64_t n = l->level == level ? overlap(l->off, l->ref.len, off, len) : 0;
        if (n > most) {
            most = n;
            best = &l->ref.id;
        }
    }
    return best;
}

/* Number + 1 of the chunk that covers most of [at, at + len); 0: none. */
static uint32_t most_of(const struct known_chunks *k, int64_t at, uint32_t len)
{
    uint64_t from = at > 0 ? (uint64_t)at : 0, most = 0;
    uint32_t low = 0, high = k->count, best = 0;

    while (low < high) { /* the first that ends behind from */
        uint32_t mid = low + (high - low) / 2;
        if (k->v[mid].off + k->v[mid].ref.len <= from)
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < k->count && k->v[low].off < from + len; low++) {
        uint64_t n = overlap(k->v[low].off, k->v[low].ref.len, from, len);
        if (n > most) {
            most = n;
            best = low + 1;
        }
    }
    return best;
}

/* ---- cutting ---- */

static bool is_fixed(const struct cutter *c)
{
    return c->chunker.min == c->chunker.max;
}

/* Chunks of another kind or length are no pattern to cut by. */
static bool fits_chunker(const struct cutter *c)
{
    const struct known_chunks *k = c->known;

    return !is_fixed(c) || k->count < 2 || k->v[0].ref.len == c->chunker.max;
}

void cutter_init(struct cutter *c, uint64_t len, uint32_t page_size, const struct known_chunks *k,
                 const uint8_t *secret)
{
    *c = (struct cutter){.chunker = chunker_for(len, page_size), .secret = secret};
    c->known = k && k->count > 0 ? k : NULL;
    c->longest = c->chunker.max;
    for (uint32_t i = 0; c->known && i < k->count; i++)
        if (c->longest < k->v[i].ref.len)
            c->longest = (size_t)k->v[i].ref.len;
    c->aligned = c->known && c->longest <= CHUNK_LEN_MAX && (page_size == 0 || fits_chunker(c));
}

static const void *hash_cut(const struct cutter *c, const uint8_t *p, struct cut *cut)
{
    if (c->known->hashed) {
        hash_fast(p, cut->len, c->secret, &cut->fast);
        cut->has_fast = true;
        return &cut->fast;
    }
    hash_sha256(p, cut->len, &cut->id);
    cut->has_id = true;
    return &cut->id;
}

static void set_same(const struct cutter *c, struct cut *cut, uint32_t old)
{
    cut->old = old + 1;
    cut->same = cut->has_id = true;
    cut->id = c->known->v[old].ref.id;
}

/* A chunk of the known one's length at p. */
static void look_at(const struct cutter *c, const uint8_t *p, uint32_t old, struct cut *cut)
{
    const struct known_chunk *k = &c->known->v[old];

    *cut = (struct cut){.len = (uint32_t)k->ref.len, .old = old + 1};
    if (compare_key(c->known, k, hash_cut(c, p, cut)) == 0)
        set_same(c, cut, old);
}

struct sheet { /* what one call has to cut, and what it has cut */
    const uint8_t *p;
    size_t have, at;
    bool at_end;
    struct cut *cuts;
    uint32_t cap, count;
};

enum step { STEP_TAKEN, STEP_MORE, STEP_LOST };

/* The known chunk is all here. The last one ended with the file: it only counts where this one
 * ends too, or it would stay a stump in a file that grows. */
static bool is_here(const struct cutter *c, const struct sheet *s, uint32_t old, size_t at)
{
    uint64_t len = c->known->v[old].ref.len, left = s->have - at;

    return old + 1 < c->known->count ? len <= left : s->at_end && len == left;
}

static enum step not_here(const struct cutter *c, const struct sheet *s)
{
    if (s->at_end || c->next == c->known->count)
        return STEP_LOST;
    return s->have - s->at <= c->known->v[c->next].ref.len ? STEP_MORE : STEP_LOST;
}

/* Chunks from the expected one to the next that is what it was; those before were rewritten in
 * place. */
static enum step take_known(struct cutter *c, struct sheet *s)
{
    uint32_t old = c->next, n = s->count;
    size_t at = s->at;
    bool found = false;

    while (!found && old < c->known->count && n < s->cap && is_here(c, s, old, at)) {
        look_at(c, s->p + at, old, &s->cuts[n]);
        at += s->cuts[n].len;
        found = s->cuts[n++].same || is_fixed(c);
        old++;
    }
    if (n == s->count)
        return n == s->cap ? STEP_MORE : not_here(c, s);
    if (!found && !(s->at_end && at == s->have && old == c->known->count))
        return s->at > 0 && !s->at_end ? STEP_MORE : STEP_LOST;
    c->off += at - s->at;
    c->next = old;
    s->at = at;
    s->count = n;
    return STEP_TAKEN;
}

/* Where a chunk is met again, the known ones behind it are expected. */
static enum step take_new(struct cutter *c, struct sheet *s)
{
    struct cut *cut = &s->cuts[s->count];
    size_t n = chunker_next(&c->chunker, s->p + s->at, s->have - s->at, s->at_end);

    if (n == 0)
        return STEP_MORE;
    *cut = (struct cut){.len = (uint32_t)n};
    if (c->known) {
        uint32_t old = find_key(c->known, hash_cut(c, s->p + s->at, cut), c->next);
        if (old < c->known->count && c->known->v[old].ref.len == n) {
            set_same(c, cut, old);
            c->next = old + 1;
            c->aligned = !is_fixed(c);
            if (c->aligned)
                c->shift = (int64_t)(c->known->v[old].off - c->off);
        } else {
            cut->old = most_of(c->known, (int64_t)c->off + c->shift, cut->len);
        }
    }
    c->off += n;
    s->at += n;
    s->count++;
    return STEP_TAKEN;
}

size_t cutter_cut(struct cutter *c, const uint8_t *p, size_t have, bool at_end, struct cut *cuts,
                  uint32_t cap, uint32_t *count)
{
    struct sheet s = {.p = p, .have = have, .at_end = at_end, .cuts = cuts, .cap = cap};
    enum step step = STEP_TAKEN;

    while (step == STEP_TAKEN && s.at < s.have && s.count < s.cap) {
        if (c->aligned) {
            step = take_known(c, &s);
            if (step != STEP_LOST)
                continue;
            c->aligned = false;
        }
        step = take_new(c, &s);
    }
    *count = s.count;
    return s.at;
}
