/* The end of a save, and the records that stand alone.
 *
 * A commit, in order: data packs flushed; operations applied in a transaction of the catalog, which
 * gives the state sum; blocks of a small save, file lists and the commit in one write; one flush:
 * now it is durable and acknowledged; the catalog's transaction ends. When a step before the flush
 * fails the transaction is rolled back and nothing was saved. When the catalog's last step fails
 * the save stands, and the catalog is caught up or made anew before anything else is asked of it.
 *
 * A number that may have reached the disk is not used again. */
#include "store/repo_private.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* LIST_IN_COMMIT: raw operations that need no record of their own. */
enum { CHUNKS_AHEAD = 32 * 1024, CACHE_ROWS = 64, LIST_IN_COMMIT = 16 * 1024 };

struct save {
    struct repo *repo;
    struct txn *txn;
    struct commit m;
    struct log_batch batch;
    struct buffer list;   /* packed operations that ride in the commit */
    struct buffer commit; /* encoded */
    uint64_t commit_offset;
    struct pack_need *needs; /* malloc'ed */
    bool wrote;              /* its number may have reached the disk */
};

/* ---- before anything is written ---- */

static int check_name_free(struct repo *r, const struct txn *t, const char *name, struct error *e)
{
    uint64_t number = 0;

    if (!name || !*name || t->is_new)
        return 0;
    int rc = catalog_name_taken(r->writer, t->watch.serial, name, &number, e);
    if (rc == 0 && number != 0)
        rc = error_set(e, ERR_REFUSED, "snapshot %" PRIu64 " of '%s' has the name '%s' already",
                       number, t->watch.name, name);
    return rc;
}

/* Blocks or lists of this save stood behind the end of a pack that broke. */
static int check_lost(struct repo *r, const struct txn *t, struct error *e)
{
    bool lost = false;

    for (size_t i = 0; i < t->touched_count; i++)
        lost |= repo_data_lost(r, t->touched[i].pack_id, t->touched[i].len);
    for (size_t i = 0; i < t->spilled_count; i++)
        lost |= repo_data_lost(r, t->spilled[i].pack_id, t->spilled[i].offset + 1);
    return lost ? error_set(e, ERR_FAILED, "a write failed while the save was going on") : 0;
}

static void fill_commit(struct save *s, const struct commit *in)
{
    struct repo *r = s->repo;
    struct txn *t = s->txn;
    struct commit *m = &s->m;
    static const uint8_t none[16];

    *m = *in;
    m->owned = NULL;
    if (t->number == 0)
        t->number = r->next_number++;
    m->number = t->number;
    m->parent = t->watch.last;
    memcpy(m->watch_id, t->watch.id, WATCH_ID_LEN);
    if (memcmp(m->host_id, none, sizeof(none)) == 0)
        memcpy(m->host_id, r->host_id, sizeof(m->host_id));
    if (m->utc_offset == 0)
        m->utc_offset = clock_utc_offset(m->time.s);
    m->next_node = t->watch.next_node;
    m->chain = r->chain;
    m->watch_name = t->is_new ? t->watch.name : NULL;
    m->root = t->root_changed ? t->watch.root : NULL;
    m->rules = t->rules_changed ? t->watch.rules : NULL;
    m->name = in->name && *in->name ? in->name : NULL;
    m->note = in->note && *in->note ? in->note : NULL;
    m->gap = in->gap && *in->gap ? in->gap : NULL;
    m->version = in->version ? in->version : WK_VERSION;
    m->list_count = t->spilled_count;
    m->list_first = t->spilled_count ? t->spilled[0].sequence : 0;
}

static bool is_needed(const struct commit *m, uint64_t pack_id)
{
    for (uint32_t i = 0; i < m->need_count; i++)
        if (m->needs[i].pack_id == pack_id)
            return true;
    return false;
}

/* Data packs that this save's blocks went to, and those with blocks it found there that no commit
 * had named: all that is known of them is on the disk. */
