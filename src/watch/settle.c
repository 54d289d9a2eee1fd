#include "watch/settle.h"

#include "base/random.h"
#include "watch/name_hash.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/banned.h"

enum { FIRST_SLOTS = 64, RING_MAX = 64, PARENTS_MAX_DIVISOR = 10 };

struct entry {
    TAILQ_ENTRY(entry) by_last, by_first; /* both orders are those of insertion */
    struct entry *next;                   /* in the slot */
    struct entry *ring;                   /* what must be ripe together, in a circle */
    uint64_t hash, first, last;
    unsigned how;
    bool folded; /* stands for all changes below it: the set had grown too large */
    char path[];
};

struct settle {
    uint64_t quiet, latest, seed;
    size_t max, count, slots, folded;
    struct entry **table;
    TAILQ_HEAD(entry_list, entry) by_last;
    struct entry_list by_first;
};

struct settle *settle_new(uint64_t quiet_ns, uint64_t latest_ns)
{
    struct settle *s = calloc(1, sizeof(*s));

    if (!s || !(s->table = calloc(FIRST_SLOTS, sizeof(struct entry *)))) {
        free(s);
        return NULL;
    }
    s->slots = FIRST_SLOTS;
    s->max = SETTLE_PATHS_MAX;
    s->quiet = quiet_ns;
    s->latest = latest_ns;
    random_bytes(&s->seed, sizeof(s->seed));
    TAILQ_INIT(&s->by_last);
    TAILQ_INIT(&s->by_first);
    return s;
}

static struct entry **slot_of(const struct settle *s, uint64_t hash)
{
    return &s->table[hash >> 20 & (s->slots - 1)];
}

static struct entry *find(const struct settle *s, const char *path)
{
    uint64_t hash = name_hash(path, s->seed);
    struct entry *at = *slot_of(s, hash);

    while (at && (at->hash != hash || strcmp(at->path, path) != 0))
        at = at->next;
    return at;
}

static void leave_ring(struct entry *entry)
{
    struct entry *before = entry;

    while (before->ring != entry)
        before = before->ring;
    before->ring = entry->ring;
    entry->ring = entry;
}

/* Make one circle of two. A very long one is left as it is. */
static void join_rings(struct entry *a, struct entry *b)
{
    size_t n = 0;

    for (struct entry *at = a; n < RING_MAX; n++) {
        if (at == b)
            return; /* one already */
        at = at->ring;
        if (at == a)
            break;
    }
    if (n == RING_MAX)
        return;
    struct entry *after = a->ring;
    a->ring = b->ring;
    b->ring = after;
}

static void drop(struct settle *s, struct entry *entry)
{
    struct entry **at = slot_of(s, entry->hash);

    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    TAILQ_REMOVE(&s->by_last, entry, by_last);
    TAILQ_REMOVE(&s->by_first, entry, by_first);
    leave_ring(entry);
    s->folded -= entry->folded;
    s->count--;
    free(entry);
}

void settle_free(struct settle *s)
{
    struct entry *entry;

    if (!s)
        return;
    while ((entry = TAILQ_FIRST(&s->by_last)))
        drop(s, entry);
    free(s->table);
    free(s);
}

void settle_tune(struct settle *s, uint64_t quiet_ns, uint64_t latest_ns)
{
    s->quiet = quiet_ns;
    s->latest = latest_ns;
}

void settle_limit(struct settle *s, size_t paths_max)
{
    s->max = paths_max;
}

size_t settle_count(const struct settle *s)
{
    return s->count;
}

uint64_t settle_oldest(const struct settle *s)
{
    const struct entry *entry = TAILQ_FIRST(&s->by_first);

    return entry ? entry->first : 0;
}

/* ---- putting in ---- */

static void grow(struct settle *s)
{
    struct entry **table = calloc(2 * s->slots, sizeof(struct entry *));
    struct entry *entry;

    if (!table)
        return; /* longer chains */
    free(s->table);
    s->table = table;
    s->slots *= 2;
    TAILQ_FOREACH(entry, &s->by_last, by_last)
    {
        struct entry **slot = slot_of(s, entry->hash);
        entry->next = *slot;
        *slot = entry;
    }
}

