/* Idle work: what keeps the packs small and sound, and the files of emptied packs removed. */
#include "store/repo_private.h"

#include "base/clock.h"
#include "io/fileops.h"
#include "io/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int idle(struct repo *r, struct error *e)
{
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, e);
    if (rc == 0 && !r->txns) {
        rc = repo_data_index_now(r, e);
        repo_catalog_failed(r, rc, false);
    }
    if (rc == ERR_CATALOG)
        rc = repo_catalog_mend(r, e);
    bool full = rc == 0 && repo_log_full(r);
    pthread_mutex_unlock(&r->write_lock);
    return rc < 0 ? rc : full;
}

int repo_idle(struct repo *r, struct error *e)
{
    const struct upkeep plain = {0};
    int rc = repo_no_writer(r, e);

    if (rc == 0)
        rc = idle(r, e);
    if (rc == 1)
        rc = repo_log_switch(r, &plain, e);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    repo_catalog_checkpoint(r, true);
    rc = repo_catalog_mend(r, e);
    if (rc == 0 && r->short_of_space && !r->upkeeping)
        rc = repo_give_back(r, e);
    repo_reserve_keep(r);
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

/* ---- removing ---- */

static bool is_ripe(const struct catalog_pack *row, const struct upkeep *u, int64_t now)
{
    int64_t keep = (int64_t)u->keep_s;

    /* A clock that was set back a long way makes nobody wait for ever. */
    return row->gone && (now >= row->gone + keep || now < row->gone - keep);
}

/* Does anybody read by a state of the catalog in which the emptied packs still count? */
static bool is_read(struct repo *r)
{
    bool lent = r->txns != NULL;

    pthread_mutex_lock(&r->pool_lock);
    for (int i = 0; i < POOL_MAX; i++)
        lent |= r->pool[i].catalog && r->pool[i].lent;
    lent |= r->lease_count > 0;
    pthread_mutex_unlock(&r->pool_lock);
    return lent || (r->lock_fd >= 0 && lock_held(r->lock_fd, LOCK_LEASE_BASE, 0, true));
}

static int unlink_pack(struct repo *r, const struct catalog_pack *row, struct upkeep_result *done,
                       struct error *e)
{
    char name[40];
    struct stat st;

    pack_file_name(row->kind, row->id, name);
    if (fstatat(r->packs_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        st.st_size = 0;
    if (fileops->unlinkat(r->packs_fd, name, 0) < 0 && errno != ENOENT)
        return error_sys(e, errno, "cannot remove pack '%s'", name);
    repo_file_gone(r, row->id);
    done->packs_removed++;
    done->bytes_removed += (uint64_t)st.st_size;
    return 0;
}

static int unlink_ripe(struct repo *r, const struct catalog_pack *rows, size_t count,
                       const struct upkeep *u, struct upkeep_result *done, struct error *e)
{
    int64_t now = clock_wall().s;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++)
        if (is_ripe(&rows[i], u, now))
            rc = unlink_pack(r, &rows[i], done, e);
    if (rc == 0)
        rc = dir_sync(r->packs_fd, e);
    return rc;
}

static int forget_ripe(struct repo *r, const struct catalog_pack *rows, size_t count,
                       struct error *e)
{
    int rc = catalog_begin(r->writer, e);

    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (rows[i].gone && !repo_file_known(r, rows[i].id, NULL))
            rc = catalog_pack_forget(r->writer, rows[i].id, e);
    if (rc == 0)
        return catalog_commit(r->writer, e);
    catalog_rollback(r->writer);
    return rc;
}

static bool any_ripe(const struct catalog_pack *rows, size_t count, const struct upkeep *u)
{
    int64_t now = clock_wall().s;

    for (size_t i = 0; i < count; i++)
        if (is_ripe(&rows[i], u, now))
            return true;
    return false;
}

/* The catalog goes to the disk first: what a cut leaves of it must not be older than the packs.
 * That may take a slow disk long, and new readers wait from the lock on, for a few unlinks alone;
 * after the lock goes only what a reader had kept from it. */
static int remove_locked(struct repo *r, const struct catalog_pack *rows, size_t count,
                         const struct upkeep *u, struct upkeep_result *done, struct error *e)
{
    struct error busy = ERROR_INIT;

    bool waiting = is_read(r) || lock_held(r->lock_fd, LOCK_PACKS, 1, true);
    if (!waiting) {
        repo_catalog_checkpoint(r, false);
        waiting = lock_take(r->lock_fd, LOCK_PACKS, true, 0, &busy) < 0;
    }
    if (waiting) {
        done->waiting = true;
        return 0;
    }
    repo_catalog_checkpoint(r, false);
    int rc = unlink_ripe(r, rows, count, u, done, e);
    lock_drop(r->lock_fd, LOCK_PACKS);
    struct error why = ERROR_INIT;
    int late = forget_ripe(r, rows, count, &why);
    repo_catalog_failed(r, late, false);
    return rc;
}

static int remove_emptied(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                          struct error *e)
{
    struct catalog_pack *rows = NULL;
    size_t count = 0;

    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = catalog_packs(r->writer, &rows, &count, e);
    if (rc == 0 && any_ripe(rows, count, u))
        rc = remove_locked(r, rows, count, u, done, e);
    pthread_mutex_unlock(&r->write_lock);
    free(rows);
    return rc;
}

/* ---- what lives ---- */

static uint64_t live_part(const struct pack_use *u, uint64_t bytes)
{
    return u->all == 0 ? bytes : (uint64_t)((double)bytes * (double)u->live / (double)u->all);
}

static int sum_live(struct repo *r, const struct pack_use *uses, size_t use_count, uint64_t *bytes,
                    struct error *e)
{
    struct pack_row *rows;
    size_t count;
    int rc = repo_packs(r, &rows, &count, NULL, NULL, e);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct pack_use *u = NULL;
        for (size_t j = 0; !u && j < use_count; j++)
            u = uses[j].pack_id == rows[i].id ? &uses[j] : NULL;
        if (u)
            *bytes += live_part(u, rows[i].bytes);
        else if (rows[i].kind == PACK_LOG)
            *bytes += rows[i].bytes;
    }
    if (rc == 0)
        free(rows);
    return rc;
}

int repo_live_bytes(struct repo *r, uint64_t *bytes, struct error *e)
{
    struct pack_use *uses = NULL;
    struct catalog *c;
    size_t count = 0;

    *bytes = 0;
    int rc = repo_catalog_open(r, &c, e);
    if (rc < 0)
        return rc;
    rc = catalog_pack_uses(c, &uses, &count, e);
    repo_catalog_close(r, c);
    if (rc == 0)
        rc = sum_live(r, uses, count, bytes, e);
    free(uses);
    return rc;
}

/* ---- the whole ---- */

static bool begin(struct repo *r)
{
    pthread_mutex_lock(&r->write_lock);
    bool mine = !r->upkeeping;
    r->upkeeping = true;
    pthread_mutex_unlock(&r->write_lock);
    return mine;
}

static void end(struct repo *r, int rc)
{
    struct error ignored = ERROR_INIT;

    pthread_mutex_lock(&r->write_lock);
    r->upkeeping = false;
    r->short_of_space |= rc == ERR_NOSPACE;
    if (r->short_of_space && !r->txns)
        repo_give_back(r, &ignored); /* what it moved in vain */
    pthread_mutex_unlock(&r->write_lock);
}

static int keep_up(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                   struct error *e)
{
    int rc = repo_idle(r, e);

    if (rc == 0)
        rc = repo_seal_ended(r, u, done, e);
    if (rc == 0)
        rc = repo_checkpoint(r, u, done, e);
    if (rc == 0)
        rc = repo_compact(r, u, done, e);
    if (rc == 0)
        return remove_emptied(r, u, done, e);
    if (rc == ERR_NOSPACE) { /* what was emptied before makes some */
        struct error ignored = ERROR_INIT;
        (void)remove_emptied(r, u, done, &ignored);
    }
    return rc;
}

int repo_upkeep(struct repo *r, const struct upkeep *u, struct upkeep_result *done, struct error *e)
{
    struct upkeep_result unread;
    int rc = repo_no_writer(r, e);

    if (rc < 0)
        return rc;
    if (!done)
        done = &unread;
    *done = (struct upkeep_result){0};
    if (!begin(r))
        return error_set(e, ERR_BUSY, "the repository is being put in order already");
    rc = keep_up(r, u, done, e);
    end(r, rc);
    return rc;
}
