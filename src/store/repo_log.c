/* Appending to packs.
 *
 * The log pack: everything that is acknowledged goes there in batches of whole records, each one
 * write and at most one flush. Data packs: blocks of saves that are not small, flushed before the
 * commit that needs them is written.
 *
 * A pack whose write or flush failed is never written again. Its end is fenced off at what is known
 * to be on the disk; the fence is the first thing that is flushed afterwards, at the beginning of a
 * new log pack or, for a data pack, in the batch with the next commit. While a fence cannot be
 * flushed nothing is acknowledged. */
#include "store/repo_private.h"

#include "base/safety.h"
#include "io/fileops.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { WRITEBACK_STEP = 8 * 1024 * 1024 };

/* ---- fences ---- */

static int fence_push(struct fence **list, size_t *count, const struct fence *f, struct error *e)
{
    for (size_t i = 0; i < *count; i++) {
        if ((*list)[i].pack_id != f->pack_id)
            continue;
        if ((*list)[i].len > f->len)
            (*list)[i].len = f->len;
        return 0;
    }
    struct fence *p = realloc(*list, (*count + 1) * sizeof(*p));
    if (!p)
        return repo_no_memory(e);
    *list = p;
    p[(*count)++] = *f;
    return 0;
}

static void fence_drop(struct fence *list, size_t *count, uint64_t pack_id)
{
    size_t kept = 0;

    for (size_t i = 0; i < *count; i++)
        if (list[i].pack_id != pack_id)
            list[kept++] = list[i];
    *count = kept;
}

int repo_fence_add(struct repo *r, uint64_t pack_id, uint64_t len, struct error *e)
{
    const struct fence f = {.pack_id = pack_id, .len = len};

    int rc = fence_push(&r->fences, &r->fence_count, &f, e);
    if (rc == 0)
        rc = fence_push(&r->lost, &r->lost_count, &f, e);
    if (rc < 0)
        r->refuse = true;
    return rc;
}

static void lower_fence(struct fence *list, size_t count, uint64_t pack_id, uint64_t len)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].pack_id == pack_id && list[i].len > len)
            list[i].len = len;
}

void repo_fence_lower(struct repo *r, uint64_t pack_id, uint64_t len)
{
    lower_fence(r->fences, r->fence_count, pack_id, len);
    lower_fence(r->lost, r->lost_count, pack_id, len);
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].id == pack_id && r->rows[i].fence > len)
            r->rows[i].fence = len;
}

bool repo_data_lost(const struct repo *r, uint64_t pack_id, uint64_t end)
{
    for (size_t i = 0; i < r->lost_count; i++)
        if (r->lost[i].pack_id == pack_id)
            return end > r->lost[i].len;
    return false;
}

bool repo_data_is_ending(const struct repo *r, uint64_t pack_id)
{
    for (size_t i = 0; i < r->ending_count; i++)
        if (r->ending[i].pack_id == pack_id)
            return true;
    return r->sealing == pack_id;
}

static void put_fences(struct repo *r, struct log_batch *b)
{
    struct buffer body = BUFFER_INIT;

    b->fences = r->fence_count;
    for (size_t i = 0; i < SAFETY(FENCE, r->fence_count); i++) {
        buffer_clear(&body);
        fence_encode(&r->fences[i], &body);
        repo_batch_add(r, b, RECORD_FENCE, body.data, body.len, NULL);
        b->bytes.failed |= body.failed;
    }
    buffer_release(&body);
}

/* The fences that a flushed batch began with hold from now on. */
static void fences_written(struct repo *r, size_t count)
{
    struct error ignored = ERROR_INIT;
    struct pack_file f;

    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        struct catalog_pack row = {
            .id = r->fences[i].pack_id, .kind = PACK_DATA, .fence = r->fences[i].len};
        if (repo_file_known(r, row.id, &f))
            row.kind = f.kind;
        row.len = row.fence;
        repo_row_note(r, &row, &ignored); /* replay finds it again */
    }
    memmove(r->fences, r->fences + count, (r->fence_count - count) * sizeof(*r->fences));
    r->fence_count -= count;
}