static int fill_needs(struct save *s, struct error *e)
{
    const struct repo *r = s->repo;
    const struct txn *t = s->txn;
    size_t grown = t->big ? r->grown_count : 0;
    struct catalog_pack row;
    int rc = 0;

    s->needs = malloc((grown + t->reused_count + 1) * sizeof(*s->needs));
    if (!s->needs)
        return repo_no_memory(e);
    if (grown > 0)
        memcpy(s->needs, r->grown, grown * sizeof(*s->needs));
    s->m.needs = s->needs;
    s->m.need_count = (uint32_t)grown;
    for (size_t i = 0; rc == 0 && i < t->reused_count; i++) {
        if (is_needed(&s->m, t->reused[i]))
            continue;
        rc = catalog_pack(r->writer, t->reused[i], &row, e);
        if (rc == 0)
            s->needs[s->m.need_count++] = (struct pack_need){.pack_id = row.id, .len = row.len};
        else if (rc == ERR_NOTFOUND)
            rc = 0;
    }
    return rc;
}

/* ---- into the catalog's open transaction ---- */

static int apply_spilled(struct save *s, const struct spilled_list *l, struct error *e)
{
    struct buffer body = BUFFER_INIT, ops = BUFFER_INIT;
    struct record_header h;
    struct pack *pack;
    uint8_t watch_id[WATCH_ID_LEN];
    uint64_t number;

    int rc = repo_pack_get(s->repo, l->pack_id, &pack, e);
    if (rc < 0)
        return rc;
    rc = pack_read(pack, l->offset, &h, &body, e);
    repo_pack_put(s->repo, pack);
    if (rc == 0)
        rc = file_list_decode(body.data, body.len, &number, watch_id, &ops, e);
    buffer_release(&body);
    if (rc == 0)
        rc = catalog_apply_ops(s->repo->writer, ops.data, ops.len, e);
    buffer_release(&ops);
    return rc;
}

static int add_small_blocks(struct save *s, struct error *e)
{
    struct txn *t = s->txn;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < t->small_count; i++) {
        const struct block_place *b = &t->small[i].place;
        rc = catalog_add_block(s->repo->writer, s->repo->log->id, b->offset, b->chunks, b->count,
                               b->has_base ? &b->base : NULL, true, e);
    }
    return rc;
}

/* Blocks go in a little ahead of the operations that name their chunks, so that a chunk's place and
 * its references mostly meet before either becomes a row. */
static int index_ahead(struct save *s, struct index_cursor *at, size_t list, struct error *e)
{
    if (!s->txn->big)
        return 0;
    uint64_t chunks = repo_data_unindexed(s->repo);
    return repo_data_index(s->repo, at,
                           chunks * (list + 1) / (s->txn->spilled_count + 1) + CHUNKS_AHEAD, e);
}

static int apply_operations(struct save *s, struct error *e)
{
    struct txn *t = s->txn;
    struct catalog *c = s->repo->writer;
    struct index_cursor at = {0};

    int rc = catalog_apply_begin(c, t->watch.id, s->m.number, e);
    for (size_t i = 0; rc == 0 && i < t->spilled_count; i++) {
        rc = index_ahead(s, &at, i, e);
        if (rc == 0)
            rc = apply_spilled(s, &t->spilled[i], e);
    }
    if (rc == 0)
        rc = index_ahead(s, &at, t->spilled_count, e);
    return rc == 0 ? catalog_apply_ops(c, t->ops.data, t->ops.len, e) : rc;
}

static int apply_save(struct save *s, struct error *e)
{
    int rc = catalog_begin(s->repo->writer, e);
    if (rc < 0)
        return rc;
    rc = add_small_blocks(s, e);
    if (rc == 0)
        rc = apply_operations(s, e);
    if (rc == 0)
        s->m.sum = *catalog_apply_sum(s->repo->writer);
    if (rc < 0)
        catalog_rollback(s->repo->writer);
    return rc;
}

/* A catalog that is damaged is made anew and asked once more. */
static int apply_or_mend(struct save *s, struct error *e)
{
    int rc = apply_save(s, e);

    if (rc != ERR_CATALOG)
        return rc;
    rc = repo_catalog_again(s->repo, e);
    return rc == 0 ? apply_save(s, e) : rc;
}

static bool take_cache_row(struct reader *r, struct cache_row *row)
{
    row->node = take_u64(r);
    row->key.ino = take_u64(r);
    row->key.pending = take_u8(r);
    row->len = take_u32(r);
    row->signature = take_bytes(r, row->len);
    return !r->bad;
}

static int put_cache_rows(struct txn *t, int64_t watch, const struct buffer *bytes, struct error *e)
{
    struct reader r = reader_of(bytes->data, bytes->len);
    struct cache_row rows[CACHE_ROWS];
    int rc = 0;

    while (rc == 0 && r.left > 0) {
        size_t count = 0;
        while (count < CACHE_ROWS && r.left > 0) {
            if (!take_cache_row(&r, &rows[count++]))
                return error_set(e, ERR_FAILED, "a signature is cut off");
        }
        rc = catalog_cache_put_rows(t->repo->writer, watch, rows, count, e);
    }
    return rc;
}

