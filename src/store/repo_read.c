/* Chunks by id: where the catalog says, checked by their hash.
 *
 * A source keeps a few expanded blocks, so that chunks read in the order of storage cost one
 * expansion a block. A kept block knows its chunks: the one behind the chunk given last is mostly
 * the one wanted next, and then the catalog is not asked. A delta's base is found the same way, by
 * its own id. */
#include "store/repo_private.h"

#include "base/safety.h"
#include "store/chunk_list.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    KEPT_BLOCKS = 8,
    KEPT_BYTES = 8 * 1024 * 1024,
    DELTA_DEPTH_MAX = 16,
};

struct kept_block {
    uint64_t pack_id, offset;
    uint8_t *raw; /* NULL: free */
    uint32_t raw_len, raw_cap;
    struct block_chunk *chunks; /* malloc'ed */
    uint32_t count, next;       /* of chunks; the one behind the one given last */
    bool bare;                  /* they have no ids */
    uint64_t used;
};

struct chunk_source {
    struct repo *repo;
    struct catalog *catalog;
    bool owns_catalog;
    struct kept_block kept[KEPT_BLOCKS];
    size_t kept_bytes;
    struct buffer body; /* memory for the next record; empty while it is lent */
    uint64_t clock;
};

struct chunk_source *chunk_source_over(struct repo *r, struct catalog *c)
{
    struct chunk_source *s = calloc(1, sizeof(*s));

    if (s)
        *s = (struct chunk_source){.repo = r, .catalog = c};
    return s;
}

int chunk_source_open(struct repo *r, struct chunk_source **out, struct error *e)
{
    struct catalog *c;

    *out = NULL;
    int rc = repo_catalog_open(r, &c, e);
    if (rc < 0)
        return rc;
    *out = chunk_source_over(r, c);
    if (!*out) {
        repo_catalog_close(r, c);
        return repo_no_memory(e);
    }
    (*out)->owns_catalog = true;
    return 0;
}

static void drop_block(struct chunk_source *s, struct kept_block *k)
{
    s->kept_bytes -= k->raw_cap;
    free(k->raw);
    free(k->chunks);
    *k = (struct kept_block){0};
}

void chunk_source_forget(struct chunk_source *s)
{
    for (int i = 0; i < KEPT_BLOCKS; i++)
        drop_block(s, &s->kept[i]);
}

void chunk_source_close(struct chunk_source *s)
{
    if (!s)
        return;
    chunk_source_forget(s);
    buffer_release(&s->body);
    if (s->owns_catalog)
        repo_catalog_close(s->repo, s->catalog);
    free(s);
}

/* ---- expanded blocks ---- */

static struct kept_block *find_block(struct chunk_source *s, const struct chunk_place *at)
{
    for (int i = 0; i < KEPT_BLOCKS; i++) {
        struct kept_block *k = &s->kept[i];
        if (k->raw && k->pack_id == at->pack_id && k->offset == at->offset) {
            k->used = ++s->clock;
            return k;
        }
    }
    return NULL;
}

static struct kept_block *oldest_block(struct chunk_source *s)
{
    struct kept_block *oldest = NULL;

    for (int i = 0; i < KEPT_BLOCKS; i++)
        if (s->kept[i].raw && (!oldest || s->kept[i].used < oldest->used))
            oldest = &s->kept[i];
    return oldest;
}

/* Lengths that come again, so that memory serves block after block, at most an eighth of it unused.
 */
static uint32_t capacity_for(uint32_t len)
{
    uint32_t step = 4096;

    while (len / step >= 8)
        step *= 2;
    return (len + step - 1) / step * step;
}

/* A place with room for len raw bytes, those of the blocks unused for longest given up for it.
 * Memory that fits is used again: fresh memory costs more than filling it. */
static struct kept_block *place_for_block(struct chunk_source *s, uint32_t len)
{
    const uint32_t cap = capacity_for(len);
    struct kept_block *place = NULL;

    for (int i = 0; !place && i < KEPT_BLOCKS; i++)
        if (!s->kept[i].raw)
            place = &s->kept[i];
    if (!place || s->kept_bytes + cap > KEPT_BYTES)
        place = oldest_block(s);
    if (place->raw_cap == cap)
        return place;
    drop_block(s, place);
    for (struct kept_block *k; s->kept_bytes + cap > KEPT_BYTES && (k = oldest_block(s));)
        drop_block(s, k);
    place->raw = malloc(cap);
    if (!place->raw)
        return NULL;
    place->raw_cap = cap;
    s->kept_bytes += cap;
    return place;
}

static int read_block(struct chunk_source *s, const struct chunk_place *at, struct buffer *body,
                      struct block *b, struct error *e)
{
    struct record_header h;
    struct pack *pack;