/* ---- notes about packs for the catalog ---- */

int repo_row_note(struct repo *r, const struct catalog_pack *row, struct error *e)
{
    for (size_t i = 0; i < r->row_count; i++) {
        if (r->rows[i].id == row->id) {
            r->rows[i] = *row;
            return 0;
        }
    }
    struct catalog_pack *p = realloc(r->rows, (r->row_count + 1) * sizeof(*p));
    if (!p)
        return repo_no_memory(e);
    r->rows = p;
    p[r->row_count++] = *row;
    return 0;
}

/* How far the blocks of the pack are known stays as it was. */
static int put_fence_row(struct repo *r, const struct catalog_pack *row, struct error *e)
{
    struct error absent = ERROR_INIT;
    struct catalog_pack known;

    int rc = catalog_pack(r->writer, row->id, &known, &absent);
    if (rc < 0 && rc != ERR_NOTFOUND) {
        *e = absent;
        return rc;
    }
    if (rc < 0)
        known = (struct catalog_pack){.id = row->id, .kind = row->kind};
    known.fence = row->fence;
    return catalog_pack_put(r->writer, &known, e);
}

/* A data pack's row says how far its blocks are known, and goes with them. But for its fence: once
 * the catalog's position is behind that record no replay comes by it again. */
int repo_rows_put(struct repo *r, bool data, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->row_count; i++) {
        const struct catalog_pack *row = &r->rows[i];
        if (row->kind == PACK_LOG || (data && row->len > 0))
            rc = catalog_pack_put(r->writer, row, e);
        else if (row->fence)
            rc = put_fence_row(r, row, e);
    }
    return rc;
}

void repo_rows_done(struct repo *r, bool data)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->row_count; i++)
        if (!data && r->rows[i].kind != PACK_LOG)
            r->rows[kept++] = r->rows[i];
    r->row_count = kept;
}

void repo_rows_let_go(struct repo *r)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->row_count; i++) {
        struct catalog_pack *row = &r->rows[i];
        if (row->kind == PACK_DATA)
            row->len = 0;
        if (row->kind == PACK_LOG || row->fence)
            r->rows[kept++] = *row;
    }
    r->row_count = kept;
}

/* ---- new packs ---- */

static int create_pack(struct repo *r, uint8_t kind, struct pack **out, struct error *e)
{
    struct wall_time now = clock_wall();
    struct pack_header h = {.version = FORMAT_VERSION,
                            .pack_id = r->next_pack,
                            .kind = kind,
                            .id_algorithm = 1,
                            .created_s = now.s,
                            .created_ns = now.ns};

    memcpy(h.repo_id, r->id, sizeof(h.repo_id));
    r->next_pack++;
    int rc = pack_create(r->packs_fd, &h, out, e);
    if (rc < 0)
        return rc;
    rc = repo_file_add(r, kind, h.pack_id, e);
    if (rc < 0) {
        pack_close(*out);
        *out = NULL;
    }
    return rc;
}

/* The log pack takes no more: fence it off and let go of it. */
static void log_broken(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    repo_fence_add(r, r->log->id, r->log->flushed, &ignored);
    pack_close(r->log);
    r->log = NULL;
}

static int begin_log(struct repo *r, struct error *e)
{
    struct log_batch b = {.bytes = BUFFER_INIT};

    int rc = create_pack(r, PACK_LOG, &r->log, e);
    if (rc < 0)
        return rc;
    if (r->fence_count == 0)
        return 0;
    b.base = r->log->len;
    put_fences(r, &b);
    rc =
        buffer_ok(&b.bytes) ? pack_append(r->log, b.bytes.data, b.bytes.len, e) : repo_no_memory(e);
    bool written = rc == 0;
    if (written)
        rc = pack_flush(r->log, e);
    buffer_release(&b.bytes);
    if (rc == 0) {
        fences_written(r, b.fences);
        return 0;
    }
    /* A full disk may have room again later; a flush that failed is told no second time. */
    if (written)
        r->refuse = true;
    log_broken(r);
    return rc;
}