/* Only a cache: what cannot be read back is found again by the next scan. */
static int put_spilled_cache(struct txn *t, int64_t watch, struct error *e)
{
    struct error ignored = ERROR_INIT;
    struct buffer rows = BUFFER_INIT;
    uint64_t off = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < t->cache_count; i++) {
        buffer_clear(&rows);
        uint8_t *p = buffer_grow(&rows, t->cache_lens[i]);
        if (!p || file_read_all(t->cache_fd, p, t->cache_lens[i], off, &ignored) < 0)
            break;
        rc = put_cache_rows(t, watch, &rows, e);
        off += t->cache_lens[i];
    }
    buffer_release(&rows);
    return rc;
}

static int put_cache(struct txn *t, int64_t watch, struct error *e)
{
    int rc = put_spilled_cache(t, watch, e);

    return rc == 0 ? put_cache_rows(t, watch, &t->cache, e) : rc;
}

static int end_catalog(struct save *s, struct error *e)
{
    struct repo *r = s->repo;
    struct catalog_position p;
    int64_t serial = catalog_apply_serial(r->writer);

    int rc = catalog_apply_end(r->writer, &s->m, e);
    if (rc == 0)
        rc = put_cache(s->txn, serial, e);
    if (rc == 0)
        rc = repo_rows_put(r, s->txn->big, e);
    if (rc == 0)
        rc = catalog_position(r->writer, &p, e);
    if (rc == 0) {
        p.log_pack = r->log->id;
        p.log_offset = r->log->len;
        p.sequence = r->next_sequence - 1;
        p.next_number = r->next_number;
        p.chain = r->chain;
        p.commit_pack = r->log->id;
        p.commit_offset = s->commit_offset;
        repo_safe_position(r, s->txn, &p);
        rc = catalog_set_position(r->writer, &p, e);
    }
    if (rc < 0) {
        catalog_rollback(r->writer);
        return rc;
    }
    return catalog_commit(r->writer, e);
}

/* ---- into the log ---- */

static void batch_blocks(struct save *s)
{
    struct txn *t = s->txn;

    for (size_t i = 0; i < t->small_count; i++) {
        const struct buffer *b = &t->small[i].record;
        t->small[i].place.offset =
            repo_batch_add(s->repo, &s->batch, RECORD_BLOCK, b->data + RECORD_HEADER_LEN,
                           b->len - RECORD_HEADER_LEN, NULL);
    }
}

static int batch_list(struct save *s, struct error *e)
{
    struct txn *t = s->txn;
    struct buffer body = BUFFER_INIT;
    uint64_t sequence;

    if (t->ops.len == 0)
        return 0;
    if (t->ops.len <= LIST_IN_COMMIT) {
        int in = commit_list_encode(&s->m, t->ops.data, t->ops.len, (int)s->repo->codec, &s->list);
        t->list_bytes += s->list.len;
        return in < 0 ? repo_no_memory(e) : 0;
    }
    int rc = file_list_encode(s->m.number, t->watch.id, t->ops.data, t->ops.len,
                              (int)s->repo->codec, &body);
    if (rc == 0 && buffer_ok(&body)) {
        repo_batch_add(s->repo, &s->batch, RECORD_FILE_LIST, body.data, body.len, &sequence);
        t->list_bytes += record_span((uint32_t)body.len);
        if (s->m.list_count++ == 0)
            s->m.list_first = sequence;
    } else {
        rc = repo_no_memory(e);
    }
    buffer_release(&body);
    return rc;
}

static int batch_commit(struct save *s, struct error *e)
{
    s->m.bytes_stored = s->txn->bytes_stored + s->txn->list_bytes;
    commit_encode(&s->m, &s->commit);
    if (!buffer_ok(&s->commit))
        return repo_no_memory(e);
    s->commit_offset =
        repo_batch_add(s->repo, &s->batch, RECORD_COMMIT, s->commit.data, s->commit.len, NULL);
    return 0;
}

/* ---- the commit ---- */