    int rc = repo_pack_get(s->repo, at->pack_id, &pack, e);
    if (rc < 0)
        return rc;
    rc = pack_read(pack, at->offset, &h, body, e);
    repo_pack_put(s->repo, pack);
    if (rc < 0)
        return rc;
    if (h.type != RECORD_BLOCK)
        return error_set(e, ERR_DAMAGED, "pack %016" PRIx64 " holds no block at %" PRIu64,
                         at->pack_id, at->offset);
    return block_decode(body->data, body->len, b, e);
}

static int load_block(struct chunk_source *s, const struct chunk_place *at, unsigned depth,
                      struct kept_block **out, struct error *e);

static bool matches(const struct hash *id, const uint8_t *p, size_t len)
{
    struct hash found;

    hash_sha256(p, len, &found);
    return !SAFETY(CHUNK_HASH, !hash_equal(&found, id));
}

/* Whether it is the next of a kept block. What a bare one has next is only known by its bytes: it
 * is tried in the block that was used last. */
static bool may_be_next(const struct chunk_source *s, const struct kept_block *k,
                        const struct hash *id)
{
    if (k->next >= k->count)
        return false;
    return k->bare ? k->used == s->clock : hash_equal(&k->chunks[k->next].id, id);
}

/* The chunk that follows in one of the kept blocks. One that does not match may have been stored
 * again elsewhere. */
static bool find_next(struct chunk_source *s, const struct hash *id, const uint8_t **p, size_t *len)
{
    for (int i = 0; i < KEPT_BLOCKS; i++) {
        struct kept_block *k = &s->kept[i];
        if (!may_be_next(s, k, id))
            continue;
        const struct block_chunk *c = &k->chunks[k->next];
        if (!matches(id, k->raw + c->raw_off, c->raw_len))
            continue;
        k->next++;
        k->used = ++s->clock;
        *p = k->raw + c->raw_off;
        *len = c->raw_len;
        return true;
    }
    return false;
}

/* Note that the chunk at raw_off is the one given last. */
static void set_next(struct kept_block *k, uint32_t raw_off)
{
    uint32_t low = 0, high = k->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (k->chunks[mid].raw_off <= raw_off)
            low = mid + 1;
        else
            high = mid;
    }
    k->next = low;
}

static int find_chunk(struct chunk_source *s, const struct hash *id, unsigned depth,
                      const uint8_t **p, size_t *len, struct error *e)
{
    struct chunk_place at;
    struct kept_block *k;

    int rc = catalog_chunk(s->catalog, id, &at, e);
    if (rc < 0)
        return rc;
    if (at.pack_id == 0)
        return error_set(e, ERR_NOTFOUND, "chunk %02x%02x%02x%02x is lost", id->b[0], id->b[1],
                         id->b[2], id->b[3]);
    rc = load_block(s, &at, depth, &k, e);
    if (rc < 0)
        return rc;
    if (at.raw_off > k->raw_len || at.raw_len > k->raw_len - at.raw_off)
        return error_set(e, ERR_DAMAGED, "a block of pack %016" PRIx64 " is shorter than it was",
                         at.pack_id);
    set_next(k, at.raw_off);
    *p = k->raw + at.raw_off;
    *len = at.raw_len;
    return 0;
}

/* The base is copied: expanding the block may push the base's own block out. */
static int load_base(struct chunk_source *s, const struct block *b, unsigned depth, uint8_t **base,
                     size_t *len, struct error *e)
{
    const uint8_t *p;

    if (!b->has_base)
        return 0;
    if (depth == 0)
        return error_set(e, ERR_DAMAGED, "a chain of deltas is too long");
    int rc = find_chunk(s, &b->base.id, depth - 1, &p, len, e);
    if (rc < 0)
        return rc;
    *base = malloc(*len ? *len : 1);
    if (!*base)
        return repo_no_memory(e);
    memcpy(*base, p, *len);
    return 0;
}

/* Expands b, whose chunks are taken. */
static int expand(struct chunk_source *s, const struct chunk_place *at, struct block *b,
                  unsigned depth, struct kept_block **out, struct error *e)
{
    uint8_t *base = NULL;
    size_t base_len = 0;
    struct kept_block *k = NULL;

    int rc = load_base(s, b, depth, &base, &base_len, e);
    if (rc == 0 && !(k = place_for_block(s, b->raw_len)))
        rc = repo_no_memory(e);
    if (rc == 0) {
        free(k->chunks);
        *k = (struct kept_block){.raw = k->raw, .raw_cap = k->raw_cap};
        rc = block_expand(b, base, base_len, k->raw, e);
        if (rc < 0)
            drop_block(s, k);
    }
    free(base);
    if (rc < 0)
        return rc;
    k->pack_id = at->pack_id;
    k->offset = at->offset;
    k->raw_len = b->raw_len;
    k->chunks = b->chunks;
    k->count = k->next = b->count;
    k->bare = b->bare;
    k->used = ++s->clock;
    b->chunks = NULL;
    *out = k;
    return 0;
}

