/* Making, opening and closing a repository, and which catalog a handle works with.
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
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/fileops.h"
#include "io/lock.h"
#include "io/safe_path.h"
#include "store/chunk_list.h"

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

#define FORMAT_TITLE "watchkeep repository\n"

enum {
    FORMAT_MAX = 4096,
    POLL_MS = 10,
    POLL_TIMES = 100, /* how long a reader waits for a writer to fold in what it flushed */
    LOCK_TRIES = 10,
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

/* ---- the format file ---- */

/* A line "word value"; NULL when it is another one. */
static const char *value_of(const char *line, const char *word)
{
    size_t n = strlen(word);

    return strncmp(line, word, n) == 0 && line[n] == ' ' ? line + n + 1 : NULL;
}

static int check_version(const char *value, struct error *e)
{
    char known[16];

    snprintf(known, sizeof(known), "%d", FORMAT_VERSION);
    if (strcmp(value, known) == 0)
        return 0;
    return error_set(e, ERR_NOREPO,
                     "the repository is of format %.20s, this watchkeep (" WK_VERSION ") knows %d",
                     value, FORMAT_VERSION);
}

static int check_features(const char *value, uint64_t known, struct error *e)
{
    uint64_t bits;

    int rc = parse_u64(value, &bits, e);
    if (rc == 0 && (bits & ~known) == 0)
        return 0;
    return error_set(e, ERR_NOREPO,
                     "the repository uses features (%.20s) that this watchkeep (" WK_VERSION
                     ") does not know",
                     value);
}

struct format {
    uint8_t *id;
    bool has_version, has_id, writing;
};

static int parse_line(const char *line, struct format *f, struct error *e)
{
    const char *value;

    if ((value = value_of(line, "version"))) {
        f->has_version = true;
        return check_version(value, e);
    }
    if ((value = value_of(line, "incompat")))
        return check_features(value, FEATURES_INCOMPAT, e);
    if ((value = value_of(line, "ro-compat")) && f->writing)
        return check_features(value, FEATURES_RO_COMPAT, e);
    if ((value = value_of(line, "id")))
        f->has_id = strlen(value) == 32 && text_unhex(value, f->id, 16);
    return 0;
}

static int parse_format(char *text, bool writing, uint8_t id[16], struct error *e)
{
    struct format f = {.id = id, .writing = writing};
    char *save = NULL;
    int rc = 0;

    if (strncmp(text, FORMAT_TITLE, sizeof(FORMAT_TITLE) - 1) != 0)
        return error_set(e, ERR_NOREPO, "not a watchkeep repository");
    for (char *line = strtok_r(text, "\n", &save); rc == 0 && line;
         line = strtok_r(NULL, "\n", &save))
        rc = parse_line(line, &f, e);
    if (rc == 0 && (!f.has_id || !f.has_version))
        rc = error_set(e, ERR_NOREPO, "the repository's format file is damaged");
    return rc;
}

static int read_format(int dirfd, bool writing, uint8_t id[16], struct error *e)
{
    struct buffer text = BUFFER_INIT;

    int rc = small_file_read(dirfd, FORMAT_FILE, FORMAT_MAX, &text, e);
    if (rc == ERR_NOTFOUND)
        rc = error_set(e, ERR_NOREPO, "no repository there");
    else if (rc == ERR_DAMAGED)
        rc = error_set(e, ERR_NOREPO, "the repository's format file is damaged");
    buffer_append(&text, "", 1);
    if (rc == 0)
        rc = buffer_ok(&text) ? parse_format((char *)text.data, writing, id, e) : repo_no_memory(e);
    buffer_release(&text);
    return rc;
}

static int write_format(int dirfd, const uint8_t id[16], struct error *e)
{
    char hex[33], text[256];

    text_hex(id, 16, hex);
    int n = snprintf(text, sizeof(text),
                     FORMAT_TITLE "version %d\nid %s\nincompat %" PRIu64 "\nro-compat %" PRIu64
                                  "\ncompat 0\n",
                     FORMAT_VERSION, hex, FEATURES_INCOMPAT, FEATURES_RO_COMPAT);
    return atomic_file_write(dirfd, FORMAT_FILE, text, (size_t)n, 0600, e);
}