int repo_log_ready(struct repo *r, struct error *e)
{
    if (r->refuse)
        return error_set(e, ERR_FAILED,
                         "the repository takes no writes until it is opened again: a fence could "
                         "not be flushed");
    if (r->log && r->log->broken)
        log_broken(r);
    return r->log ? 0 : begin_log(r, e);
}

/* ---- batches ---- */

int repo_batch_begin(struct repo *r, struct log_batch *b, struct error *e)
{
    *b = (struct log_batch){.bytes = BUFFER_INIT};
    int rc = repo_log_ready(r, e);
    if (rc < 0)
        return rc;
    b->base = r->log->len;
    put_fences(r, b);
    return 0;
}

uint64_t repo_batch_add(struct repo *r, struct log_batch *b, uint8_t type, const void *body,
                        size_t len, uint64_t *sequence)
{
    uint64_t offset = b->base + b->bytes.len;
    uint64_t number = type == RECORD_BLOCK ? 0 : r->next_sequence++;

    record_encode(type, number, r->log->id, offset, body, len, &b->bytes);
    if (sequence)
        *sequence = number;
    return offset;
}

int repo_batch_write(struct repo *r, struct log_batch *b, bool flush, struct error *e)
{
    if (!buffer_ok(&b->bytes))
        return repo_no_memory(e);
    assert(r->log->len == b->base);
    int rc = pack_append(r->log, b->bytes.data, b->bytes.len, e);
    if (rc == 0 && flush)
        rc = pack_flush(r->log, e);
    if (rc < 0)
        log_broken(r);
    else if (flush)
        fences_written(r, b->fences);
    return rc;
}

void repo_batch_release(struct log_batch *b)
{
    buffer_release(&b->bytes);
}

void repo_fences_flush(struct repo *r)
{
    struct error ignored = ERROR_INIT;
    struct log_batch b;

    if (r->fence_count == 0 || r->refuse || repo_batch_begin(r, &b, &ignored) < 0)
        return;
    if (b.bytes.len > 0)
        repo_batch_write(r, &b, true, &ignored);
    repo_batch_release(&b);
    if (r->fence_count > 0 || r->catalog_stale)
        return;
    /* At once: who looks at the packs meanwhile would go behind the fence. */
    int rc = repo_catalog_follow(r, &ignored);
    if (rc < 0)
        repo_catalog_failed(r, rc, true);
}

bool repo_log_full(const struct repo *r)
{
    return r->log && !r->log->broken && r->log->len >= r->pack_full;
}

bool repo_log_overfull(const struct repo *r)
{
    return r->log && !r->log->broken && r->log->len >= 2 * r->pack_full;
}

int repo_log_seal(struct repo *r, const struct hash *sha256, struct error *e)
{
    struct buffer body = BUFFER_INIT;
    struct seal seal = {0};
    struct log_batch b;

    int rc = repo_batch_begin(r, &b, e);
    if (rc < 0)
        return rc;
    seal.len = b.base + b.bytes.len;
    /* With fences in front of it there is more in the pack than was hashed. */
    if (sha256 && b.bytes.len == 0)
        seal.sha256 = *sha256;
    seal_encode(&seal, &body);
    repo_batch_add(r, &b, RECORD_SEAL, body.data, body.len, NULL);
    b.bytes.failed |= body.failed;
    rc = repo_batch_write(r, &b, true, e);
    buffer_release(&body);
    repo_batch_release(&b);
    if (rc < 0)
        return rc;
    const struct catalog_pack row = {.id = r->log->id,
                                     .kind = PACK_LOG,
                                     .len = r->log->len,
                                     .sealed = true,
                                     .sha256 = seal.sha256};
    pack_close(r->log);
    r->log = NULL;
    rc = repo_row_note(r, &row, e);
    return rc == 0 ? begin_log(r, e) : rc;
}

/* ---- data packs ---- */