/* Keep by_first in order: a path that was given back is older than what came since. */
static void insert_first(struct settle *s, struct entry *entry)
{
    struct entry *at = TAILQ_LAST(&s->by_first, entry_list);

    while (at && at->first > entry->first)
        at = TAILQ_PREV(at, entry_list, by_first);
    if (at)
        TAILQ_INSERT_AFTER(&s->by_first, at, entry, by_first);
    else
        TAILQ_INSERT_HEAD(&s->by_first, entry, by_first);
}

static struct entry *insert(struct settle *s, const char *path, uint64_t first, uint64_t now)
{
    size_t n = strlen(path) + 1;
    struct entry *entry = malloc(sizeof(*entry) + n);

    if (!entry)
        return NULL;
    if (s->count + 1 > s->slots)
        grow(s);
    *entry = (struct entry){
        .hash = name_hash(path, s->seed), .first = first, .last = now, .ring = entry};
    memcpy(entry->path, path, n);
    struct entry **slot = slot_of(s, entry->hash);
    entry->next = *slot;
    *slot = entry;
    TAILQ_INSERT_TAIL(&s->by_last, entry, by_last);
    insert_first(s, entry);
    s->count++;
    return entry;
}

static void merge_how(struct entry *entry, unsigned how)
{
    if (how & WATCH_CLOSED)
        entry->how &= ~(unsigned)WATCH_FLUSH;
    entry->how |= how & ~(unsigned)WATCH_CLOSED;
}

static void make_older(struct settle *s, struct entry *entry, uint64_t first)
{
    if (first >= entry->first)
        return;
    TAILQ_REMOVE(&s->by_first, entry, by_first);
    entry->first = first;
    insert_first(s, entry);
}

static void refresh(struct settle *s, struct entry *entry, uint64_t first, uint64_t now)
{
    make_older(s, entry, first);
    entry->last = now;
    TAILQ_REMOVE(&s->by_last, entry, by_last);
    TAILQ_INSERT_TAIL(&s->by_last, entry, by_last);
}

/* The folder of a path, in place; false when the path is the root. */
static bool to_parent(char *path)
{
    char *slash = strrchr(path, '/');

    if (!*path)
        return false;
    *(slash ? slash : path) = 0;
    return true;
}

/* The entry that stands for all changes below some folder above path, or NULL. */
static struct entry *folded_above(const struct settle *s, const char *path)
{
    struct entry *at = NULL;
    char *up = s->folded ? strdup(path) : NULL;

    while (up && to_parent(up)) {
        at = find(s, up);
        if (at && at->folded)
            break;
        at = NULL;
    }
    free(up);
    return at;
}

static struct entry *put(struct settle *s, const char *path, unsigned how, uint64_t first,
                         uint64_t now)
{
    struct entry *entry = folded_above(s, path);

    if (entry) {
        refresh(s, entry, first, now);
        merge_how(entry, how & WATCH_FLUSH);
        return entry;
    }
    entry = find(s, path);
    if (entry)
        refresh(s, entry, first, now);
    else
        entry = insert(s, path, first, now);
    if (entry)
        merge_how(entry, how);
    return entry;
}

/* ---- the bound ---- */

/* Everything becomes one entry: the root's tree. It takes no memory that is not there already. */
static void fold_to_root(struct settle *s)
{
    uint64_t first = settle_oldest(s);
    struct entry *newest = TAILQ_LAST(&s->by_last, entry_list);
    uint64_t last = newest ? newest->last : first;
    unsigned flush = 0;
    struct entry *entry;

    while ((entry = TAILQ_FIRST(&s->by_last))) {
        flush |= entry->how & WATCH_FLUSH;
        drop(s, entry);
    }
    entry = insert(s, "", first, last);
    if (!entry)
        return; /* a page was freed a moment ago; settle_touch's caller has nothing better */
    entry->how = WATCH_TREE | WATCH_DIR | flush;
    entry->folded = true;
    s->folded++;
}

/* A folder stands for a change below it, unless it does already. */
static bool fold_into(struct settle *s, const char *folder, const struct entry *child,
                      uint64_t last)
{
    struct entry *entry = find(s, folder);

    if (!entry)
        entry = insert(s, folder, child->first, last);
    if (!entry)
        return false;
    make_older(s, entry, child->first);
    entry->how |= WATCH_TREE | WATCH_DIR | (child->how & WATCH_FLUSH);
    s->folded += !entry->folded;
    entry->folded = true;
    return true;
}