static int prepare(struct save *s, const struct commit *in, struct error *e)
{
    struct repo *r = s->repo;
    struct txn *t = s->txn;

    if (t->failed) {
        *e = t->failure;
        return e->code;
    }
    /* First of all, since it waits for others without the lock: what they leave is seen to next. */
    int rc = t->big ? SAFETY(DATA_BEFORE_COMMIT, repo_data_settle(r, e)) : 0;
    if (rc == 0)
        rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = check_name_free(r, t, in->name, e);
    if (rc == 0)
        rc = repo_log_ready(r, e);
    return rc == 0 ? check_lost(r, t, e) : rc;
}

static int write_save(struct save *s, struct error *e)
{
    int rc = repo_batch_begin(s->repo, &s->batch, e);
    if (rc < 0)
        return rc;
    batch_blocks(s);
    rc = apply_or_mend(s, e);
    if (rc < 0)
        return rc;
    rc = batch_list(s, e);
    if (rc == 0)
        rc = batch_commit(s, e);
    if (rc == 0) {
        s->wrote = true;
        rc = repo_batch_write(s->repo, &s->batch, true, e);
    }
    if (rc < 0)
        catalog_rollback(s->repo->writer);
    return rc;
}

/* Durable: nothing that fails from here on takes it back. */
static void acknowledge(struct save *s)
{
    struct repo *r = s->repo;
    struct error why = ERROR_INIT;
    bool big = s->txn->big;

    hash_sha256(s->commit.data, s->commit.len, &r->chain);
    int rc = end_catalog(s, &why);
    if (rc < 0) {
        repo_notice(r, "the catalog is behind: %s", why.message);
        repo_catalog_failed(r, rc, true); /* the replay that mends it finds blocks by itself */
    }
    repo_rows_done(r, big);
    if (big) {
        repo_data_indexed(r);
        r->grown_count = 0;
    }
    s->txn->spilled_count = 0;
    if (r->catalog_stale)
        repo_catalog_mend(r, &why); /* the next save tries again */
    if (!r->catalog_stale && repo_log_overfull(r) && repo_log_seal(r, NULL, &why) == 0)
        repo_catalog_follow(r, &why);
}

static int commit_locked(struct save *s, struct commit *c, struct error *e)
{
    int rc = prepare(s, c, e);
    if (rc < 0) {
        repo_fences_flush(s->repo);
        return rc;
    }
    fill_commit(s, c);
    s->repo->committing = s->txn;
    rc = fill_needs(s, e);
    if (rc == 0)
        rc = write_save(s, e);
    if (rc == 0)
        acknowledge(s);
    s->repo->committing = NULL;
    if (rc < 0) {
        if (!s->wrote && s->txn->spilled_count == 0 && s->repo->next_number == s->m.number + 1)
            s->repo->next_number--;
        repo_fences_flush(s->repo);
        return rc;
    }
    c->number = s->m.number;
    c->parent = s->m.parent;
    memcpy(c->watch_id, s->m.watch_id, WATCH_ID_LEN);
    memcpy(c->host_id, s->m.host_id, sizeof(c->host_id));
    c->utc_offset = s->m.utc_offset;
    c->next_node = s->m.next_node;
    c->list_first = s->m.list_first;
    c->list_count = s->m.list_count;
    c->chain = s->m.chain;
    c->sum = s->m.sum;
    c->bytes_stored = s->m.bytes_stored;
    return 0;
}

int txn_commit(struct txn *t, struct commit *c, struct error *e)
{
    struct repo *r = t->repo;
    struct save s = {.repo = r, .txn = t};

    repo_catalog_return(r, t->claims_catalog);
    t->claims_catalog = NULL;
    id_map_release(&t->claims);
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_room_for(r, txn_bytes_stored(t), false, e);
    if (rc == 0)
        rc = commit_locked(&s, c, e);
    r->short_of_space |= rc == ERR_NOSPACE;
    pthread_mutex_unlock(&r->write_lock);
    repo_batch_release(&s.batch);
    buffer_release(&s.list);
    buffer_release(&s.commit);
    free(s.needs);
    if (rc < 0)
        txn_abort(t);
    else
        txn_free(t);
    return rc;
}

/* ---- other ends ---- */

void txn_end_unchanged(struct txn *t)
{
    struct repo *r = t->repo;
    struct error why = ERROR_INIT;

    if (t->cache.len > 0 || t->cache_count > 0) {
        pthread_mutex_lock(&r->write_lock);
        int rc = repo_catalog_mend(r, &why);
        if (rc == 0)
            rc = catalog_begin(r->writer, &why);
        if (rc == 0) {
            rc = t->is_new ? 0 : put_cache(t, t->watch.serial, &why);
            if (rc == 0)
                rc = catalog_commit(r->writer, &why);
            else
                catalog_rollback(r->writer);
        }
        repo_catalog_failed(r, rc, false);
        pthread_mutex_unlock(&r->write_lock);
    }
    txn_abort(t);
}