static void forget_unindexed(struct repo *r, uint64_t pack_id, uint64_t from)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->unindexed_count; i++) {
        struct block_place *b = &r->unindexed[i];
        if (b->pack_id == pack_id && b->end > from)
            free(b->chunks);
        else
            r->unindexed[kept++] = *b;
    }
    r->unindexed_count = kept;
}

static void data_broken(struct repo *r, const struct pack *p)
{
    struct error ignored = ERROR_INIT;

    repo_fence_add(r, p->id, p->flushed, &ignored);
    forget_unindexed(r, p->id, p->flushed);
}

static int data_ready(struct repo *r, struct error *e)
{
    if (r->refuse)
        return repo_log_ready(r, e);
    return r->data ? 0 : create_pack(r, PACK_DATA, &r->data, e);
}

static int note_grown(struct repo *r, const struct pack *p, struct error *e)
{
    const struct catalog_pack row = {.id = p->id, .kind = PACK_DATA, .len = p->flushed};
    size_t i = 0;

    while (i < r->grown_count && r->grown[i].pack_id != p->id)
        i++;
    if (i == r->grown_count) {
        struct pack_need *list = realloc(r->grown, (i + 1) * sizeof(*list));
        if (!list)
            return repo_no_memory(e);
        r->grown = list;
        r->grown_count++;
    }
    r->grown[i] = (struct pack_need){.pack_id = p->id, .len = p->flushed};
    return repo_row_note(r, &row, e);
}

/* The flush of a full pack goes on without the lock: other threads fill the next one. It gets its
 * seal when there is time. */
static int end_full(struct repo *r, struct error *e)
{
    struct pack *p = r->data;
    const struct fence known = {.pack_id = p->id, .len = p->flushed};

    int rc = fence_push(&r->ending, &r->ending_count, &known, e);
    if (rc < 0)
        return rc;
    r->data = NULL;
    r->compacted = false;
    pthread_mutex_unlock(&r->write_lock);
    rc = pack_flush(p, e);
    pthread_mutex_lock(&r->write_lock);
    fence_drop(r->ending, &r->ending_count, p->id);
    if (rc == 0)
        rc = note_grown(r, p, e);
    if (rc < 0)
        data_broken(r, p);
    pthread_cond_broadcast(&r->flushed);
    pack_close(p);
    return rc;
}

