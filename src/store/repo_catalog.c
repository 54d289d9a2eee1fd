/* The handle's connections to its catalog, and making catalog.db anew.
 *
 * Reading connections are kept in a small pool; when the catalog is made anew a generation ends and
 * those of the old one are closed as they come back. A damaged file is set aside, never retried.
 *
 * What a writer elsewhere makes anew a reader learns from the file: it has another inode. While it
 * is being made it has a part of the rows only, and what was read from the old one does not fit to
 * it: hence a reader's connections are all of one file, and it goes over to the new one as a whole.
 */
#include "store/repo_private.h"

#include "io/fileops.h"
#include "store/chunk_list.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

/* ---- which file it is ---- */

static struct stat file_now(const struct repo *r)
{
    struct stat st;

    if (fstatat(r->dirfd, CATALOG_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return (struct stat){0};
    return st;
}

void repo_catalog_remember(struct repo *r)
{
    struct stat st = file_now(r);

    r->catalog_dev = st.st_dev;
    r->catalog_ino = st.st_ino;
}

/* The handle's own connection keeps the number from being given to another file. */
bool repo_catalog_moved(const struct repo *r)
{
    if (r->mode != REPO_READ || r->in_memory)
        return false;
    struct stat st = file_now(r);
    return st.st_dev != r->catalog_dev || st.st_ino != r->catalog_ino;
}

/* ---- connections to the catalog ---- */

static struct pool_entry *pool_find(struct repo *r, const struct catalog *c)
{
    for (int i = 0; i < POOL_MAX; i++)
        if (r->pool[i].catalog == c)
            return &r->pool[i];
    return NULL;
}

static struct catalog *pool_take(struct repo *r)
{
    for (int i = 0; i < POOL_MAX; i++) {
        struct pool_entry *p = &r->pool[i];
        if (p->catalog && !p->lent && p->generation == r->generation) {
            p->lent = true;
            return p->catalog;
        }
    }
    return NULL;
}

void repo_pool_drop(struct pool_entry *p)
{
    catalog_close(p->catalog);
    *p = (struct pool_entry){0};
}

static void pool_drop_idle(struct repo *r)
{
    for (int i = 0; i < POOL_MAX; i++)
        if (r->pool[i].catalog && !r->pool[i].lent)
            repo_pool_drop(&r->pool[i]);
}

/* Where the name leads to the same file afterwards it did so all the time. */
static int connect_to(struct repo *r, struct catalog **out, struct error *e)
{
    int rc = catalog_clone(r->writer ? r->writer : r->catalog, out, e);

    if (!repo_catalog_moved(r))
        return rc;
    catalog_close(*out);
    *out = NULL;
    return error_set(e, ERR_CATALOG, "catalog: it was made anew meanwhile");
}

int repo_catalog_lend(struct repo *r, struct catalog **out, struct error *e)
{
    int rc = 0;

    *out = NULL;
    pthread_mutex_lock(&r->pool_lock);
    while (r->renewing)
        pthread_cond_wait(&r->renewed, &r->pool_lock);
    if (r->half_made)
        rc = error_set(e, ERR_CATALOG, "catalog: it could not be made anew");
    else if (!(*out = pool_take(r)))
        rc = connect_to(r, out, e);
    struct pool_entry *p = rc == 0 && !pool_find(r, *out) ? pool_find(r, NULL) : NULL;
    if (p)
        *p = (struct pool_entry){.catalog = *out, .generation = r->generation, .lent = true};
    pthread_mutex_unlock(&r->pool_lock);
    return rc;
}

void repo_catalog_return(struct repo *r, struct catalog *c)
{
    if (!c)
        return;
    catalog_read_end(c);
    catalog_set_list_reader(c, NULL, NULL);
    pthread_mutex_lock(&r->pool_lock);
    struct pool_entry *p = pool_find(r, c);
    bool current = !p || p->generation == r->generation;
    r->unsound |= current && catalog_failed(c);
    if (!p)
        catalog_close(c);
    else if (!current || catalog_failed(c))
        repo_pool_drop(p);
    else
        p->lent = false;
    pthread_mutex_unlock(&r->pool_lock);
}

int repo_catalog_open(struct repo *r, struct catalog **out, struct error *e)
{
    return repo_catalog_lend(r, out, e);
}

void repo_catalog_close(struct repo *r, struct catalog *c)
{
    repo_catalog_return(r, c);
}

/* ---- making the catalog anew ---- */

static int remove_file(struct repo *r, const char *name, struct error *e)
{
    if (fileops->unlinkat(r->dirfd, name, 0) == 0 || errno == ENOENT)
        return 0;
    return error_sys(e, errno, "cannot remove '%s'", name);
}

/* One damaged catalog is kept for study, not a row of them. */
static void remove_older_asides(struct repo *r)
{
    static const char prefix[] = CATALOG_FILE ".damaged-";
    struct error ignored = ERROR_INIT;
    struct dirent *entry;

    DIR *dir = repo_dir_open(r->dirfd, ".", &ignored);
    while (dir && (entry = readdir(dir)))
        if (strncmp(entry->d_name, prefix, sizeof(prefix) - 1) == 0)
            remove_file(r, entry->d_name, &ignored);
    if (dir)
        closedir(dir);
}

static int rename_aside(struct repo *r, const char *suffix, int64_t now, struct error *e)
{
    char from[64], to[128];

    snprintf(from, sizeof(from), CATALOG_FILE "%s", suffix);
    snprintf(to, sizeof(to), CATALOG_FILE ".damaged-%" PRId64 "%s", now, suffix);
    if (fileops->renameat2(r->dirfd, from, r->dirfd, to, 0) == 0 || errno == ENOENT)
        return 0;
    return error_sys(e, errno, "cannot set '%s' aside", from);
}

/* The WAL goes last: an SQLite that finds it beside an empty database throws it away. */
int repo_catalog_set_aside(struct repo *r, bool keep, struct error *e)
{
    struct error ignored = ERROR_INIT;
    int64_t now = clock_wall().s;
    int rc;

    if (keep) {
        remove_older_asides(r);
        rc = rename_aside(r, "", now, e);
        if (rc == 0)
            rc = rename_aside(r, "-wal", now, e);
    } else {
        rc = remove_file(r, CATALOG_FILE, e);
        if (rc == 0)
            rc = remove_file(r, CATALOG_FILE "-wal", e);
    }
    if (rc == 0)
        rc = remove_file(r, CATALOG_FILE "-shm", e);
    dir_sync(r->dirfd, &ignored); /* power that goes now should not bring it back */
    return rc;
}

/* List chunks for the writing connection: those of the save being committed are not in a pack
 * yet. */
static int writer_read_list(void *ctx, const struct hash *id, struct chunk_ref **refs,
                            uint32_t *count, struct error *e)
{
    struct repo *r = ctx;
    const uint8_t *p;
    size_t len;

    if (r->committing && txn_find_list(r->committing, id, &p, &len))
        return chunk_list_decode(p, len, refs, count, e);
    return repo_read_list(r->writer_source, id, refs, count, e);
}

int repo_catalog_open_writer(struct repo *r, struct error *e)
{
    int rc = r->writer ? catalog_reopen(r->writer, e)
                       : catalog_open(r->path, CATALOG_WRITE, false, r->id, &r->writer, e);
    if (rc < 0)
        return rc;
    if (!r->writer_source && !(r->writer_source = chunk_source_over(r, r->writer)))
        return repo_no_memory(e);
    catalog_set_list_reader(r->writer, writer_read_list, r);
    return 0;
}

/* Connections that are lent stay with the old file until they come back; the handle's own one
 * follows when it is asked for next. pool_lock is held. */
static void end_generation(struct repo *r)
{
    r->generation++;
    r->unsound = false;
    pool_drop_idle(r);
}

static void retire_readers(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    end_generation(r);
    pthread_mutex_unlock(&r->pool_lock);
}

/* While it has a part of its rows only, who asks for a connection waits. */
static void begin_renewal(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    r->renewing = true;
    pthread_mutex_unlock(&r->pool_lock);
}

static void end_renewal(struct repo *r, int rc)
{
    pthread_mutex_lock(&r->pool_lock);
    end_generation(r);
    r->renewing = false;
    r->half_made = rc < 0;
    pthread_cond_broadcast(&r->renewed);
    pthread_mutex_unlock(&r->pool_lock);
}

/* Whoever asks for a connection waits until the file is whole: before, it shows a state of the
 * past, without marks that were set since. */
static int renew(struct repo *r, bool keep, struct error *e)
{
    begin_renewal(r);
    if (r->writer)
        catalog_keep_wal(r->writer);
    int rc = repo_catalog_set_aside(r, keep, e);
    if (rc == 0)
        rc = repo_catalog_open_writer(r, e);
    if (rc == 0)
        rc = repo_replay(r, r->writer, true, e);
    end_renewal(r, rc);
    r->catalog_stale = rc < 0;
    r->catalog_broken = rc == ERR_CATALOG;
    return rc;
}

int repo_catalog_renew(struct repo *r, bool keep, struct error *e)
{
    int rc = renew(r, keep, e);

    if (rc != ERR_NOSPACE)
        return rc;
    remove_older_asides(r);
    repo_reserve_give(r);
    rc = renew(r, false, e);
    repo_reserve_keep(r);
    return rc;
}

void repo_catalog_is_whole(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    r->half_made = false;
    pthread_mutex_unlock(&r->pool_lock);
}

static int catch_up(struct repo *r, struct error *e)
{
    int rc = catalog_reopen(r->writer, e);

    if (rc == 0)
        rc = repo_replay_needed(r, r->writer, e);
    if (rc >= 0)
        rc = repo_replay(r, r->writer, true, e);
    if (rc == 0)
        repo_catalog_is_whole(r);
    return rc;
}

/* Never the same file again after it failed us, unless it only was full. */
int repo_catalog_mend(struct repo *r, struct error *e)
{
    int rc = repo_begin_anew(r, e);
    if (rc < 0 || !r->catalog_stale)
        return rc;
    rc = repo_files_scan(r, e);
    if (rc < 0)
        return rc;
    if (!r->catalog_broken) {
        rc = catch_up(r, e);
        if (rc == ERR_NOSPACE && repo_reserve_give(r)) {
            rc = catch_up(r, e);
            repo_reserve_keep(r);
        }
        if (rc != ERR_CATALOG) {
            r->catalog_stale = rc < 0;
            return rc;
        }
    }
    repo_notice(r, "catalog made anew from the packs: it had failed");
    return repo_catalog_renew(r, true, e);
}

int repo_catalog_again(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;

    repo_notice(r, "catalog made anew from the packs: %s", e->message);
    int rc = repo_files_scan(r, &why);
    if (rc == 0)
        rc = repo_catalog_renew(r, true, &why);
    if (rc < 0)
        *e = why;
    return rc;
}

struct catalog_try repo_catalog_try(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    struct catalog_try t = {.generation = r->generation};
    pthread_mutex_unlock(&r->pool_lock);
    return t;
}

/* Who began with one that has been made anew since has met another one that failed. */
static int replace_writers(struct repo *r, struct catalog_try *t)
{
    struct error e = ERROR_INIT;
    int rc = 0;

    error_set(&e, ERR_CATALOG, "it failed");
    pthread_mutex_lock(&r->write_lock);
    struct catalog_try now = repo_catalog_try(r);
    now.done = now.generation == t->generation || r->catalog_stale;
    if (now.done)
        rc = repo_catalog_again(r, &e);
    pthread_mutex_unlock(&r->write_lock);
    *t = now;
    return rc;
}

/* Once to the file that took the place of the old one; what fails again is done without. */
static int replace_readers(struct repo *r)
{
    struct error e = ERROR_INIT;
    bool other = repo_catalog_moved(r) && !r->catalog_changed;

    retire_readers(r);
    chunk_source_close(r->memory_source);
    catalog_close(r->catalog);
    r->memory_source = NULL;
    r->catalog = NULL;
    r->catalog_generation = r->generation;
    r->catalog_changed = true;
    int rc = repo_files_scan(r, &e);
    if (rc == 0)
        rc = other ? repo_catalog_open_reader(r, &e) : repo_read_packs(r, "the catalog failed", &e);
    return rc;
}

bool repo_catalog_replaced(struct repo *r, int rc, struct catalog_try *t)
{
    if (rc != ERR_CATALOG || t->done || r->in_memory)
        return false;
    if (r->mode == REPO_WRITE)
        return replace_writers(r, t) == 0;
    bool replaced = replace_readers(r) == 0;
    t->done = !replaced || r->in_memory;
    return replaced;
}

static int check_all(struct repo *r, struct error *e)
{
    struct catalog *c;

    int rc = repo_catalog_lend(r, &c, e);
    if (rc < 0)
        return rc;
    rc = catalog_check(c, e);
    repo_catalog_return(r, c);
    return rc;
}

int repo_catalog_check(struct repo *r, bool all, struct error *e)
{
    int rc = all && !r->in_memory ? check_all(r, e) : 0;

    pthread_mutex_lock(&r->pool_lock);
    if (rc == 0 && (r->unsound || catalog_failed(r->catalog)))
        rc = error_set(e, ERR_CATALOG, "catalog: it could not be read");
    pthread_mutex_unlock(&r->pool_lock);
    return rc;
}

void repo_catalog_failed(struct repo *r, int rc, bool behind)
{
    r->catalog_stale |= behind || rc == ERR_CATALOG;
    r->catalog_broken |= rc == ERR_CATALOG;
}