/* Every path becomes its folder's tree. False without memory. */
static bool fold_to_parents(struct settle *s)
{
    uint64_t last = TAILQ_LAST(&s->by_last, entry_list)->last;
    struct entry *entry = TAILQ_FIRST(&s->by_last);

    for (size_t n = s->count; n > 0; n--) {
        struct entry *next = NULL;
        char *up = strdup(entry->path);
        bool done = up != NULL;
        if (done && !entry->folded && to_parent(up)) {
            done = fold_into(s, up, entry, last);
            next = TAILQ_NEXT(entry, by_last);
            drop(s, entry);
        } else {
            next = TAILQ_NEXT(entry, by_last);
        }
        free(up);
        if (!done)
            return false;
        entry = next;
    }
    return true;
}

static void keep_bound(struct settle *s)
{
    if (s->count <= s->max)
        return;
    if (!fold_to_parents(s) || s->count > s->max / PARENTS_MAX_DIVISOR)
        fold_to_root(s);
}

void settle_touch(struct settle *s, const char *path, unsigned how, uint64_t now_ns)
{
    if (!put(s, path, how, now_ns, now_ns))
        fold_to_root(s);
    keep_bound(s);
}

void settle_touch_pair(struct settle *s, const char *from, const char *to, unsigned how,
                       uint64_t now_ns)
{
    struct entry *a = put(s, from, how, now_ns, now_ns);
    struct entry *b = put(s, to, how, now_ns, now_ns);

    if (a && b)
        join_rings(a, b);
    else
        fold_to_root(s);
    keep_bound(s);
}

/* ---- taking out ---- */

uint64_t settle_deadline(const struct settle *s)
{
    const struct entry *quiet = TAILQ_FIRST(&s->by_last);
    const struct entry *late = TAILQ_FIRST(&s->by_first);

    if (!quiet)
        return UINT64_MAX;
    uint64_t a = quiet->last + s->quiet;
    uint64_t b = late->first + s->latest;
    return a < b ? a : b;
}

/* Move an entry, and what must go with it, to the set. */
static void take_ring(struct settle *s, struct entry *entry, struct settle_set *out)
{
    for (;;) {
        struct entry *next = entry->ring;
        struct settle_path *to = &out->paths[out->count];
        bool last = next == entry;
        *to = (struct settle_path){.path = strdup(entry->path),
                                   .how = entry->how,
                                   .first_ns = entry->first,
                                   .with_next = !last};
        if (!to->path)
            return; /* it stays, and is ripe again at once */
        out->count++;
        if (out->first_ns == 0 || entry->first < out->first_ns)
            out->first_ns = entry->first;
        drop(s, entry);
        if (last)
            return;
        entry = next;
    }
}

bool settle_take(struct settle *s, uint64_t now_ns, bool all, struct settle_set *out)
{
    struct entry *entry;

    *out = (struct settle_set){0};
    if (s->count == 0 || (!all && settle_deadline(s) > now_ns))
        return false;
    out->paths = calloc(s->count, sizeof(*out->paths));
    if (!out->paths)
        return false;
    size_t before = s->count + 1;
    while ((entry = TAILQ_FIRST(&s->by_last)) && s->count < before &&
           (all || entry->last + s->quiet <= now_ns)) {
        before = s->count;
        take_ring(s, entry, out);
    }
    before = s->count + 1;
    while ((entry = TAILQ_FIRST(&s->by_first)) && s->count < before &&
           entry->first + s->latest <= now_ns) {
        before = s->count;
        take_ring(s, entry, out);
    }
    if (out->count > 0)
        return true;
    settle_set_release(out);
    return false;
}

void settle_return(struct settle *s, struct settle_set *set, uint64_t now_ns)
{
    struct entry *mate = NULL;

    for (size_t i = 0; i < set->count; i++) {
        const struct settle_path *path = &set->paths[i];
        struct entry *entry = put(s, path->path, path->how, path->first_ns, now_ns);
        if (!entry)
            fold_to_root(s);
        else if (mate)
            join_rings(mate, entry);
        mate = path->with_next ? entry : NULL;
    }
    settle_set_release(set);
    keep_bound(s);
}

void settle_set_release(struct settle_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->paths[i].path);
    free(set->paths);
    *set = (struct settle_set){0};
}