/* Have the kernel begin to write early, so that the flush at the end has less to do. */
static void begin_writeback(const struct pack *p, uint64_t before)
{
    uint64_t from = before / WRITEBACK_STEP * WRITEBACK_STEP;
    uint64_t to = p->len / WRITEBACK_STEP * WRITEBACK_STEP;

    if (to > from)
        sync_file_range(p->fd, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
}

static int remember_block(struct repo *r, struct block_place *p, struct error *e)
{
    if (r->unindexed_count == r->unindexed_cap) {
        size_t cap = r->unindexed_cap ? r->unindexed_cap * 2 : 64;
        struct block_place *list = realloc(r->unindexed, cap * sizeof(*list));
        if (!list)
            return repo_no_memory(e);
        r->unindexed = list;
        r->unindexed_cap = cap;
    }
    r->unindexed[r->unindexed_count++] = *p;
    return 0;
}

int repo_data_put(struct repo *r, struct buffer *record, struct block_place *p, struct error *e)
{
    int rc = data_ready(r, e);
    if (rc < 0)
        return rc;
    uint64_t offset = r->data->len;
    record_finish(RECORD_BLOCK, 0, r->data->id, offset, record);
    rc = buffer_ok(record) ? pack_append(r->data, record->data, record->len, e) : repo_no_memory(e);
    if (rc < 0) {
        if (r->data->broken) {
            data_broken(r, r->data);
            pack_close(r->data);
            r->data = NULL;
        }
        return rc;
    }
    p->pack_id = r->data->id;
    p->offset = offset;
    p->end = r->data->len;
    begin_writeback(r->data, offset);
    rc = remember_block(r, p, e);
    if (rc < 0)
        return rc;
    p->chunks = NULL;
    return r->data->len >= r->pack_full ? end_full(r, e) : 0;
}

int repo_data_settle(struct repo *r, struct error *e)
{
    while (r->ending_count > 0)
        pthread_cond_wait(&r->flushed, &r->write_lock);
    if (!r->data || r->data->flushed == r->data->len)
        return 0;
    int rc = pack_flush(r->data, e);
    if (rc == 0)
        return note_grown(r, r->data, e);
    data_broken(r, r->data);
    pack_close(r->data);
    r->data = NULL;
    return rc;
}

int repo_data_end(struct repo *r, struct error *e)
{
    int rc = repo_data_settle(r, e);

    if (rc == 0) {
        pack_close(r->data);
        r->data = NULL;
    }
    return rc;
}

static bool block_is_flushed(const struct repo *r, const struct block_place *b)
{
    for (size_t i = 0; i < r->grown_count; i++)
        if (r->grown[i].pack_id == b->pack_id)
            return b->end <= r->grown[i].len;
    return false;
}

uint64_t repo_data_unindexed(const struct repo *r)
{
    uint64_t chunks = 0;

    for (size_t i = 0; i < r->unindexed_count; i++)
        chunks += r->unindexed[i].count;
    return chunks;
}

int repo_data_index(struct repo *r, struct index_cursor *at, uint64_t upto, struct error *e)
{
    int rc = 0;

    for (; rc == 0 && at->next < r->unindexed_count && at->chunks < upto; at->next++) {
        const struct block_place *b = &r->unindexed[at->next];
        at->chunks += b->count;
        if (block_is_flushed(r, b))
            rc = catalog_add_block(r->writer, b->pack_id, b->offset, b->chunks, b->count,
                                   b->has_base ? &b->base : NULL, true, e);
    }
    return rc;
}

void repo_data_indexed(struct repo *r)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->unindexed_count; i++) {
        if (block_is_flushed(r, &r->unindexed[i]))
            free(r->unindexed[i].chunks);
        else
            r->unindexed[kept++] = r->unindexed[i];
    }
    r->unindexed_count = kept;
    if (kept == 0) {
        free(r->unindexed);
        r->unindexed = NULL;
        r->unindexed_cap = 0;
    }
}

int repo_data_index_now(struct repo *r, struct error *e)
{
    struct index_cursor at = {0};

    if (r->unindexed_count == 0 && r->row_count == 0)
        return 0;
    int rc = repo_data_settle(r, e);
    if (rc == 0)
        rc = catalog_begin(r->writer, e);
    if (rc < 0)
        return rc;
    rc = repo_data_index(r, &at, UINT64_MAX, e);
    if (rc == 0)
        rc = repo_rows_put(r, true, e);
    if (rc == 0)
        rc = catalog_commit(r->writer, e);
    else
        catalog_rollback(r->writer);
    if (rc == 0) {
        repo_data_indexed(r);
        repo_rows_done(r, true);
    }
    return rc;
}

void repo_packs_let_go(struct repo *r)
{
    for (size_t i = 0; i < r->unindexed_count; i++)
        free(r->unindexed[i].chunks);
    free(r->unindexed);
    free(r->rows);
    free(r->grown);
    pack_close(r->log);
    pack_close(r->data);
    r->log = r->data = NULL;
    r->unindexed = NULL;
    r->rows = NULL;
    r->grown = NULL;
    r->unindexed_count = r->unindexed_cap = r->row_count = r->grown_count = 0;
}

void repo_writing_release(struct repo *r)
{
    repo_packs_let_go(r);
    free(r->fences);
    free(r->lost);
    free(r->ending);
    free(r->doomed);
    free(r->settled);
}

/* ---- position ---- */

void repo_safe_position(const struct repo *r, const struct txn *done, struct catalog_position *p)
{
    for (const struct txn *t = r->txns; t; t = t->next) {
        if (t == done || t->spilled_count == 0)
            continue;
        const struct spilled_list *l = &t->spilled[0];
        if (l->pack_id < p->log_pack || (l->pack_id == p->log_pack && l->offset < p->log_offset)) {
            p->log_pack = l->pack_id;
            p->log_offset = l->offset;
        }
    }
}