/* ---- marks and drops: one record, one flush ---- */

static int write_record(struct repo *r, uint8_t type, const struct buffer *body, uint64_t *sequence,
                        uint64_t *offset, struct error *e)
{
    struct log_batch b;

    if (!buffer_ok(body))
        return repo_no_memory(e);
    int rc = repo_batch_begin(r, &b, e);
    if (rc < 0)
        return rc;
    *offset = repo_batch_add(r, &b, type, body->data, body->len, sequence);
    rc = repo_batch_write(r, &b, true, e);
    repo_batch_release(&b);
    if (rc < 0)
        repo_fences_flush(r);
    return rc;
}

int repo_position_move(struct repo *r, struct error *e)
{
    struct catalog_position p;

    int rc = catalog_position(r->writer, &p, e);
    if (rc < 0)
        return rc;
    p.log_pack = r->log->id;
    p.log_offset = r->log->len;
    p.sequence = r->next_sequence - 1;
    p.next_number = r->next_number;
    repo_safe_position(r, NULL, &p);
    return catalog_set_position(r->writer, &p, e);
}

static int apply_durable(struct repo *r, uint64_t sequence, apply_record apply, const void *what,
                         struct error *e)
{
    int rc = catalog_begin(r->writer, e);
    if (rc < 0)
        return rc;
    rc = apply ? apply(r->writer, sequence, what, e) : 0;
    if (rc == 0)
        rc = repo_rows_put(r, false, e);
    if (rc == 0)
        rc = repo_position_move(r, e);
    if (rc < 0) {
        catalog_rollback(r->writer);
        return rc;
    }
    rc = catalog_commit(r->writer, e);
    if (rc == 0)
        repo_rows_done(r, false);
    return rc;
}

int repo_catalog_follow(struct repo *r, struct error *e)
{
    return apply_durable(r, 0, NULL, NULL, e);
}

int repo_record_put(struct repo *r, uint8_t type, const struct buffer *body, apply_record apply,
                    const void *what, uint64_t *offset, struct error *e)
{
    struct error why = ERROR_INIT;
    uint64_t sequence = 0, at = 0;

    int rc = write_record(r, type, body, &sequence, &at, e);
    if (rc < 0)
        return rc;
    if (offset)
        *offset = at;
    rc = apply_durable(r, sequence, apply, what, &why);
    if (rc < 0) {
        repo_notice(r, "the catalog is behind: %s", why.message);
        repo_catalog_failed(r, rc, true);
        repo_catalog_mend(r, &why);
    }
    return 0;
}

/* Who makes room must have some, and so must what is found out. */
static int write_small(struct repo *r, uint8_t type, const struct buffer *body, apply_record apply,
                       const void *what, struct error *e)
{
    int rc = repo_record_put(r, type, body, apply, what, NULL, e);

    if (rc == ERR_NOSPACE && repo_reserve_give(r)) {
        rc = repo_record_put(r, type, body, apply, what, NULL, e);
        repo_reserve_keep(r);
    }
    return rc;
}

static int apply_mark(struct catalog *c, uint64_t sequence, const void *what, struct error *e)
{
    return catalog_apply_mark(c, sequence, what, e);
}

static int check_mark_name(struct repo *r, const struct mark *m, struct error *e)
{
    struct snapshot_row row;
    uint64_t number = 0;

    if (m->type != MARK_NAME || m->count == 0)
        return 0;
    int rc = catalog_snapshot(r->writer, m->snapshots[0], &row, e);
    if (rc < 0)
        return rc;
    if (m->text && *m->text)
        rc = catalog_name_taken(r->writer, row.watch_serial, m->text, &number, e);
    if (rc == 0 && number != 0 && number != m->snapshots[0])
        rc = error_set(e, ERR_REFUSED, "snapshot %" PRIu64 " has the name '%s' already", number,
                       m->text);
    snapshot_row_release(&row);
    return rc;
}

