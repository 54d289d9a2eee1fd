#include "keep/archive_piece.h"

#include "base/text.h"
#include "keep/tar_write.h"
#include "store/repository.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    MEMBER_BYTES = 4 * 1024 * 1024, /* of a gzip member: what a reader has in memory of it */
    HEADER_BYTES = 1024,            /* of an item, about */
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

int archive_named(struct error *e, const char *path)
{
    char quoted[256], text[sizeof(e->message)];
    int code = e->code, sys = e->sys;

    if (e->path[0] || code == ERR_CANCELLED || code == ERR_CATALOG)
        return code;
    memcpy(text, e->message, sizeof(text));
    error_set(e, code, "cannot archive '%s': %.400s", text_escape(path, quoted, sizeof(quoted)),
              text);
    e->sys = sys;
    return error_path(e, path);
}

/* ---- a piece ---- */

struct piece *piece_new(void)
{
    struct piece *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->items = calloc(PIECE_ITEMS, sizeof(*p->items));
    p->order = calloc(PIECE_ITEMS, sizeof(*p->order));
    p->reads = calloc(PIECE_ITEMS, sizeof(struct piece_item *));
    if (!p->items || !p->order || !p->reads) {
        piece_free(p);
        return NULL;
    }
    piece_reset(p);
    return p;
}

void piece_free(struct piece *p)
{
    if (!p)
        return;
    buffer_release(&p->bytes);
    buffer_release(&p->raw);
    buffer_release(&p->packed);
    free(p->items);
    free(p->order);
    free(p->reads);
    free(p);
}

void piece_reset(struct piece *p)
{
    struct piece kept = *p;
    *p = (struct piece){.items = kept.items,
                        .order = kept.order,
                        .reads = kept.reads,
                        .bytes = kept.bytes,
                        .task.run = piece_run};
    buffer_clear(&p->bytes);
    buffer_append(&p->bytes, "", 1); /* offset 0 is none */
}

void piece_drop_bytes(struct piece *p)
{
    buffer_release(&p->raw);
    buffer_release(&p->packed);
}

static size_t add_path(struct piece *p, const char *top, const char *path)
{
    size_t at = p->bytes.len;

    buffer_append_str(&p->bytes, top);
    if (*top && *path)
        buffer_append(&p->bytes, "/", 1);
    buffer_append(&p->bytes, path, strlen(path) + 1);
    return at;
}

struct piece_item *piece_add(struct piece *p, const char *top, const char *path, const char *link,
                             const void *meta, uint32_t meta_len)
{
    struct piece_item *item = &p->items[p->count++];

    p->top = strlen(top);
    *item =
        (struct piece_item){.meta_len = meta_len, .to = UINT64_MAX, .first = true, .last = true};
    item->path = add_path(p, top, path);
    if (link)
        item->link = add_path(p, top, link);
    item->meta = p->bytes.len;
    buffer_append(&p->bytes, meta, meta_len);
    return item;
}

bool piece_is_part(const struct piece_item *item)
{
    return !(item->first && item->last);
}

/* The whole path in the archive. */
static const char *member_path(const struct piece *p, const struct piece_item *item)
{
    return (const char *)p->bytes.data + item->path;
}

const char *piece_path(const struct piece *p, const struct piece_item *item)
{
    const char *path = member_path(p, item) + p->top;

    return path + (*path == '/');
}

/* ---- the order of a sorted piece ---- */

struct place {
    uint32_t item, rank, leader; /* in the order by name; of the first one of equal content */
    bool folder;
    const char *suffix, *name;
    struct hash content; /* of the first chunk; zeros: none */
};

static const char *suffix_of(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot && dot != name ? dot : "";
}

static int by_number(uint32_t a, uint32_t b)
{
    return a < b ? -1 : a > b;
}

static int by_kind(const void *x, const void *y)
{
    const struct place *a = x, *b = y;

    if (a->folder || b->folder)
        return a->folder && b->folder ? by_number(a->item, b->item) : a->folder ? -1 : 1;
    int way = strcmp(a->suffix, b->suffix);
    if (way == 0)
        way = strcmp(a->name, b->name);
    return way ? way : by_number(a->item, b->item);
}

static int by_content(const void *x, const void *y)
{
    const struct place *a = x, *b = y;
    int way = memcmp(a->content.b, b->content.b, HASH_LEN);

    return way ? way : by_number(a->rank, b->rank);
}

static int by_leader(const void *x, const void *y)
{
    const struct place *a = x, *b = y;
    int way = by_number(a->leader, b->leader);

    return way ? way : by_number(a->rank, b->rank);
}

