/* A save while it gathers.
 *
 * Blocks: packed in the caller's thread; kept in memory up to SMALL_SAVE_MAX (they are then written
 * to the log with the commit), beyond it everything goes to the data pack as it comes.
 * Operations: encoded one behind the other; when they fill a file list it is written to the log,
 * not flushed. A chunk is known when the catalog names a place in a pack that is there; another
 * save that is still open does not count, since it may be given up: both then store the chunk. */
#include "store/repo_private.h"

#include "base/bytes.h"
#include "base/random.h"
#include "io/fileops.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    LIST_FULL = 1024 * 1024,       /* raw operations in a file list */
    CACHE_FULL = 1024 * 1024,      /* of signatures in memory */
    LISTS_KEPT = 16 * 1024 * 1024, /* raw list chunks kept; others are read back */
};

/* ---- begin ---- */

static int watch_is_open(const struct repo *r, const char *name, struct error *e)
{
    for (const struct txn *t = r->txns; t; t = t->next)
        if (strcmp(t->watch.name, name) == 0)
            return error_set(e, ERR_BUSY, "a save of '%s' is going on", name);
    return 0;
}

static bool set_text(char **to, const char *text)
{
    char *copy = strdup(text ? text : "");

    free(*to);
    *to = copy;
    return copy != NULL;
}

/* The serial is provisional: the commit gives the real one, in order of commits. */
static int new_watch(struct txn *t, const struct txn_watch *w, struct error *e)
{
    struct watch_row *rows;
    size_t count;

    int rc = catalog_watches(t->catalog, &rows, &count, e);
    if (rc < 0)
        return rc;
    t->watch.serial = 1;
    for (size_t i = 0; i < count; i++) {
        if (t->watch.serial <= rows[i].serial)
            t->watch.serial = rows[i].serial + 1;
        watch_row_release(&rows[i]);
    }
    free(rows);
    for (const struct txn *o = t->repo->txns; o; o = o->next)
        t->watch.serial += o->is_new;
    random_bytes(t->watch.id, WATCH_ID_LEN);
    t->watch.next_node = NODE_ROOT + 1;
    t->is_new = t->root_changed = t->rules_changed = true;
    if (!set_text(&t->watch.name, w->name) || !set_text(&t->watch.root, w->root) ||
        !set_text(&t->watch.rules, w->rules))
        return repo_no_memory(e);
    return 0;
}

static int known_watch(struct txn *t, const struct txn_watch *w, struct error *e)
{
    t->root_changed = w->root && strcmp(w->root, t->watch.root) != 0;
    t->rules_changed = w->rules && strcmp(w->rules, t->watch.rules) != 0;
    if (t->root_changed && !w->moved)
        return error_set(e, ERR_REFUSED,
                         "watch '%s' has another root on record: '%.200s'; if it has moved here: "
                         "watchkeep save %s='%.200s' --moved",
                         w->name, t->watch.root, w->name, w->root);
    if (t->root_changed && !set_text(&t->watch.root, w->root))
        return repo_no_memory(e);
    if (t->rules_changed && !set_text(&t->watch.rules, w->rules))
        return repo_no_memory(e);
    return 0;
}

static int find_watch(struct txn *t, const struct txn_watch *w, struct error *e)
{
    int rc = repo_catalog_lend(t->repo, &t->catalog, e);
    if (rc == 0)
        rc = catalog_read_begin(t->catalog, e);
    if (rc == 0)
        rc = catalog_watch_by_name(t->catalog, w->name, &t->watch, e);
    if (rc == ERR_NOTFOUND)
        return new_watch(t, w, e);
    return rc < 0 ? rc : known_watch(t, w, e);
}

static struct txn *new_txn(struct repo *r)
{
    struct txn *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->repo = r;
    t->cache_fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    id_map_init(&t->claims, sizeof(struct hash));
    id_map_init(&t->lists, sizeof(struct list_chunk));
    return t;
}

static void link_txn(struct repo *r, struct txn *t)
{
    t->next = r->txns;
    r->txns = t;
}

