/* Opening and closing a repository, and which catalog a handle works with.
 *
 *   format       text: what this is, version, repository id; the last file that init makes
 *   lock         byte locks (io/lock.h), content: the service's socket
 *   packs/       the truth
 *   catalog.db   the index
 *
 * A writer uses catalog.db, made again when it is missing, damaged or not of these packs. A reader
 * uses it as it lies while nobody writes, by SQLite's locks beside a writer, and otherwise a copy
 * in memory, brought up to date or made from the packs. */
#include "store/repo_private.h"

#include "base/parse.h"
#include "base/random.h"
#include "base/safety.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "io/lock.h"
#include "io/safe_path.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    POLL_MS = 10,
    POLL_TIMES = 100, /* how long a reader waits for a writer to fold in what it flushed */
    LOCK_TRIES = 10,
    PACKS_WAIT_MS = 60000,
};

int repo_no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

void repo_notice(struct repo *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (!r->notice)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    r->notice(r->notice_ctx, text);
}

int repo_no_writer(const struct repo *r, struct error *e)
{
    return r->mode == REPO_WRITE
               ? 0
               : error_set(e, ERR_DENIED, "the repository is open for reading only");
}

/* ---- the lock file ---- */

static int open_lock(struct repo *r, bool writing, struct error *e)
{
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (writing ? O_RDWR | O_CREAT : O_RDONLY);

    int fd = fileops->openat(r->dirfd, LOCK_FILE, flags, 0600);
    if (fd < 0 && writing)
        error_sys(e, errno, "cannot open the lock of the repository");
    return fd;
}

/* Whether the name still leads to the file that we hold a lock on. */
static bool lock_is_current(const struct repo *r, int fd)
{
    struct stat held, named;

    return fstat(fd, &held) == 0 && held.st_nlink > 0 &&
           fstatat(r->dirfd, LOCK_FILE, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

/* The socket that a service which is gone had written there. */
static void clear_lock_file(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_size > 0)
        fileops->ftruncate(fd, 0);
}

static int take_writer_lock(struct repo *r, unsigned wait_ms, struct error *e)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        r->lock_fd = open_lock(r, true, e);
        if (r->lock_fd < 0)
            return e->code;
        int rc = SAFETY(WRITER_LOCK, lock_take(r->lock_fd, LOCK_WRITER, true, wait_ms, e));
        if (rc == ERR_BUSY)
            return error_set(e, rc, "the repository is in use by another watchkeep");
        if (rc < 0)
            return rc;
        if (lock_is_current(r, r->lock_fd)) {
            clear_lock_file(r->lock_fd);
            return 0;
        }
        fileops->close(r->lock_fd);
        r->lock_fd = -1;
    }
    return error_set(e, ERR_BUSY, "the lock of the repository is being replaced");
}

static bool writer_is_there(const struct repo *r)
{
    return r->lock_fd >= 0 && lock_held(r->lock_fd, LOCK_WRITER, 1, false);
}

/* ---- opening for writing ---- */

static int check_owner(struct repo *r, struct error *e)
{
    struct stat st;

    if (fstat(r->dirfd, &st) < 0)
        return error_sys(e, errno, "cannot look at the repository");
    if (st.st_uid != geteuid())
        return error_set(e, ERR_DENIED, "the repository belongs to user %u, only they write it",
                         (unsigned)st.st_uid);
    return 0;
}

/* What a catalog that goes aside knew to be used stays used. */
static void keep_numbers(struct repo *r)
{
    struct catalog_position p;
    struct error ignored = ERROR_INIT;

    if (!r->writer || catalog_position(r->writer, &p, &ignored) < 0)
        return;
    if (r->next_number < p.next_number)
        r->next_number = p.next_number;
    if (r->next_sequence <= p.sequence)
        r->next_sequence = p.sequence + 1;
}

static bool packs_hold_records(const struct repo *r)
{
    for (size_t i = 0; i < r->file_count; i++)
        if (r->files[i].size > PACK_HEADER_LEN)
            return true;
    return false;
}

static void without_catalog(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    repo_catalog_set_aside(r, false, &ignored); /* a WAL without its database */
    if (packs_hold_records(r))
        repo_notice(r, "catalog made anew from the packs: there was none");
}

/* What a save left that found the disk full goes before the catalog grows; but for commits that it
 * does not know yet: they may need what it takes for dead. While somebody reads it waits for idle
 * time. */
static void give_back_if_short(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    if (!repo_space_is_short(r))
        return;
    r->short_of_space = true;
    repo_give_back(r, &ignored);
}