bool repo_exists(const char *path)
{
    char *file = text_format("%s/" FORMAT_FILE, path);
    bool there = file && access(file, F_OK) == 0;

    free(file);
    return there;
}

/* ---- init ---- */

/* What a broken-off init of ours may have left, and what mkfs does. */
static bool is_leftover(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, PACKS_DIR) == 0 ||
           strcmp(name, LOCK_FILE) == 0 || strcmp(name, "lost+found") == 0 ||
           strncmp(name, ATOMIC_TEMP_PREFIX, sizeof(ATOMIC_TEMP_PREFIX) - 1) == 0;
}

static DIR *open_dir(int dirfd, const char *name, struct error *e)
{
    int fd = fileops->openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        error_sys(e, errno, "cannot list '%s'", name);
        if (fd >= 0)
            fileops->close(fd);
    }
    return dir;
}

static int refuse_strangers(int dirfd, struct error *e)
{
    char name[300];
    struct dirent *entry;
    int rc = 0;

    DIR *dir = open_dir(dirfd, ".", e);
    if (!dir)
        return e->code;
    while (rc == 0 && (entry = readdir(dir)))
        if (!is_leftover(entry->d_name))
            rc = error_set(e, ERR_REFUSED, "the folder is not empty: it holds '%s'",
                           text_escape(entry->d_name, name, sizeof(name)));
    closedir(dir);
    return rc;
}

