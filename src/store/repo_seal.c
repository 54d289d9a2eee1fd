/* Packs that have ended get their seal, with the SHA-256 of what stands before it.
 *
 * A data pack ends when it is full, or a day old; the log pack as well, and before a checkpoint.
 * Both are hashed without the lock: bytes that were written stay as they are. Whatever is between
 * the end of a pack and its seal, a crash leaves a pack without one, which is as good; a seal that
 * was torn is fenced off by the next open like any torn tail. */
#include "store/repo_private.h"

#include "base/clock.h"
#include "io/fileops.h"

#include <stdlib.h>

#include "base/banned.h"

enum {
    HASH_PIECE = 1024 * 1024,
    HASH_LOCKED_MAX = 4 * 1024 * 1024, /* the rest, hashed under the lock */
    DAY_S = 86400,
};

bool repo_upkeep_stopped(const struct upkeep *u, struct error *e)
{
    if (!u->cancel || !atomic_load_explicit(u->cancel, memory_order_relaxed))
        return false;
    error_set(e, ERR_CANCELLED, "the upkeep of the repository was interrupted");
    return true;
}

static int hash_range(const struct pack *p, struct hash_stream *s, uint64_t from, uint64_t to,
                      struct error *e)
{
    uint8_t *piece = malloc(HASH_PIECE);
    int rc = piece ? 0 : repo_no_memory(e);

    while (rc == 0 && from < to) {
        size_t n = to - from < HASH_PIECE ? (size_t)(to - from) : HASH_PIECE;
        rc = file_read_all(p->fd, piece, n, from, e);
        if (rc == 0)
            hash_stream_update(s, piece, n);
        from += n;
    }
    free(piece);
    return rc;
}

/* ---- the log ---- */

/* How far the log pack with this id goes; 0: it is no longer the one that is written. */
static uint64_t log_end(struct repo *r, uint64_t id)
{
    pthread_mutex_lock(&r->write_lock);
    uint64_t end = r->log && r->log->id == id && !r->log->broken ? r->log->len : 0;
    pthread_mutex_unlock(&r->write_lock);
    return end;
}