int txn_begin(struct repo *r, const struct txn_watch *w, struct txn **out, struct error *e)
{
    *out = NULL;
    int rc = repo_no_writer(r, e);
    if (rc < 0)
        return rc;
    struct txn *t = new_txn(r);
    if (!t)
        return repo_no_memory(e);
    pthread_mutex_lock(&r->write_lock);
    rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = watch_is_open(r, w->name, e);
    if (rc == 0)
        rc = find_watch(t, w, e);
    if (rc == 0)
        link_txn(r, t);
    pthread_mutex_unlock(&r->write_lock);
    if (rc < 0) {
        txn_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

static void unlink_txn(struct txn *t)
{
    struct txn **at = &t->repo->txns;

    while (*at && *at != t)
        at = &(*at)->next;
    if (*at)
        *at = t->next;
}

static void free_small(struct txn *t)
{
    for (size_t i = 0; i < t->small_count; i++) {
        buffer_release(&t->small[i].record);
        free(t->small[i].place.chunks);
    }
    free(t->small);
    t->small = NULL;
    t->small_count = 0;
}

void txn_free(struct txn *t)
{
    struct repo *r = t->repo;

    pthread_mutex_lock(&r->write_lock);
    unlink_txn(t);
    pthread_mutex_unlock(&r->write_lock);
    repo_catalog_return(r, t->catalog);
    repo_catalog_return(r, t->claims_catalog);
    free_small(t);
    watch_row_release(&t->watch);
    buffer_release(&t->ops);
    buffer_release(&t->scratch);
    buffer_release(&t->cache);
    buffer_release(&t->list_raw);
    id_map_release(&t->claims);
    id_map_release(&t->lists);
    if (t->cache_fd >= 0)
        fileops->close(t->cache_fd);
    free(t->cache_lens);
    free(t->spilled);
    free(t->touched);
    free(t->reused);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Blocks that reached a data pack stay there: indexed, they serve the next try. On a full disk they
 * make room for what is smaller. */
static void after_abort(struct repo *r, bool big)
{
    struct error ignored = ERROR_INIT;

    if (r->catalog_stale || r->refuse)
        return;
    if (r->short_of_space && !r->txns)
        repo_give_back(r, &ignored);
    else if (big)
        repo_catalog_failed(r, repo_data_index_now(r, &ignored), false);
}

void txn_abort(struct txn *t)
{
    struct repo *r = t->repo;
    bool big = t->big, full = t->failed && t->failure.code == ERR_NOSPACE;

    txn_free(t);
    pthread_mutex_lock(&r->write_lock);
    r->short_of_space |= full;
    after_abort(r, big);
    pthread_mutex_unlock(&r->write_lock);
}

const struct watch_row *txn_watch_row(const struct txn *t)
{
    return &t->watch;
}

struct catalog *txn_catalog(struct txn *t)
{
    return t->catalog;
}

bool txn_changed(const struct txn *t)
{
    return t->changed || (t->root_changed && !t->is_new);
}

/* ---- chunks ---- */

int txn_claims_catalog(struct txn *t, struct error *e)
{
    if (t->claims_catalog)
        return 0;
    int rc = repo_catalog_lend(t->repo, &t->claims_catalog, e);
    if (rc == 0)
        rc = catalog_read_begin(t->claims_catalog, e);
    if (rc == 0)
        t->none_known = catalog_chunk_count(t->claims_catalog) == 0;
    return rc;
}

/* The commit must name the packs of blocks that no commit named so far. */
static int note_reused(struct txn *t, uint64_t pack_id, struct error *e)
{
    for (size_t i = 0; i < t->reused_count; i++)
        if (t->reused[i] == pack_id)
            return 0;
    uint64_t *list = realloc(t->reused, (t->reused_count + 1) * sizeof(*list));
    if (!list)
        return repo_no_memory(e);
    t->reused = list;
    list[t->reused_count++] = pack_id;
    return 0;
}

/* 1: it has a place in a pack that is there. */
static int chunk_is_known(struct txn *t, const struct hash *id, struct error *e)
{
    struct error absent = ERROR_INIT;
    struct chunk_place at;
    struct pack_file f;

    int rc = txn_claims_catalog(t, e);
    if (rc < 0 || t->none_known)
        return rc;
    rc = catalog_chunk(t->claims_catalog, id, &at, &absent);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc < 0) {
        *e = absent;
        return rc;
    }
    if (at.pack_id == 0 || !repo_place_holds(t->repo, at.pack_id) ||
        !repo_file_known(t->repo, at.pack_id, &f))
        return 0;
    if (at.refs == 0 && f.kind == PACK_DATA)
        rc = note_reused(t, at.pack_id, e);
    return rc < 0 ? rc : 1;
}

static int claim(struct txn *t, const struct hash *id, struct error *e)
{
    bool fresh;

    if (id_map_find(&t->claims, id))
        return 0;
    int rc = chunk_is_known(t, id, e);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    return id_map_put(&t->claims, id, &fresh) ? 1 : repo_no_memory(e);
}

int txn_claim(struct txn *t, const struct hash *id, struct error *e)
{
    pthread_mutex_lock(&t->lock);
    int rc = claim(t, id, e);
    pthread_mutex_unlock(&t->lock);
    return rc;
}

static int fail_txn(struct txn *t, int rc, const struct error *e)
{
    if (rc < 0 && !t->failed) {
        t->failed = true;
        t->failure = *e;
    }
    return rc;
}

/* The same without the lock. */
static int fail_unlocked(struct txn *t, int rc, const struct error *e)
{
    if (rc < 0) {
        pthread_mutex_lock(&t->lock);
        fail_txn(t, rc, e);
        pthread_mutex_unlock(&t->lock);
    }
    return rc;
}

static int touch(struct txn *t, uint64_t pack_id, uint64_t end, struct error *e)
{
    for (size_t i = 0; i < t->touched_count; i++) {
        if (t->touched[i].pack_id == pack_id) {
            t->touched[i].len = end;
            return 0;
        }
    }
    struct pack_need *list = realloc(t->touched, (t->touched_count + 1) * sizeof(*list));
    if (!list)
        return repo_no_memory(e);
    t->touched = list;
    list[t->touched_count++] = (struct pack_need){.pack_id = pack_id, .len = end};
    return 0;
}

/* write_lock is held; takes place->chunks. */
static int put_in_data(struct txn *t, struct buffer *record, struct block_place *place,
                       struct error *e)
{
    int rc = repo_room_for(t->repo, record->len, false, e);

    if (rc == 0)
        rc = repo_data_put(t->repo, record, place, e);
    return rc == 0 ? touch(t, place->pack_id, place->end, e) : rc;
}

/* The save is not small any more: what was kept goes to the data pack. */
static int grow_big(struct txn *t, struct error *e)
{
    int rc = 0;

    pthread_mutex_lock(&t->repo->write_lock);
    for (size_t i = 0; rc == 0 && i < t->small_count; i++)
        rc = put_in_data(t, &t->small[i].record, &t->small[i].place, e);
    pthread_mutex_unlock(&t->repo->write_lock);
    free_small(t);
    t->big = true;
    return rc;
}

/* Of a block's record, of which the header is still to come. */
static uint64_t span_of(const struct buffer *record)
{
    return record_span((uint32_t)(record->len - RECORD_HEADER_LEN));
}

/* t->lock is held; takes the record and place->chunks. */
static int keep_small(struct txn *t, struct buffer *record, struct block_place *place,
                      struct error *e)
{
    struct small_block *list = realloc(t->small, (t->small_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(e);
    t->small = list;
    t->small_bytes += span_of(record);
    list[t->small_count++] = (struct small_block){.record = *record, .place = *place};
    *record = (struct buffer)BUFFER_INIT;
    place->chunks = NULL;
    return t->small_bytes > SMALL_SAVE_MAX ? grow_big(t, e) : 0;
}

static int store_block(struct txn *t, struct buffer *record, struct block_place *place,
                       struct error *e)
{
    pthread_mutex_lock(&t->lock);
    if (t->failed) {
        *e = t->failure;
        pthread_mutex_unlock(&t->lock);
        return e->code;
    }
    bool big = t->big;
    __atomic_fetch_add(&t->bytes_stored, span_of(record), __ATOMIC_RELAXED);
    int rc = big ? 0 : fail_txn(t, keep_small(t, record, place, e), e);
    pthread_mutex_unlock(&t->lock);
    if (!big)
        return rc;
    pthread_mutex_lock(&t->repo->write_lock);
    rc = put_in_data(t, record, place, e);
    pthread_mutex_unlock(&t->repo->write_lock);
    return fail_unlocked(t, rc, e);
}

/* The catalog asks for list chunks before they can be read back. */
static int keep_lists(struct txn *t, const struct block_chunk *chunks, uint32_t count,
                      const uint8_t *raw, struct error *e)
{
    uint32_t off = 0;
    bool fresh;
    int rc = 0;

    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; rc == 0 && i < count && t->list_raw.len < LISTS_KEPT; i++) {
        struct list_chunk *l = id_map_put(&t->lists, &chunks[i].id, &fresh);
        if (l && fresh) {
            l->offset = t->list_raw.len;
            l->len = chunks[i].raw_len;
            buffer_append(&t->list_raw, raw + off, chunks[i].raw_len);
        }
        off += chunks[i].raw_len;
        if (!l || !buffer_ok(&t->list_raw))
            rc = repo_no_memory(e);
    }
    fail_txn(t, rc, e);
    pthread_mutex_unlock(&t->lock);
    return rc;
}

bool txn_find_list(struct txn *t, const struct hash *id, const uint8_t **p, size_t *len)
{
    const struct list_chunk *l = id_map_find(&t->lists, id);

    if (!l)
        return false;
    *p = t->list_raw.data + l->offset;
    *len = l->len;
    return true;
}

static int copy_chunks(const struct block_chunk *chunks, uint32_t count, struct block_place *p,
                       struct error *e)
{
    uint32_t off = 0;

    p->count = count;
    p->chunks = malloc(count * sizeof(*chunks));
    if (!p->chunks)
        return repo_no_memory(e);
    memcpy(p->chunks, chunks, count * sizeof(*chunks));
    for (uint32_t i = 0; i < count; i++) {
        p->chunks[i].raw_off = off;
        off += chunks[i].raw_len;
    }
    return 0;
}

/* Whether the packed block is a delta: one that did not pay was stored without its base. */
static int note_base(const struct buffer *record, struct block_place *place, struct error *e)
{
    struct block b;

    if (!(record->data[RECORD_HEADER_LEN + BLOCK_FLAGS_OFFSET] & BLOCK_HAS_BASE))
        return 0;
    int rc = block_decode(record->data + RECORD_HEADER_LEN, record->len - RECORD_HEADER_LEN, &b, e);
    if (rc < 0)
        return rc;
    place->has_base = b.has_base;
    place->base = b.base;
    block_release(&b);
    return 0;
}

/* A base has to stand in a pack that stays, or come with this very save. */
static int base_holds(struct txn *t, const struct hash *id, struct error *e)
{
    pthread_mutex_lock(&t->lock);
    int rc = id_map_find(&t->claims, id) ? 1 : chunk_is_known(t, id, e);
    pthread_mutex_unlock(&t->lock);
    return rc;
}

int txn_store(struct txn *t, const struct block_chunk *chunks, uint32_t count, const void *raw,
              bool is_list, struct buffer *record, struct error *e)
{
    struct block_place place = {0};

    int rc = copy_chunks(chunks, count, &place, e);
    if (rc == 0)
        rc = note_base(record, &place, e);
    if (rc == 0 && is_list)
        rc = keep_lists(t, chunks, count, raw, e);
    if (rc == 0)
        rc = store_block(t, record, &place, e);
    free(place.chunks);
    return rc;
}

int txn_put_block(struct txn *t, const struct block_chunk *chunks, uint32_t count, const void *raw,
                  uint32_t raw_len, bool is_list, const struct block_base *link, const void *base,
                  size_t base_len, struct error *e)
{
    struct buffer record = BUFFER_INIT;

    int rc = link ? base_holds(t, &link->id, e) : 0;
    if (rc < 0)
        return rc;
    if (rc == 0) {
        link = NULL;
        base_len = 0;
    }
    if (!buffer_grow(&record, RECORD_HEADER_LEN))
        return repo_no_memory(e);
    rc = block_encode(chunks, count, raw, raw_len, t->repo->codec, CODEC_FAST, link,
                      link ? base : NULL, base_len, &record, e);
    if (rc == 0)
        rc = txn_store(t, chunks, count, raw, is_list, &record, e);
    buffer_release(&record);
    return rc;
}

uint64_t txn_bytes_stored(const struct txn *t)
{
    return __atomic_load_n(&t->bytes_stored, __ATOMIC_RELAXED);
}

/* ---- operations ---- */

static int remember_list(struct txn *t, const struct spilled_list *l, struct error *e)
{
    struct spilled_list *list = realloc(t->spilled, (t->spilled_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(e);
    t->spilled = list;
    list[t->spilled_count++] = *l;
    return 0;
}

int txn_spill_ops(struct txn *t, struct error *e)
{
    struct repo *r = t->repo;
    struct buffer body = BUFFER_INIT;
    struct log_batch b;
    struct spilled_list l;

    int rc = repo_batch_begin(r, &b, e);
    if (rc < 0)
        return rc;
    if (t->number == 0)
        t->number = r->next_number++;
    l.pack_id = r->log->id;
    rc = file_list_encode(t->number, t->watch.id, t->ops.data, t->ops.len, (int)r->codec, &body);
    if (rc == 0) {
        l.offset = repo_batch_add(r, &b, RECORD_FILE_LIST, body.data, body.len, &l.sequence);
        t->list_bytes += record_span((uint32_t)body.len);
        rc = repo_batch_write(r, &b, false, e);
    } else {
        rc = repo_no_memory(e);
    }
    buffer_release(&body);
    repo_batch_release(&b);
    if (rc == 0)
        rc = remember_list(t, &l, e);
    buffer_clear(&t->ops);
    return rc;
}

static int op_added(struct txn *t, struct error *e)
{
    t->changed = true;
    if (!buffer_ok(&t->ops))
        return repo_no_memory(e);
    if (t->ops.len < LIST_FULL)
        return 0;
    pthread_mutex_lock(&t->repo->write_lock);
    int rc = txn_spill_ops(t, e);
    pthread_mutex_unlock(&t->repo->write_lock);
    return fail_unlocked(t, rc, e);
}

uint64_t txn_new_node(struct txn *t)
{
    return t->watch.next_node++;
}

static int check_name(const char *name, size_t len, struct error *e)
{
    return node_name_ok(name, len) ? 0
                                   : error_set(e, ERR_FAILED, "a name cannot stand in a folder");
}

int txn_name_put(struct txn *t, uint64_t parent, const char *name, size_t len, uint64_t node,
                 struct error *e)
{
    const struct op op = {.type = OP_NAME_PUT,
                          .parent = parent,
                          .name = name,
                          .name_len = (uint8_t)len,
                          .node = node};

    int rc = check_name(name, len, e);
    if (rc < 0)
        return rc;
    op_encode(&op, &t->ops);
    return op_added(t, e);
}

int txn_name_remove(struct txn *t, uint64_t parent, const char *name, size_t len, struct error *e)
{
    const struct op op = {
        .type = OP_NAME_REMOVE, .parent = parent, .name = name, .name_len = (uint8_t)len};

    int rc = check_name(name, len, e);
    if (rc < 0)
        return rc;
    op_encode(&op, &t->ops);
    return op_added(t, e);
}

int txn_node_put(struct txn *t, uint64_t node, const struct node *n, struct error *e)
{
    buffer_clear(&t->scratch);
    node_encode(n, &t->scratch);
    if (!buffer_ok(&t->scratch))
        return repo_no_memory(e);
    if (t->scratch.len > NODE_ENCODED_MAX)
        return error_set(e, ERR_FAILED, "the description of a file is too long");
    const struct op op = {.type = OP_NODE_PUT,
                          .node = node,
                          .meta = t->scratch.data,
                          .meta_len = (uint32_t)t->scratch.len};
    op_encode(&op, &t->ops);
    return op_added(t, e);
}

int txn_node_remove(struct txn *t, uint64_t node, struct error *e)
{
    const struct op op = {.type = OP_NODE_REMOVE, .node = node};

    op_encode(&op, &t->ops);
    return op_added(t, e);
}

static bool remember_len(struct txn *t, uint64_t len)
{
    uint64_t *list = realloc(t->cache_lens, (t->cache_count + 1) * sizeof(*list));

    if (!list)
        return false;
    t->cache_lens = list;
    list[t->cache_count++] = len;
    return true;
}

/* Signatures may not reach the catalog before the snapshot that they belong to, nor stay in memory
 * by the hundred thousand. */
static bool spill_cache(struct txn *t)
{
    struct error ignored = ERROR_INIT;
    uint64_t end = 0;

    if (t->cache_fd < 0)
        t->cache_fd = fileops->openat(t->repo->dirfd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (t->cache_fd < 0)
        return false;
    for (size_t i = 0; i < t->cache_count; i++)
        end += t->cache_lens[i];
    if (file_write_all(t->cache_fd, t->cache.data, t->cache.len, end, &ignored) < 0 ||
        !remember_len(t, t->cache.len))
        return false;
    buffer_clear(&t->cache);
    return true;
}

int txn_cache_put(struct txn *t, uint64_t node, const struct cache_key *key, const void *signature,
                  size_t len, struct error *e)
{
    put_u64(&t->cache, node);
    put_u64(&t->cache, key->ino);
    put_u8(&t->cache, key->pending);
    put_u32(&t->cache, (uint32_t)len);
    buffer_append(&t->cache, signature, len);
    if (!buffer_ok(&t->cache))
        return repo_no_memory(e);
    if (t->cache.len >= CACHE_FULL && !t->cache_in_memory)
        t->cache_in_memory = !spill_cache(t);
    return 0;
}