/* Packs without a format file are a repository that lost it, unless they are empty. */
static int clear_packs(int packs_fd, struct error *e)
{
    struct dirent *entry;
    struct stat st;
    uint64_t id;
    uint8_t kind;
    int rc = 0;

    DIR *dir = open_dir(packs_fd, ".", e);
    if (!dir)
        return e->code;
    while (rc == 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        if (!pack_file_parse(entry->d_name, &kind, &id) ||
            fstatat(packs_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            st.st_size > PACK_HEADER_LEN)
            rc = error_set(e, ERR_REFUSED, "its packs are not empty: is its 'format' file lost?");
        else if (fileops->unlinkat(packs_fd, entry->d_name, 0) < 0)
            rc = error_sys(e, errno, "cannot remove '%s'", entry->d_name);
    }
    closedir(dir);
    return rc;
}

static int first_pack(int packs_fd, const uint8_t id[16], struct error *e)
{
    struct wall_time now = clock_wall();
    struct pack *p = NULL;
    struct pack_header h = {.version = FORMAT_VERSION,
                            .pack_id = 1,
                            .kind = PACK_LOG,
                            .id_algorithm = 1,
                            .created_s = now.s,
                            .created_ns = now.ns};

    memcpy(h.repo_id, id, 16);
    int rc = pack_create(packs_fd, &h, &p, e);
    pack_close(p);
    return rc;
}

static int fill_folder(int dirfd, struct error *e)
{
    uint8_t id[16];

    int rc = refuse_strangers(dirfd, e);
    if (rc < 0)
        return rc;
    if (fileops->mkdirat(dirfd, PACKS_DIR, 0700) < 0 && errno != EEXIST)
        return error_sys(e, errno, "cannot make the folder of packs");
    int packs_fd =
        fileops->openat(dirfd, PACKS_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (packs_fd < 0)
        return error_sys(e, errno, "cannot open the folder of packs");
    random_bytes(id, sizeof(id));
    rc = clear_packs(packs_fd, e);
    if (rc == 0)
        rc = first_pack(packs_fd, id, e);
    fileops->close(packs_fd);
    return rc == 0 ? write_format(dirfd, id, e) : rc;
}

/* The folder's own entry, where its parent can be opened at all. */
static int flush_parent(int dirfd, struct error *e)
{
    int fd = fileops->openat(dirfd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        return 0;
    int rc = dir_sync(fd, e);
    fileops->close(fd);
    return rc;
}

static int open_folder(const char *path, struct error *e)
{
    int fd = fileops->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd < 0)
        error_sys(e, errno, "cannot open the repository '%s'", path);
    return fd;
}

int repo_init(const char *path, struct error *e)
{
    uint8_t id[16];
    struct stat st;

    bool made = stat(path, &st) < 0 && errno == ENOENT;
    int rc = make_dirs(path, 0700, e);
    if (rc < 0)
        return rc;
    int dirfd = open_folder(path, e);
    if (dirfd < 0)
        return e->code;
    if (fstatat(dirfd, FORMAT_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        rc = read_format(dirfd, true, id, e);
        fileops->close(dirfd);
        return rc < 0 ? rc : 1;
    }
    rc = fill_folder(dirfd, e);
    if (rc == 0 && made)
        rc = flush_parent(dirfd, e);
    fileops->close(dirfd);
    return rc;
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
        int rc = lock_take(r->lock_fd, LOCK_WRITER, true, wait_ms, e);
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

static void pool_drop(struct pool_entry *p)
{
    catalog_close(p->catalog);
    *p = (struct pool_entry){0};
}

static void pool_drop_idle(struct repo *r)
{
    for (int i = 0; i < POOL_MAX; i++)
        if (r->pool[i].catalog && !r->pool[i].lent)
            pool_drop(&r->pool[i]);
}

int repo_catalog_lend(struct repo *r, struct catalog **out, struct error *e)
{
    int rc = 0;

    pthread_mutex_lock(&r->pool_lock);
    *out = pool_take(r);
    if (!*out)
        rc = catalog_clone(r->writer ? r->writer : r->catalog, out, e);
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
    if (!p)
        catalog_close(c);
    else if (p->generation != r->generation)
        pool_drop(p);
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

    DIR *dir = open_dir(r->dirfd, ".", &ignored);
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
    return rc == 0 ? remove_file(r, CATALOG_FILE "-shm", e) : rc;
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

static int open_writer_catalog(struct repo *r, struct error *e)
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
 * follows when it is asked for next. */
static void retire_readers(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    r->generation++;
    pool_drop_idle(r);
    pthread_mutex_unlock(&r->pool_lock);
}

int repo_catalog_renew(struct repo *r, bool keep, struct error *e)
{
    int rc = repo_catalog_set_aside(r, keep, e);

    if (rc == 0)
        rc = open_writer_catalog(r, e);
    if (rc == 0)
        rc = repo_replay(r, r->writer, true, e);
    retire_readers(r);
    r->catalog_stale = rc < 0;
    return rc;
}

/* Never the same file again after it failed us, unless it only was full. */
int repo_catalog_mend(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;

    if (!r->catalog_stale)
        return 0;
    int rc = repo_files_scan(r, e);
    if (rc < 0)
        return rc;
    rc = catalog_reopen(r->writer, &why);
    if (rc == 0)
        rc = repo_replay_needed(r, r->writer, &why);
    if (rc >= 0)
        rc = repo_replay(r, r->writer, true, &why);
    if (rc == 0) {
        r->catalog_stale = false;
        return 0;
    }
    if (rc != ERR_DAMAGED) {
        *e = why;
        return rc;
    }
    repo_notice(r, "catalog made anew: %s", why.message);
    return repo_catalog_renew(r, true, e);
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

static int open_for_writing(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;
    struct stat st;

    if (fstatat(r->dirfd, CATALOG_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        without_catalog(r);
    int rc = open_writer_catalog(r, &why);
    if (rc == 0)
        rc = repo_replay_needed(r, r->writer, &why);
    if (rc == ERR_DAMAGED)
        keep_numbers(r);
    if (rc >= 0)
        rc = repo_replay(r, r->writer, true, &why);
    if (rc == ERR_DAMAGED) {
        repo_notice(r, "catalog made anew from the packs: %s", why.message);
        rc = repo_catalog_renew(r, true, e);
    } else if (rc < 0) {
        *e = why;
    }
    if (rc < 0)
        return rc;
    /* A fence, or a new log pack, while there is time; else the next write sees to it. */
    repo_fences_flush(r);
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

static int replay_into_memory(struct repo *r, const char *why, struct error *e)
{
    struct catalog *memory;

    repo_notice(r, "reading the packs into memory: %s", why);
    int rc = catalog_open(r->path, CATALOG_MEMORY, false, r->id, &memory, e);
    return rc < 0 ? rc : use_memory(r, memory, e);
}

static int open_for_reading(struct repo *r, struct error *e)
{
    struct error why = ERROR_INIT;
    struct catalog *c = NULL, *memory = NULL;

    if (size_of(r, CATALOG_FILE) <= 0)
        return replay_into_memory(r, "there is no catalog", e);
    enum catalog_mode mode = may_read_static(r) ? CATALOG_READ_STATIC : CATALOG_READ;
    int rc = catalog_open(r->path, mode, false, r->id, &c, &why);
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
    return replay_into_memory(r, why.message, e);
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
    r->dirfd = open_folder(r->path, e);
    if (r->dirfd < 0)
        return e->code;
    int rc = read_format(r->dirfd, r->mode == REPO_WRITE, r->id, e);
    if (rc < 0)
        return rc;
    r->packs_fd =
        fileops->openat(r->dirfd, PACKS_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (r->packs_fd < 0) {
        int sys = errno;
        error_sys(e, sys, "cannot open the folder of packs");
        return sys == ENOENT ? (e->code = ERR_NOREPO) : e->code;
    }
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
    r->notice = opt ? opt->notice : NULL;
    r->notice_ctx = opt ? opt->ctx : NULL;
    r->next_sequence = r->next_number = 1;
    pthread_mutex_init(&r->pool_lock, NULL);
    pthread_mutex_init(&r->write_lock, NULL);
    pthread_mutex_init(&r->packs_lock, NULL);
    pthread_cond_init(&r->flushed, NULL);
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
    r->lock_fd = open_lock(r, false, e);
    int rc = repo_files_scan(r, e);
    return rc == 0 ? open_for_reading(r, e) : rc;
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

void repo_catalog_checkpoint(struct repo *r)
{
    struct error e = ERROR_INIT;

    if (!r->writer || !may_change_catalog_file(r))
        return;
    int rc = catalog_checkpoint(r->writer, &e);
    lock_drop(r->lock_fd, LOCK_CATALOG);
    if (rc == ERR_DAMAGED)
        r->catalog_stale = true;
}

static void close_catalogs(struct repo *r)
{
    for (int i = 0; i < POOL_MAX; i++)
        pool_drop(&r->pool[i]);
    chunk_source_close(r->memory_source);
    chunk_source_close(r->writer_source);
    catalog_close(r->catalog);
    if (!r->writer)
        return;
    if (may_change_catalog_file(r))
        repo_catalog_checkpoint(r);
    else
        catalog_keep_wal(r->writer);
    catalog_close(r->writer);
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
    close_fd(r->packs_fd);
    close_fd(r->dirfd);
    close_fd(r->lock_fd); /* last: it holds the lock */
    pthread_mutex_destroy(&r->pool_lock);
    pthread_mutex_destroy(&r->write_lock);
    pthread_mutex_destroy(&r->packs_lock);
    pthread_cond_destroy(&r->flushed);
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

enum codec repo_codec(const struct repo *r)
{
    return r->codec;
}

struct catalog *repo_catalog(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    pthread_mutex_lock(&r->pool_lock);
    if (r->catalog_generation != r->generation) {
        catalog_reopen(r->catalog, &ignored); /* if not, its every use tells */
        r->catalog_generation = r->generation;
    }
    pthread_mutex_unlock(&r->pool_lock);
    return r->catalog;
}
