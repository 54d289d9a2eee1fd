/* The packs folder as it lies there, descriptors for reading, leases, and what verify and status
 * ask about packs. */
#include "store/repo_private.h"

#include "base/safety.h"
#include "base/text.h"
#include "io/fileops.h"
#include "io/lock.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* ---- the folder ---- */

static DIR *open_folder(struct repo *r, struct error *e)
{
    int fd = fileops->openat(r->packs_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        error_sys(e, errno, "cannot list the packs");
        if (fd >= 0)
            fileops->close(fd);
    }
    return dir;
}

static int by_id(const void *a, const void *b)
{
    const struct pack_file *x = a, *y = b;

    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (int)x->kind - (int)y->kind;
}

static int file_append(struct repo *r, const struct pack_file *f, struct error *e)
{
    struct pack_file *list = realloc(r->files, (r->file_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(e);
    r->files = list;
    list[r->file_count++] = *f;
    return 0;
}

static int scan_entries(struct repo *r, DIR *dir, struct error *e)
{
    struct pack_file f;
    struct dirent *entry;
    struct stat st;

    while ((errno = 0, entry = readdir(dir))) {
        if (!pack_file_parse(entry->d_name, &f.kind, &f.id) || f.id == 0 || f.id > INT64_MAX)
            continue;
        if (fstatat(r->packs_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(st.st_mode))
            continue;
        f.size = (uint64_t)st.st_size;
        int rc = file_append(r, &f, e);
        if (rc < 0)
            return rc;
        if (r->next_pack <= f.id)
            r->next_pack = f.id + 1;
    }
    return errno ? error_sys(e, errno, "cannot list the packs") : 0;
}

int repo_files_scan(struct repo *r, struct error *e)
{
    DIR *dir = open_folder(r, e);

    if (!dir)
        return e->code;
    pthread_mutex_lock(&r->packs_lock);
    free(r->files);
    r->files = NULL;
    r->file_count = 0;
    if (r->next_pack == 0)
        r->next_pack = 1;
    int rc = scan_entries(r, dir, e);
    if (rc == 0 && r->file_count > 0)
        qsort(r->files, r->file_count, sizeof(*r->files), by_id);
    pthread_mutex_unlock(&r->packs_lock);
    closedir(dir);
    return rc;
}

bool repo_file_known(struct repo *r, uint64_t id, struct pack_file *f)
{
    const struct pack_file key = {.id = id};
    size_t low = 0, high;

    pthread_mutex_lock(&r->packs_lock);
    high = r->file_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (by_id(&r->files[mid], &key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    bool found = low < r->file_count && r->files[low].id == id;
    if (found && f)
        *f = r->files[low];
    pthread_mutex_unlock(&r->packs_lock);
    return found;
}

static int look_at_header(struct repo *r, const struct pack_file *f)
{
    struct error ignored = ERROR_INIT;
    struct pack *p = NULL;

    int rc = pack_open(r->packs_fd, f->kind, f->id, r->id, false, &p, &ignored);
    pack_close(p);
    return rc;
}

bool repo_file_is_itself(struct repo *r, const struct pack_file *f)
{
    return look_at_header(r, f) == 0;
}

bool repo_file_is_another(struct repo *r, const struct pack_file *f)
{
    return look_at_header(r, f) == ERR_DAMAGED;
}

int repo_doom(struct repo *r, uint64_t pack_id, struct error *e)
{
    pthread_mutex_lock(&r->packs_lock);
    uint64_t *list = realloc(r->doomed, (r->doomed_count + 1) * sizeof(*list));
    if (list) {
        r->doomed = list;
        list[r->doomed_count++] = pack_id;
    }
    pthread_mutex_unlock(&r->packs_lock);
    return list ? 0 : repo_no_memory(e);
}

bool repo_place_holds(struct repo *r, uint64_t pack_id)
{
    bool doomed = false;

    pthread_mutex_lock(&r->packs_lock);
    for (size_t i = 0; i < r->doomed_count; i++)
        doomed |= r->doomed[i] == pack_id;
    pthread_mutex_unlock(&r->packs_lock);
    return !doomed && repo_file_known(r, pack_id, NULL);
}

void repo_file_gone(struct repo *r, uint64_t id)
{
    size_t kept = 0;

    pthread_mutex_lock(&r->packs_lock);
    for (size_t i = 0; i < r->file_count; i++)
        if (r->files[i].id != id)
            r->files[kept++] = r->files[i];
    r->file_count = kept;
    kept = 0;
    for (size_t i = 0; i < r->doomed_count; i++)
        if (r->doomed[i] != id)
            r->doomed[kept++] = r->doomed[i];
    r->doomed_count = kept;
    for (int i = 0; i < OPEN_PACKS_MAX; i++) {
        struct open_pack *o = &r->open_packs[i];
        if (o->pack && o->pack->id == id && o->users == 0) {
            pack_close(o->pack);
            *o = (struct open_pack){0};
        }
    }
    pthread_mutex_unlock(&r->packs_lock);
}

void repo_pack_cold(struct repo *r, uint64_t id)
{
    struct error ignored = ERROR_INIT;
    struct pack *p;

    if (repo_pack_get(r, id, &p, &ignored) < 0)
        return;
    posix_fadvise(p->fd, 0, 0, POSIX_FADV_DONTNEED);
    repo_pack_put(r, p);
}

/* New ids only grow, so that the end is the right place. */
int repo_file_add(struct repo *r, uint8_t kind, uint64_t id, struct error *e)
{
    const struct pack_file f = {.id = id, .kind = kind, .size = PACK_HEADER_LEN};

    pthread_mutex_lock(&r->packs_lock);
    int rc = file_append(r, &f, e);
    pthread_mutex_unlock(&r->packs_lock);
    return rc;
}

/* ---- descriptors for reading ---- */

static int open_either(struct repo *r, uint64_t id, struct pack **out, struct error *e)
{
    struct error why = ERROR_INIT;
    int rc = pack_open(r->packs_fd, PACK_DATA, id, r->id, false, out, e);

    /* Something else may bear the name of the other kind. */
    if (rc < 0 && pack_open(r->packs_fd, PACK_LOG, id, r->id, false, out, &why) == 0) {
        error_clear(e);
        rc = 0;
    } else if (rc == ERR_NOTFOUND) {
        rc = why.code;
        *e = why;
    }
    if (rc < 0)
        return rc;
    /* It may grow while it is open; a read past its end tells by itself. */
    (*out)->len = INT64_MAX - INT64_MAX % RECORD_ALIGN;
    return 0;
}

/* A free place, or that of the pack unused for longest; NULL when all are in use. */
static struct open_pack *place_for_pack(struct repo *r)
{
    struct open_pack *best = NULL;

    for (int i = 0; i < OPEN_PACKS_MAX; i++) {
        struct open_pack *o = &r->open_packs[i];
        if (!o->pack)
            return o;
        if (o->users == 0 && (!best || o->used < best->used))
            best = o;
    }
    if (best) {
        pack_close(best->pack);
        best->pack = NULL;
    }
    return best;
}

static struct open_pack *find_open(struct repo *r, uint64_t id, const struct pack *p)
{
    for (int i = 0; i < OPEN_PACKS_MAX; i++) {
        struct open_pack *o = &r->open_packs[i];
        if (o->pack && (p ? o->pack == p : o->pack->id == id))
            return o;
    }
    return NULL;
}

int repo_pack_get(struct repo *r, uint64_t id, struct pack **out, struct error *e)
{
    int rc = 0;

    pthread_mutex_lock(&r->packs_lock);
    struct open_pack *o = find_open(r, id, NULL);
    if (!o) {
        rc = open_either(r, id, out, e);
        o = rc == 0 ? place_for_pack(r) : NULL;
        if (o)
            *o = (struct open_pack){.pack = *out};
    }
    if (rc == 0 && o) {
        o->users++;
        o->used = ++r->use_clock;
        *out = o->pack;
    }
    pthread_mutex_unlock(&r->packs_lock);
    return rc;
}

void repo_pack_put(struct repo *r, struct pack *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&r->packs_lock);
    struct open_pack *o = find_open(r, 0, p);
    if (o)
        o->users--;
    else
        pack_close(p);
    pthread_mutex_unlock(&r->packs_lock);
}

void repo_pack_forget(struct repo *r, uint64_t id)
{
    pthread_mutex_lock(&r->packs_lock);
    struct open_pack *o = find_open(r, id, NULL);
    if (o && o->users == 0) {
        pack_close(o->pack);
        o->pack = NULL;
    }
    pthread_mutex_unlock(&r->packs_lock);
}

void repo_packs_close(struct repo *r)
{
    for (int i = 0; i < OPEN_PACKS_MAX; i++) {
        pack_close(r->open_packs[i].pack);
        r->open_packs[i] = (struct open_pack){0};
    }
    free(r->files);
    r->files = NULL;
    r->file_count = 0;
}

/* ---- leases ---- */

static struct lease *find_lease(struct repo *r, uint64_t snapshot)
{
    for (size_t i = 0; i < r->lease_count; i++)
        if (r->leases[i].snapshot == snapshot)
            return &r->leases[i];
    return NULL;
}

static int add_lease(struct repo *r, uint64_t snapshot, struct error *e)
{
    struct lease *list = realloc(r->leases, (r->lease_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(e);
    r->leases = list;
    int rc = r->lock_fd < 0
                 ? 0
                 : SAFETY(LEASE, lock_take(r->lock_fd, LOCK_LEASE_BASE + snapshot, false, 1000, e));
    if (rc == 0)
        list[r->lease_count++] = (struct lease){.snapshot = snapshot, .count = 1};
    return rc;
}

int repo_lease(struct repo *r, uint64_t snapshot, struct error *e)
{
    int rc = 0;

    pthread_mutex_lock(&r->pool_lock);
    struct lease *l = find_lease(r, snapshot);
    if (l)
        l->count++;
    else
        rc = add_lease(r, snapshot, e);
    pthread_mutex_unlock(&r->pool_lock);
    return rc;
}

void repo_lease_end(struct repo *r, uint64_t snapshot)
{
    pthread_mutex_lock(&r->pool_lock);
    struct lease *l = find_lease(r, snapshot);
    if (l && --l->count == 0) {
        if (r->lock_fd >= 0)
            lock_drop(r->lock_fd, LOCK_LEASE_BASE + snapshot);
        *l = r->leases[--r->lease_count];
    }
    pthread_mutex_unlock(&r->pool_lock);
}

bool repo_leased(struct repo *r, uint64_t snapshot)
{
    pthread_mutex_lock(&r->pool_lock);
    bool held = find_lease(r, snapshot) != NULL;
    pthread_mutex_unlock(&r->pool_lock);
    return held || (r->lock_fd >= 0 && lock_held(r->lock_fd, LOCK_LEASE_BASE + snapshot, 1, true));
}

void repo_leases_free(struct repo *r)
{
    free(r->leases);
    r->leases = NULL;
    r->lease_count = 0;
}

/* ---- for verify and status ---- */

static int ignore_record(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                         const uint8_t *body)
{
    return 0;
}

/* End of the last whole record of a pack that the catalog does not bound. */
static int walked_end(struct repo *r, const struct pack_file *f,
                      const struct catalog_position *position, uint64_t *end, struct error *e)
{
    struct pack *p = NULL;
    uint64_t from = f->id == position->log_pack ? position->log_offset : 0;

    int rc = pack_open(r->packs_fd, f->kind, f->id, r->id, false, &p, e);
    if (rc == 0)
        rc = pack_walk(p, from, UINT64_MAX, ignore_record, NULL, end, e);
    pack_close(p);
    return rc;
}

struct problems {
    void (*tell)(void *ctx, uint64_t pack_id, const char *text);
    void *ctx;
};

static void tell(const struct problems *to, uint64_t pack_id, const char *text)
{
    if (to->tell)
        to->tell(to->ctx, pack_id, text);
}

/* Nothing was written to it, or nothing came to the disk. */
static bool is_blank(struct repo *r, const struct pack_file *f)
{
    uint8_t bytes[PACK_HEADER_LEN];
    struct error ignored = ERROR_INIT;
    char name[40];
    size_t got = 0;
    bool zero = true;

    if (f->size > sizeof(bytes))
        return false;
    pack_file_name(f->kind, f->id, name);
    int fd = fileops->openat(r->packs_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return false;
    int rc = file_read_some(fd, bytes, sizeof(bytes), 0, &got, &ignored);
    fileops->close(fd);
    for (size_t i = 0; i < got; i++)
        zero &= bytes[i] == 0;
    return rc == 0 && zero;
}

/* A pack that broke ends there, though the catalog was not told so far. */
static void end_at_own_fence(const struct repo *r, struct pack_row *row)
{
    for (size_t i = 0; i < r->lost_count; i++)
        if (r->lost[i].pack_id == row->id && row->bytes > r->lost[i].len)
            row->bytes = r->lost[i].len;
}

/* 1: a row of it; 0: a compaction took its place, and nobody needs it. */
static int row_of_file(struct repo *r, struct catalog *c, const struct pack_file *f,
                       const struct problems *problems, struct pack_row *row, struct error *e)
{
    struct catalog_pack known;
    struct catalog_position position;
    struct pack *p = NULL;

    *row = (struct pack_row){.id = f->id, .kind = f->kind};
    int rc = catalog_position(c, &position, e);
    if (rc == 0)
        rc = catalog_pack(c, f->id, &known, e);
    if (rc == 0 && known.gone)
        return 0;
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    struct error why = ERROR_INIT;
    if (pack_open(r->packs_fd, f->kind, f->id, r->id, false, &p, &why) < 0) {
        if (why.code != ERR_DAMAGED && why.code != ERR_NOTFOUND) {
            row->bytes = rc < 0 ? f->size : catalog_pack_end(&known);
            return 1; /* whoever opens it is told why not */
        }
        bool expected = (rc == 0 && (known.len > 0 || known.fence > PACK_HEADER_LEN)) ||
                        f->id == position.log_pack;
        row->blank = !expected && is_blank(r, f);
        if (!row->blank)
            tell(problems, f->id, why.message);
        return 1;
    }
    row->sealed = rc == 0 && known.sealed;
    if (rc == 0 && (f->kind == PACK_DATA || known.sealed || known.fence))
        row->bytes = catalog_pack_end(&known);
    else if ((rc = walked_end(r, f, &position, &row->bytes, &why)) < 0) {
        if (rc != ERR_DAMAGED && rc != ERR_NOTFOUND) {
            pack_close(p);
            *e = why;
            return rc;
        }
        tell(problems, f->id, why.message);
    }
    /* Only now: a writer may have added to it since it was opened. */
    struct stat st;
    uint64_t size = fstat(p->fd, &st) == 0 ? (uint64_t)st.st_size : p->len;
    pack_close(p);
    if (row->bytes > size) {
        /* What nobody needs may have been given back while the catalog could not be told. */
        if (f->kind != PACK_DATA || repo_needs_more(r, c, f->id))
            tell(problems, f->id, "the pack is shorter than it was");
        row->bytes = size;
    }
    end_at_own_fence(r, row);
    return 1;
}

/* Of a pack that a fence ended behind its header nothing is missed. */
static bool is_missed(struct repo *r, const struct catalog_pack *row)
{
    bool nothing = row->fence && row->fence <= PACK_HEADER_LEN;

    return !nothing && !repo_file_known(r, row->id, NULL) && !repo_loss_known(r, row->id);
}

static int tell_missing(struct repo *r, struct catalog *c, const struct problems *problems,
                        struct error *e)
{
    struct catalog_pack *rows;
    size_t count;

    int rc = catalog_packs(c, &rows, &count, e);
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (!rows[i].gone && is_missed(r, &rows[i]))
            tell(problems, rows[i].id, "the pack is missing");
    if (rc == 0)
        free(rows);
    return rc;
}

static int tell_strangers(struct repo *r, const struct problems *problems, struct error *e)
{
    char text[400], name[300];
    struct dirent *entry;
    uint64_t id;
    uint8_t kind;

    DIR *dir = open_folder(r, e);
    if (!dir)
        return e->code;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.' || pack_file_parse(entry->d_name, &kind, &id))
            continue;
        snprintf(text, sizeof(text), "'%s' is no pack and is left alone",
                 text_escape(entry->d_name, name, sizeof(name)));
        tell(problems, 0, text);
    }
    closedir(dir);
    return 0;
}

static int logs_first(const void *a, const void *b)
{
    const struct pack_row *x = a, *y = b;

    if (x->kind != y->kind)
        return (int)x->kind - (int)y->kind;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int fill_rows(struct repo *r, struct catalog *c, const struct problems *problems,
                     struct pack_row *rows, size_t *count, struct error *e)
{
    int rc = 0;

    *count = 0;
    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        const struct pack_file *f = &r->files[i];
        if (i > 0 && f[-1].id == f->id)
            tell(problems, f->id, "two packs have this id");
        rc = row_of_file(r, c, f, problems, &rows[*count], e);
        if (rc == 1)
            ++*count;
        rc = rc < 0 ? rc : 0;
    }
    if (rc == 0 && *count > 0)
        qsort(rows, *count, sizeof(*rows), logs_first);
    return rc;
}

int repo_packs(struct repo *r, struct pack_row **out, size_t *count,
               void (*problem)(void *ctx, uint64_t pack_id, const char *text), void *ctx,
               struct error *e)
{
    const struct problems problems = {problem, ctx};
    struct catalog *c = NULL;
    struct pack_row *rows = NULL;

    *out = NULL;
    *count = 0;
    /* The state first, then the folder: a pack that a writer elsewhere makes meanwhile is not in
     * the one without the other. Those that it empties stay while a reader is open. */
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_lend(r, &c, e);
    if (rc == 0)
        rc = catalog_read_begin(c, e);
    if (rc == 0)
        rc = repo_files_scan(r, e);
    if (rc == 0 && !(rows = calloc(r->file_count + 1, sizeof(*rows))))
        rc = repo_no_memory(e);
    if (rc == 0)
        rc = fill_rows(r, c, &problems, rows, count, e);
    if (problem)
        repo_losses_tell(r, problem, ctx);
    if (rc == 0)
        rc = tell_missing(r, c, &problems, e);
    if (rc == 0)
        rc = tell_strangers(r, &problems, e);
    if (c)
        repo_catalog_return(r, c);
    pthread_mutex_unlock(&r->write_lock);
    if (rc < 0) {
        free(rows);
        return rc;
    }
    *out = rows;
    return 0;
}

int repo_pack_open(struct repo *r, const struct pack_row *row, struct pack **out, struct error *e)
{
    int rc = pack_open(r->packs_fd, row->kind, row->id, r->id, false, out, e);

    if (rc == 0 && (*out)->len > row->bytes)
        (*out)->len = row->bytes;
    return rc;
}

static uint64_t size_of(int dirfd, const char *name)
{
    struct stat st;

    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_size : 0;
}

uint64_t repo_bytes(struct repo *r)
{
    struct error ignored = ERROR_INIT;
    struct dirent *entry;
    uint64_t sum = size_of(r->dirfd, CATALOG_FILE) + size_of(r->dirfd, CATALOG_FILE "-wal");

    DIR *dir = open_folder(r, &ignored);
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            sum += size_of(r->packs_fd, entry->d_name);
    if (dir)
        closedir(dir);
    return sum;
}