static int load_block(struct chunk_source *s, const struct chunk_place *at, unsigned depth,
                      struct kept_block **out, struct error *e)
{
    struct block b;

    *out = find_block(s, at);
    if (*out)
        return 0;
    struct buffer body = s->body; /* a base that is read meanwhile finds none */
    s->body = (struct buffer)BUFFER_INIT;
    buffer_clear(&body);
    int rc = read_block(s, at, &body, &b, e);
    if (rc == 0) {
        rc = expand(s, at, &b, depth, out, e);
        block_release(&b);
    }
    buffer_release(&s->body);
    if (buffer_ok(&body))
        s->body = body;
    else
        buffer_release(&body);
    return rc;
}

int chunk_source_get(struct chunk_source *s, const struct hash *id, const uint8_t **p, size_t *len,
                     struct error *e)
{
    if (find_next(s, id, p, len))
        return 0;
    int rc = find_chunk(s, id, DELTA_DEPTH_MAX, p, len, e);
    if (rc < 0)
        return rc;
    if (!matches(id, *p, *len))
        return error_set(e, ERR_DAMAGED, "chunk %02x%02x%02x%02x does not match its hash", id->b[0],
                         id->b[1], id->b[2], id->b[3]);
    return 0;
}

void chunk_source_order(struct chunk_source *s, const struct hash *id, struct storage_order *at)
{
    struct error ignored = ERROR_INIT;
    struct chunk_place place;

    *at = (struct storage_order){0};
    if (catalog_chunk(s->catalog, id, &place, &ignored) == 0)
        *at = (struct storage_order){place.pack_id, place.offset, place.raw_off};
}

/* ---- content ---- */

int repo_read_list(void *ctx, const struct hash *id, struct chunk_ref **refs, uint32_t *count,
                   struct error *e)
{
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(ctx, id, &p, &len, e);
    return rc < 0 ? rc : chunk_list_decode(p, len, refs, count, e);
}

struct walk {
    struct chunk_source *source;
    list_visit list; /* may be NULL */
    content_visit visit;
    void *ctx;
    struct error *e;
    uint64_t off;
    uint64_t from, to;
};

static int walk_refs(struct walk *w, const struct chunk_ref *refs, uint32_t count, unsigned depth);

/* What a list says lies beneath each of its references decides where everything behind it goes. */
static int check_sum(const struct chunk_ref *list, const struct chunk_ref *refs, uint32_t count,
                     struct error *e)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += refs[i].len; /* the decoder bounds it */
    return sum == list->len ? 0
                            : error_set(e, ERR_DAMAGED,
                                        "a list of chunks has another length than "
                                        "the one it stands in says");
}

static int walk_list(struct walk *w, const struct chunk_ref *list, unsigned depth)
{
    struct chunk_ref *refs = NULL;
    uint32_t count = 0;

    int rc = repo_read_list(w->source, &list->id, &refs, &count, w->e);
    if (rc == 0)
        rc = check_sum(list, refs, count, w->e);
    if (rc == 0)
        rc = walk_refs(w, refs, count, depth);
    free(refs);
    return rc;
}

static int walk_refs(struct walk *w, const struct chunk_ref *refs, uint32_t count, unsigned depth)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count && w->off < w->to; i++) {
        uint64_t end = w->off + refs[i].len;
        if (depth > 0 && end > w->from) {
            rc = w->list ? w->list(w->ctx, depth, w->off, &refs[i], w->e) : 0;
            if (rc == 0)
                rc = walk_list(w, &refs[i], depth - 1);
        } else if (depth == 0 && w->off >= w->from) {
            rc = w->visit(w->ctx, w->off, &refs[i], w->e);
        }
        w->off = end;
    }
    return rc;
}

static int walk_node(struct walk *w, const struct node *n)
{
    if (n->depth > CHUNK_LIST_DEPTH_MAX)
        return error_set(w->e, ERR_DAMAGED, "a list of chunks is too deep");
    return walk_refs(w, n->refs, n->ref_count, n->depth);
}

int content_walk_range(struct chunk_source *s, const struct node *n, uint64_t from, uint64_t to,
                       content_visit visit, void *ctx, struct error *e)
{
    struct walk w = {.source = s, .visit = visit, .ctx = ctx, .e = e, .from = from, .to = to};

    return walk_node(&w, n);
}

int content_walk_lists(struct chunk_source *s, const struct node *n, list_visit list,
                       content_visit visit, void *ctx, struct error *e)
{
    struct walk w = {
        .source = s, .list = list, .visit = visit, .ctx = ctx, .e = e, .to = UINT64_MAX};

    return walk_node(&w, n);
}

int content_walk(struct chunk_source *s, const struct node *n, content_visit visit, void *ctx,
                 struct error *e)
{
    return content_walk_lists(s, n, NULL, visit, ctx, e);
}