static void gather_equals(struct place *places, size_t count)
{
    static const struct hash none = {{0}};

    for (size_t i = 0; i < count; i++)
        places[i].rank = (uint32_t)i;
    qsort(places, count, sizeof(*places), by_content);
    for (size_t i = 0; i < count; i++) {
        const struct place *before = i > 0 ? &places[i - 1] : NULL;
        bool same = before && hash_equal(&before->content, &places[i].content) &&
                    !hash_equal(&none, &places[i].content);
        places[i].leader = same ? before->leader : places[i].rank;
    }
    qsort(places, count, sizeof(*places), by_leader);
}

static int take_place(const struct piece *p, uint32_t i, struct place *place, struct error *e)
{
    const struct piece_item *item = &p->items[i];
    const char *path = piece_path(p, item);
    const char *slash = strrchr(path, '/');
    struct node n;

    int rc = node_decode(p->bytes.data + item->meta, item->meta_len, &n, e);
    if (rc != 0)
        return archive_named(e, path);
    *place = (struct place){
        .item = i, .folder = n.type == NODE_FOLDER, .name = slash ? slash + 1 : path};
    place->suffix = suffix_of(place->name);
    if (n.type == NODE_FILE && n.ref_count > 0)
        place->content = n.refs[0].id;
    node_release(&n);
    return 0;
}

static int sort_items(struct piece *p, struct error *e)
{
    struct place *places = calloc(p->count + 1, sizeof(*places));
    int rc = places ? 0 : no_memory(e);

    for (uint32_t i = 0; rc == 0 && i < p->count; i++)
        rc = take_place(p, i, &places[i], e);
    if (rc == 0) {
        qsort(places, p->count, sizeof(*places), by_kind);
        gather_equals(places, p->count);
    }
    for (size_t i = 0; rc == 0 && i < p->count; i++)
        p->order[i] = places[i].item;
    free(places);
    return rc;
}

/* ---- the order of reading: that of the packs ---- */

static int by_storage(const void *x, const void *y)
{
    const struct piece_item *a = *(struct piece_item *const *)x,
                            *b = *(struct piece_item *const *)y;

    if (a->stored.pack_id != b->stored.pack_id)
        return a->stored.pack_id < b->stored.pack_id ? -1 : 1;
    if (a->stored.offset != b->stored.offset)
        return a->stored.offset < b->stored.offset ? -1 : 1;
    int way = by_number(a->stored.raw_off, b->stored.raw_off);
    return way ? way : a < b ? -1 : 1;
}

void piece_order_reads(struct piece *p)
{
    for (size_t i = 0; i < p->count; i++)
        p->reads[i] = &p->items[i];
    qsort(p->reads, p->count, sizeof(struct piece_item *), by_storage);
}

static int set_order(struct piece *p, struct error *e)
{
    for (uint32_t i = 0; i < p->count; i++)
        p->order[i] = i;
    return p->sorted ? sort_items(p, e) : 0;
}

/* ---- content ---- */

struct content {
    struct chunk_source *source;
    struct buffer *out;          /* appended to; or NULL: */
    uint8_t *to;                 /* what is here, or nothing where this is NULL too */
    uint64_t left;               /* bytes that there is room for at `to` */
    struct archive_hasher *hash; /* or NULL */
};

static int not_as_long(struct error *e)
{
    return error_set(e, ERR_DAMAGED, "its content is not as long as it says");
}

static int put_chunk(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    struct content *c = ctx;
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(c->source, &ref->id, &p, &len, e);
    if (rc == 0 && len != ref->len)
        rc = not_as_long(e);
    if (rc == 0 && c->hash)
        rc = archive_hash_add(c->hash, p, len, e);
    if (rc != 0)
        return rc;
    if (c->out) {
        buffer_append(c->out, p, len);
        return buffer_ok(c->out) ? 0 : no_memory(e);
    }
    if (len > c->left)
        return not_as_long(e);
    if (c->to && len > 0) {
        memcpy(c->to, p, len);
        c->to += len;
    }
    c->left -= len;
    return 0;
}

/* A file of one chunk and no holes has that chunk's id as its SHA-256. */
static bool is_its_chunk(const struct node *n)
{
    return n->ref_count == 1 && n->depth == 0 && n->extent_count == 0;
}

/* Its content at `to`; NULL: a further name of it, whose content is only hashed. */
static int bring(struct piece_worker *w, struct piece_item *item, const struct node *n, uint8_t *to,
                 struct error *e)
{
    struct archive_hasher hash = {0};
    bool alone = is_its_chunk(n);
    struct content c = {.source = w->source, .to = to, .left = tar_content_len(n)};
    int rc = alone ? 0 : archive_hash_begin(&hash, n, e);