/* One that cannot be had is in the way of a rebuild only, which sets it aside: nobody else knows
 * whether somebody is about to mend it. */
static int open_file_of_writer(struct repo *r, struct error *e)
{
    char quoted[300];

    if (r->distrust || r->catalog_broken)
        return error_set(e, ERR_CATALOG, "it failed");
    int rc = repo_catalog_open_writer(r, e);
    const struct error why = *e;
    if (rc != ERR_DENIED)
        return rc;
    if (r->past_unread)
        return error_set(e, ERR_CATALOG, "%s", why.message);
    return error_set(e, rc,
                     "%s: let the repository's owner read and write '%s/" CATALOG_FILE "', or have "
                     "it made anew: watchkeep rebuild",
                     why.message, text_escape(r->path, quoted, sizeof(quoted)));
}

static int open_catalog(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;
    struct stat st;

    if (fstatat(r->dirfd, CATALOG_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        without_catalog(r);
    int rc = open_file_of_writer(r, &why);
    if (rc == 0)
        rc = repo_replay_needed(r, r->writer, &why);
    if (rc == ERR_CATALOG)
        keep_numbers(r);
    bool news = rc == 1;
    if (rc == 0)
        give_back_if_short(r);
    if (rc >= 0)
        rc = repo_replay(r, r->writer, true, &why);
    if (rc == 0) {
        repo_catalog_is_whole(r);
        rc = repo_forget_cut(r, &why);
    }
    if (rc == 0 && news)
        give_back_if_short(r);
    if (rc == ERR_CATALOG) {
        repo_losses_note(r);
        repo_notice(r, "catalog made anew from the packs: %s", why.message);
        rc = repo_catalog_renew(r, true, e);
    } else if (rc < 0) {
        *e = why;
    }
    return rc;
}

int repo_begin_anew(struct repo *r, struct error *e)
{
    if (!r->refuse || r->txns || r->ending_count > 0)
        return 0;
    repo_packs_let_go(r); /* what broke stays broken: its fences go on to wait */
    r->refuse = false;
    int rc = repo_files_scan(r, e);
    if (rc == 0)
        rc = open_catalog(r, e);
    r->catalog_stale = rc < 0;
    if (rc == 0)
        repo_fences_flush(r);
    r->refuse |= rc < 0;
    return rc;
}

static int open_for_writing(struct repo *r, struct error *e)
{
    int rc = open_catalog(r, e);
    if (rc == ERR_NOSPACE && repo_reserve_give(r))
        rc = open_catalog(r, e);
    if (rc < 0)
        return rc;
    repo_reserve_keep(r);
    /* A fence, or a new log pack, while there is time; else the next write sees to it. */
    repo_fences_flush(r);
    repo_losses_settle(r);
    r->catalog_generation = r->generation;
    return catalog_clone(r->writer, &r->catalog, e);
}

/* ---- opening for reading ---- */

static off_t size_of(struct repo *r, const char *name)
{
    struct stat st;

    return fstatat(r->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_size : -1;
}

/* Nobody writes, and nobody changes the file until we close: it can be read without any lock of
 * SQLite's, for which it would have to make files. */
static bool may_read_static(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    if (r->lock_fd >= 0 && lock_take(r->lock_fd, LOCK_CATALOG, false, 0, &ignored) < 0)
        return false;
    if (!writer_is_there(r) && size_of(r, CATALOG_FILE "-wal") <= 0)
        return true;
    if (r->lock_fd >= 0)
        lock_drop(r->lock_fd, LOCK_CATALOG);
    return false;
}

/* 0: up to date, 1: behind the packs, negative: not to be used. */
static int wait_for_writer(struct repo *r, struct catalog *c, struct error *e)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    int rc = repo_replay_needed(r, c, e);

    if (rc == ERR_CATALOG && writer_is_there(r)) { /* packs have come since they were listed */
        rc = repo_files_scan(r, e);
        if (rc == 0)
            rc = repo_replay_needed(r, c, e);
    }
    for (int i = 0; rc == 1 && i < POLL_TIMES && writer_is_there(r); i++) {
        nanosleep(&pause, NULL);
        rc = repo_files_scan(r, e);
        if (rc == 0)
            rc = repo_replay_needed(r, c, e);
    }
    return rc;
}

static int use_memory(struct repo *r, struct catalog *memory, struct error *e)
{
    r->memory_source = chunk_source_over(r, memory);
    if (!r->memory_source) {
        catalog_close(memory);
        return repo_no_memory(e);
    }
    catalog_set_list_reader(memory, repo_read_list, r->memory_source);
    r->catalog = memory;
    r->in_memory = true;
    int rc = repo_replay(r, memory, false, e);
    catalog_set_list_reader(memory, NULL, NULL);
    return rc;
}

int repo_read_packs(struct repo *r, const char *why, struct error *e)
{
    struct catalog *memory;

    repo_notice(r, "reading the packs into memory: %s", why);
    int rc = catalog_open(r->path, CATALOG_MEMORY, false, r->id, &memory, e);
    return rc < 0 ? rc : use_memory(r, memory, e);
}

/* A writer may make it anew just now: all that is opened later has to be of the same file. */
static int open_file(struct repo *r, struct catalog **c, struct error *e)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        error_clear(e);
        repo_catalog_remember(r);
        enum catalog_mode mode = may_read_static(r) ? CATALOG_READ_STATIC : CATALOG_READ;
        int rc = catalog_open(r->path, mode, false, r->id, c, e);
        if (!repo_catalog_moved(r))
            return rc;
        catalog_close(*c);
        *c = NULL;
    }
    return error_set(e, ERR_CATALOG, "the catalog is being made anew");
}