static int seal_log(struct repo *r, uint64_t id, const struct pack *p, struct hash_stream *s,
                    uint64_t hashed, struct error *e)
{
    struct hash sha256;
    int rc = 0;

    pthread_mutex_lock(&r->write_lock);
    if (r->log && r->log->id == id && !r->log->broken) {
        rc = hash_range(p, s, hashed, r->log->len, e);
        hash_stream_final(s, &sha256);
        if (rc == 0)
            rc = repo_catalog_mend(r, e);
        if (rc == 0)
            rc = repo_log_seal(r, &sha256, e);
        if (rc == 0 && repo_catalog_follow(r, e) < 0)
            repo_catalog_failed(r, e->code, true);
        repo_fences_flush(r);
    }
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

int repo_log_switch(struct repo *r, const struct upkeep *u, struct error *e)
{
    struct hash_stream *s = hash_stream_new();
    struct pack *p = NULL;
    uint64_t id, end, hashed = 0;

    pthread_mutex_lock(&r->write_lock);
    int rc = s ? repo_log_ready(r, e) : repo_no_memory(e);
    id = rc == 0 ? r->log->id : 0;
    pthread_mutex_unlock(&r->write_lock);
    if (rc == 0)
        rc = repo_pack_get(r, id, &p, e);
    while (rc == 0 && (end = log_end(r, id)) > 0 &&
           (hashed == 0 || end - hashed > HASH_LOCKED_MAX)) {
        rc = hash_range(p, s, hashed, end, e);
        hashed = end;
        if (rc == 0 && repo_upkeep_stopped(u, e))
            rc = e->code;
    }
    if (rc == 0)
        rc = seal_log(r, id, p, s, hashed, e);
    repo_pack_put(r, p);
    hash_stream_free(s);
    return rc;
}

static bool log_is_old(struct repo *r)
{
    pthread_mutex_lock(&r->write_lock);
    bool old = r->log && !r->log->broken && r->log->len > PACK_HEADER_LEN &&
               (repo_log_full(r) || clock_wall().s - r->log->created_s >= DAY_S);
    pthread_mutex_unlock(&r->write_lock);
    return old;
}

/* ---- data packs ---- */

static int append_seal(struct pack *p, const struct hash *sha256, struct error *e)
{
    struct buffer body = BUFFER_INIT, record = BUFFER_INIT;
    const struct seal seal = {.len = p->len, .sha256 = *sha256};

    seal_encode(&seal, &body);
    record_encode(RECORD_SEAL, 0, p->id, p->len, body.data, body.len, &record);
    int rc = buffer_ok(&record) && buffer_ok(&body) ? pack_append(p, record.data, record.len, e)
                                                    : repo_no_memory(e);
    if (rc == 0)
        rc = pack_flush(p, e);
    buffer_release(&body);
    buffer_release(&record);
    return rc;
}

static bool has_ended(struct repo *r, const struct catalog_pack *row)
{
    struct pack_file f;
    char name[40];
    struct stat st;

    if (row->kind != PACK_DATA || row->sealed || row->fence || row->gone || row->len == 0 ||
        !repo_file_known(r, row->id, &f) || (r->data && r->data->id == row->id) ||
        repo_data_lost(r, row->id, UINT64_MAX))
        return false;
    for (size_t i = 0; i < r->row_count; i++)
        if (r->rows[i].id == row->id)
            return false; /* there is news about it that the catalog does not know yet */
    pack_file_name(PACK_DATA, row->id, name);
    return fstatat(r->packs_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           (uint64_t)st.st_size == row->len;
}

/* 1: it is still one that has ended, and nobody goes on with it while it is sealed. */
static int begin_seal(struct repo *r, const struct catalog_pack *row)
{
    pthread_mutex_lock(&r->write_lock);
    bool may = has_ended(r, row);
    r->sealing = may ? row->id : 0;
    pthread_mutex_unlock(&r->write_lock);
    return may;
}

/* rc: how the writing of the seal went. */
static int end_seal(struct repo *r, const struct catalog_pack *row,
                    const struct catalog_pack *sealed, int rc, struct error *e)
{
    struct error ignored = ERROR_INIT;

    pthread_mutex_lock(&r->write_lock);
    r->sealing = 0;
    if (rc == 0) {
        rc = repo_row_note(r, sealed, e);
    } else if (sealed->sealed) {
        repo_fence_add(r, row->id, row->len, &ignored);
        repo_fences_flush(r);
    }
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

/* 1: it has got its seal; 0: another save goes on with it. */
static int seal_data(struct repo *r, const struct catalog_pack *row, struct error *e)
{
    struct catalog_pack sealed = *row;
    struct hash_stream *s = NULL;
    struct pack *p = NULL;

    if (!begin_seal(r, row))
        return 0;
    int rc = pack_open(r->packs_fd, PACK_DATA, row->id, r->id, true, &p, e);
    if (rc == 0 && !(s = hash_stream_new()))
        rc = repo_no_memory(e);
    if (rc == 0)
        rc = hash_range(p, s, 0, row->len, e);
    if (rc == 0) {
        hash_stream_final(s, &sealed.sha256);
        sealed.sealed = true;
        p->len = p->flushed = row->len;
        rc = append_seal(p, &sealed.sha256, e);
        sealed.len = p->len;
    }
    rc = end_seal(r, row, &sealed, rc, e);
    pack_close(p);
    hash_stream_free(s);
    return rc < 0 ? rc : 1;
}

/* Packs that have ended without a seal, into *list. */
static int list_ended(struct repo *r, bool pressed, struct catalog_pack **list, size_t *count,
                      struct error *e)
{
    size_t kept = 0;

    *list = NULL;
    *count = 0;
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, e);
    if (rc == 0 && !r->txns && r->data && r->data->len > PACK_HEADER_LEN &&
        (pressed || clock_wall().s - r->data->created_s >= DAY_S))
        rc = repo_data_end(r, e);
    if (rc == 0 && !r->txns)
        rc = repo_data_index_now(r, e);
    repo_catalog_failed(r, rc, false);
    if (rc == 0)
        rc = catalog_packs(r->writer, list, count, e);
    for (size_t i = 0; rc == 0 && !r->txns && i < *count; i++)
        if (has_ended(r, &(*list)[i]))
            (*list)[kept++] = (*list)[i];
    *count = kept;
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

int repo_seal_ended(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                    struct error *e)
{
    struct catalog_pack *list;
    size_t count;

    int rc = log_is_old(r) ? repo_log_switch(r, u, e) : 0;
    if (rc < 0)
        return rc;
    rc = list_ended(r, u->pressed, &list, &count, e);
    for (size_t i = 0; rc >= 0 && i < count; i++) {
        if (repo_upkeep_stopped(u, e))
            rc = e->code;
        else
            rc = seal_data(r, &list[i], e);
        done->packs_sealed += rc == 1;
    }
    free(list);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    rc = repo_catalog_mend(r, e);
    if (rc == 0 && !r->txns)
        rc = repo_data_index_now(r, e);
    repo_catalog_failed(r, rc, false);
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}