int repo_mark(struct repo *r, const struct mark *m, struct error *e)
{
    struct buffer body = BUFFER_INIT;

    int rc = repo_no_writer(r, e);
    if (rc < 0)
        return rc;
    mark_encode(m, &body);
    pthread_mutex_lock(&r->write_lock);
    rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = check_mark_name(r, m, e);
    if (rc == ERR_CATALOG && (rc = repo_catalog_again(r, e)) == 0)
        rc = check_mark_name(r, m, e);
    if (rc == 0)
        rc = write_small(r, RECORD_MARK, &body, apply_mark, m, e);
    pthread_mutex_unlock(&r->write_lock);
    buffer_release(&body);
    return rc;
}

static int apply_prune(struct catalog *c, uint64_t sequence, const void *what, struct error *e)
{
    const struct prune *p = what;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < p->count; i++)
        rc = catalog_drop(c, p->snapshots[i], e);
    return rc;
}

int repo_drop(struct repo *r, const uint64_t *snapshots, uint32_t count, struct error *e)
{
    struct buffer body = BUFFER_INIT;
    struct prune p = {.time = clock_wall(), .count = count};

    int rc = repo_no_writer(r, e);
    if (rc < 0 || count == 0)
        return rc;
    p.snapshots = malloc(count * sizeof(*p.snapshots));
    if (!p.snapshots)
        return repo_no_memory(e);
    memcpy(p.snapshots, snapshots, count * sizeof(*p.snapshots));
    prune_encode(&p, &body);
    pthread_mutex_lock(&r->write_lock);
    rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = write_small(r, RECORD_PRUNE, &body, apply_prune, &p, e);
    r->compacted &= rc < 0;
    pthread_mutex_unlock(&r->write_lock);
    buffer_release(&body);
    free(p.snapshots);
    return rc;
}

/* ---- idle work and caches ---- */

/* A change of the catalog alone, in a transaction of its own. */
struct note {
    const char *key;
    const void *value;
    size_t len;
};

static int put_note(struct catalog *c, uint64_t sequence, const void *what, struct error *e)
{
    const struct note *n = what;

    return catalog_note_put(c, n->key, n->value, n->len, e);
}

static int put_lost(struct catalog *c, uint64_t sequence, const void *what, struct error *e)
{
    return catalog_chunk_lost(c, what, e);
}

static int change_once(struct repo *r, apply_record change, const void *what, struct error *e)
{
    int rc = catalog_begin(r->writer, e);

    if (rc < 0)
        return rc;
    rc = change(r->writer, 0, what, e);
    if (rc == 0)
        return catalog_commit(r->writer, e);
    catalog_rollback(r->writer);
    return rc;
}

static int change_catalog(struct repo *r, apply_record change, const void *what, struct error *e)
{
    int rc = repo_no_writer(r, e);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = change_once(r, change, what, e);
    if (rc == ERR_CATALOG && (rc = repo_catalog_again(r, e)) == 0)
        rc = change_once(r, change, what, e);
    repo_catalog_failed(r, rc, false);
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

int repo_note_put(struct repo *r, const char *key, const void *value, size_t len, struct error *e)
{
    const struct note n = {key, value, len};

    return change_catalog(r, put_note, &n, e);
}

int repo_chunk_lost(struct repo *r, const struct hash *id, struct error *e)
{
    return change_catalog(r, put_lost, id, e);
}

int repo_rebuild(struct repo *r, struct error *e)
{
    int rc = repo_no_writer(r, e);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    r->past_unread = true;
    r->unread_bytes = 0;
    rc = repo_files_scan(r, e);
    if (rc == 0)
        rc = repo_catalog_renew(r, false, e);
    if (rc == 0 && r->unread_bytes > 0)
        rc = error_set(e, ERR_DAMAGED,
                       "the catalog is made anew, without %" PRIu64
                       " bytes that the disk refuses to read; verify tells whose they are",
                       r->unread_bytes);
    r->past_unread = false;
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

int repo_audit_refs(struct repo *r, uint64_t *wrong, struct error *e)
{
    struct catalog *c;
    struct chunk_source *s = NULL;

    *wrong = 0;
    int rc = repo_catalog_open(r, &c, e);
    if (rc < 0)
        return rc;
    rc = chunk_source_open(r, &s, e);
    if (rc == 0)
        rc = catalog_read_begin(c, e);
    if (rc == 0) {
        catalog_set_list_reader(c, repo_read_list, s);
        rc = catalog_audit_refs(c, wrong, NULL, NULL, e);
    }
    chunk_source_close(s);
    repo_catalog_close(r, c);
    return rc;
}