    c.hash = alone ? NULL : &hash;
    if (rc == 0 && (to || !alone)) {
        rc = content_walk(w->source, n, put_chunk, &c, e);
        if (rc == 0 && c.left > 0)
            rc = not_as_long(e);
    }
    if (rc == 0 && alone)
        item->sha256 = n->refs[0].id;
    else if (rc == 0)
        rc = archive_hash_end(&hash, &item->sha256, e);
    item->hashed = rc == 0;
    archive_hash_release(&hash);
    return rc;
}

/* ---- a member ---- */

typedef int (*item_step)(struct piece *p, struct piece_worker *w, struct piece_item *item,
                         const struct node *n, struct error *e);

static void put_header(struct piece *p, const struct piece_item *item, const struct node *n)
{
    const char *link = item->link ? (const char *)p->bytes.data + item->link : NULL;
    struct tar_member m = {.path = member_path(p, item), .node = n, .link = link};

    tar_put_header(&m, &p->raw);
}

/* The header, and room for what follows. */
static int lay_out(struct piece *p, struct piece_worker *w, struct piece_item *item,
                   const struct node *n, struct error *e)
{
    uint64_t len = item->link ? 0 : tar_content_len(n);

    if (piece_is_part(item))
        return 0;
    put_header(p, item, n);
    item->at = p->raw.len;
    buffer_grow(&p->raw, len);
    tar_put_padding(len, &p->raw);
    return buffer_ok(&p->raw) ? 0 : no_memory(e);
}

static int put_part(struct piece *p, struct piece_worker *w, struct piece_item *item,
                    const struct node *n, struct error *e)
{
    struct content c = {.source = w->source, .out = &p->raw};

    if (item->first)
        put_header(p, item, n);
    p->part_at = p->raw.len;
    int rc = content_walk_range(w->source, n, item->from, item->to, put_chunk, &c, e);
    if (rc == 0 && item->last)
        tar_put_padding(tar_content_len(n), &p->raw);
    return rc == 0 && !buffer_ok(&p->raw) ? no_memory(e) : rc;
}

static int fill_in(struct piece *p, struct piece_worker *w, struct piece_item *item,
                   const struct node *n, struct error *e)
{
    if (n->type != NODE_FILE)
        return 0;
    if (piece_is_part(item))
        return put_part(p, w, item, n, e);
    return bring(w, item, n, item->link ? NULL : p->raw.data + item->at, e);
}

static int step_item(struct piece *p, struct piece_worker *w, struct piece_item *item,
                     item_step step, struct error *e)
{
    struct node n;

    if (p->cancel && atomic_load_explicit(p->cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "archive was interrupted");
    int rc = node_decode(p->bytes.data + item->meta, item->meta_len, &n, e);
    if (rc == 0) {
        rc = step(p, w, item, &n, e);
        node_release(&n);
    }
    return rc == 0 ? 0 : archive_named(e, piece_path(p, item));
}

static int pack_all(struct piece *p, struct piece_worker *w, struct error *e)
{
    size_t at = 0;
    int rc = 0;

    while (rc == 0 && at < p->raw.len) {
        size_t left = p->raw.len - at;
        size_t now = left < MEMBER_BYTES + MEMBER_BYTES / 8 ? left : MEMBER_BYTES;
        rc = gzip_pack(w->packer, p->raw.data + at, now, &p->packed, e);
        at += now;
    }
    return rc;
}

void piece_run(struct task *t, void *worker)
{
    struct piece *p = (struct piece *)t;
    struct piece_worker *w = worker;
    struct error *e = &p->error;
    bool part = p->count > 0 && piece_is_part(&p->items[p->count - 1]);

    if (!part) { /* memory that was filled before costs less than fresh one */
        p->raw = w->raw;
        buffer_clear(&p->raw);
        w->raw = (struct buffer)BUFFER_INIT;
    }
    buffer_reserve(&p->raw, (size_t)p->content + p->count * HEADER_BYTES);
    p->rc = set_order(p, e);
    for (size_t i = 0; p->rc == 0 && i < p->count; i++)
        p->rc = step_item(p, w, &p->items[p->order[i]], lay_out, e);
    if (p->rc == 0)
        piece_order_reads(p);
    for (size_t i = 0; p->rc == 0 && i < p->count; i++)
        p->rc = step_item(p, w, p->reads[i], fill_in, e);
    if (p->rc == 0)
        p->rc = pack_all(p, w, e);
    if (!part) {
        w->raw = p->raw;
        p->raw = (struct buffer)BUFFER_INIT;
    }
}