int repo_catalog_open_reader(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;
    struct catalog *c = NULL, *memory = NULL;

    if (r->distrust)
        return repo_read_packs(r, "the catalog failed", e);
    if (size_of(r, CATALOG_FILE) <= 0)
        return repo_read_packs(r, "there is no catalog", e);
    int rc = open_file(r, &c, &why);
    if (rc == 0)
        rc = wait_for_writer(r, c, &why);
    if (rc == 0) {
        r->catalog = c;
        return 0;
    }
    if (rc == 1)
        rc = catalog_copy(c, &memory, &why);
    catalog_close(c);
    if (rc == 0)
        return use_memory(r, memory, e);
    return repo_read_packs(r, why.message, e);
}

/* ---- open and close ---- */

static void read_host_id(uint8_t id[16])
{
    static const char salt[] = "watchkeep host ";
    struct error ignored = ERROR_INIT;
    struct buffer text = BUFFER_INIT;
    struct hash hash;

    int etc = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    buffer_append_str(&text, salt);
    if (etc >= 0 && small_file_read(etc, "machine-id", 64, &text, &ignored) == 0 &&
        buffer_ok(&text)) {
        hash_sha256(text.data, text.len, &hash);
        memcpy(id, hash.b, 16);
    }
    if (etc >= 0)
        close(etc);
    buffer_release(&text);
}

static int open_common(struct repo *r, const char *path, struct error *e)
{
    r->path = realpath(path, NULL);
    if (!r->path) {
        int sys = errno;
        error_sys(e, sys, "cannot open the repository '%s'", path);
        return sys == ENOENT || sys == ENOTDIR ? (e->code = ERR_NOREPO) : e->code;
    }
    r->dirfd = repo_folder_open(r->path, e);
    if (r->dirfd < 0)
        return e->code;
    int rc = repo_format_read(r->dirfd, r->mode == REPO_WRITE, r->id, e);
    if (rc < 0)
        return rc;
    r->packs_fd =
        fileops->openat(r->dirfd, PACKS_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (r->packs_fd < 0) {
        int sys = errno;
        error_sys(e, sys, "cannot open the folder of packs");
        return sys == ENOENT ? (e->code = ERR_NOREPO) : e->code;
    }
    r->pack_full = repo_pack_full(r);
    return 0;
}

static struct repo *new_repo(enum repo_mode mode, const struct repo_options *opt)
{
    struct repo *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->dirfd = r->packs_fd = r->lock_fd = -1;
    r->mode = mode;
    r->codec = opt ? opt->codec : CODEC_ZSTD;
    r->distrust = opt && opt->distrust;
    r->past_unread = opt && opt->past_unread;
    r->keeps_reserve = opt && opt->reserve;
    r->notice = opt ? opt->notice : NULL;
    r->notice_ctx = opt ? opt->ctx : NULL;
    r->next_sequence = r->next_number = 1;
    if (mode == REPO_WRITE && !(r->bases = base_cache_new(BASES_LEN))) {
        free(r);
        return NULL;
    }
    pthread_mutex_init(&r->pool_lock, NULL);
    pthread_mutex_init(&r->write_lock, NULL);
    pthread_mutex_init(&r->packs_lock, NULL);
    pthread_cond_init(&r->flushed, NULL);
    pthread_cond_init(&r->renewed, NULL);
    return r;
}

static int open_writing_end(struct repo *r, unsigned wait_ms, struct error *e)
{
    int rc = check_owner(r, e);

    if (rc == 0)
        rc = take_writer_lock(r, wait_ms, e);
    if (rc == 0)
        rc = repo_files_scan(r, e);
    if (rc == 0) {
        read_host_id(r->host_id);
        rc = open_for_writing(r, e);
    }
    return rc;
}

static int open_reading_end(struct repo *r, struct error *e)
{
    struct error ignored = ERROR_INIT;

    r->lock_fd = open_lock(r, false, e);
    /* The writer holds it for no longer than it takes to unlink a few files and flush the folder.
     * A reader that went on without would be one for whom no pack stays. */
    if (r->lock_fd >= 0)
        lock_take(r->lock_fd, LOCK_PACKS, false, PACKS_WAIT_MS, &ignored);
    int rc = repo_files_scan(r, e);
    return rc == 0 ? repo_catalog_open_reader(r, e) : rc;
}

int repo_open(const char *path, enum repo_mode mode, const struct repo_options *opt,
              struct repo **out, struct error *e)
{
    *out = NULL;
    struct repo *r = new_repo(mode, opt);
    if (!r)
        return repo_no_memory(e);
    int rc = open_common(r, path, e);
    if (rc == 0)
        rc = mode == REPO_WRITE ? open_writing_end(r, opt ? opt->wait_ms : 0, e)
                                : open_reading_end(r, e);
    if (rc < 0) {
        repo_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* The file itself changes only while no reader relies on its standing still. */
static bool may_change_catalog_file(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    return r->lock_fd >= 0 && lock_take(r->lock_fd, LOCK_CATALOG, true, 0, &ignored) == 0;
}

void repo_catalog_checkpoint(struct repo *r, bool goes_on)
{
    struct error e = ERROR_INIT;

    if (!r->writer || !may_change_catalog_file(r))
        return;
    int rc = catalog_checkpoint(r->writer, goes_on, &e);
    lock_drop(r->lock_fd, LOCK_CATALOG);
    repo_catalog_failed(r, rc, false);
}

static void close_catalogs(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    for (int i = 0; i < POOL_MAX; i++)
        repo_pool_drop(&r->pool[i]);
    chunk_source_close(r->memory_source);
    chunk_source_close(r->writer_source);
    catalog_close(r->catalog);
    if (!r->writer)
        return;
    if (!r->catalog_broken && may_change_catalog_file(r))
        repo_catalog_checkpoint(r, false);
    else
        catalog_keep_wal(r->writer);
    if (r->catalog_broken) /* closing flushes nothing more of it */
        catalog_keep_wal(r->writer);
    catalog_close(r->writer);
    if (r->catalog_broken)
        repo_catalog_set_aside(r, true, &ignored); /* the next writer makes it anew */
}

static void close_fd(int fd)
{
    if (fd >= 0)
        fileops->close(fd);
}

void repo_close(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    if (!r)
        return;
    pthread_mutex_lock(&r->write_lock);
    if (r->writer && r->catalog && !r->catalog_stale)
        repo_data_index_now(r, &ignored);
    repo_fences_flush(r);
    pthread_mutex_unlock(&r->write_lock);
    close_catalogs(r);
    repo_writing_release(r);
    repo_packs_close(r);
    repo_leases_free(r);
    repo_losses_free(r);
    base_cache_free(r->bases);
    close_fd(r->packs_fd);
    close_fd(r->dirfd);
    close_fd(r->lock_fd); /* last: it holds the lock */
    pthread_mutex_destroy(&r->pool_lock);
    pthread_mutex_destroy(&r->write_lock);
    pthread_mutex_destroy(&r->packs_lock);
    pthread_cond_destroy(&r->flushed);
    pthread_cond_destroy(&r->renewed);
    free(r->path);
    free(r);
}

/* ---- what it is ---- */

const char *repo_path(const struct repo *r)
{
    return r->path;
}

int repo_dirfd(const struct repo *r)
{
    return r->dirfd;
}

int repo_lock_fd(const struct repo *r)
{
    return r->lock_fd;
}

const uint8_t *repo_id(const struct repo *r)
{
    return r->id;
}

bool repo_in_memory(const struct repo *r)
{
    return r->in_memory;
}

struct catalog *repo_catalog(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    pthread_mutex_lock(&r->pool_lock);
    if (r->catalog_generation != r->generation && !r->renewing && !r->half_made) {
        catalog_reopen(r->catalog, &ignored); /* if not, its every use tells */
        r->catalog_generation = r->generation;
    }
    pthread_mutex_unlock(&r->pool_lock);
    return r->catalog;
}
