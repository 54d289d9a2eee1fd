/* A file is read between two signatures, and again when they differ. Small files are read whole
 * into the worker's batch first and cut only when they were stable, so that a try that failed
 * stores nothing. */
#include "snapshot/save_file.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    OFTEN_READ_MAX = 16 * 1024 * 1024, /* larger ones are read twice at most */
    RAW_CAP = BLOCK_RAW_LEN + SMALL_FILE_MAX,
    CHUNKS_FULL = 8192, /* a block of so many is not made to wait for more */
};
_Static_assert(CHUNKS_FULL + SMALL_FILE_MAX / CHUNK_WHOLE_MAX * 8 + 1 <= BLOCK_CHUNKS_MAX &&
                   RAW_CAP <= BLOCK_RAW_MAX,
               "one more small file always fits its block");

/* ---- folders' descriptors ---- */

struct dir_handle *dir_handle_new(int fd, atomic_int *open_dirs)
{
    struct dir_handle *d = malloc(sizeof(*d));

    if (!d) {
        close(fd);
        return NULL;
    }
    d->fd = fd;
    d->open_dirs = open_dirs;
    atomic_init(&d->refs, 1);
    atomic_fetch_add(open_dirs, 1);
    return d;
}

struct dir_handle *dir_handle_ref(struct dir_handle *d)
{
    if (d)
        atomic_fetch_add(&d->refs, 1);
    return d;
}

void dir_handle_drop(struct dir_handle *d)
{
    if (!d || atomic_fetch_sub(&d->refs, 1) > 1)
        return;
    close(d->fd);
    atomic_fetch_sub(d->open_dirs, 1);
    free(d);
}

/* ---- jobs ---- */

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot save a file");
}

struct file_job *file_job_new(struct dir_handle *dir, const char *path, uint64_t parent,
                              uint64_t node, const void *old_meta, uint32_t old_meta_len,
                              const void *old_cache, uint32_t old_cache_len)
{
    size_t path_len = strlen(path) + 1;
    struct file_job *j = malloc(sizeof(*j) + path_len + old_meta_len + old_cache_len);

    if (!j)
        return NULL;
    uint8_t *at = (uint8_t *)(j + 1);
    *j = (struct file_job){.dir = dir_handle_ref(dir), .parent = parent, .node = node};
    j->hashes = (struct buffer)BUFFER_INIT;
    if (old_meta_len > 0) {
        j->old_meta = memcpy(at, old_meta, old_meta_len);
        j->old_meta_len = old_meta_len;
        at += old_meta_len;
    }
    if (old_cache_len > 0) {
        j->old_cache = memcpy(at, old_cache, old_cache_len);
        j->old_cache_len = old_cache_len;
        at += old_cache_len;
    }
    j->path = memcpy(at, path, path_len);
    char *slash = strrchr(j->path, '/');
    j->name = slash ? slash + 1 : j->path;
    return j;
}

/* Between two tries, and at the end. */
void file_job_forget(struct file_job *j)
{
    xattrs_free(j->xattrs);
    free(j->extents);
    free(j->refs);
    free(j->fast);
    free(j->text);
    j->xattrs = NULL;
    j->extents = NULL;
    j->refs = NULL;
    j->fast = NULL;
    j->text = NULL;
    j->ref_count = j->ref_cap = 0;
    j->n = (struct node){.type = NODE_FILE};
}

void file_job_free(struct file_job *j)
{
    if (!j)
        return;
    file_job_forget(j);
    if (j->has_old)
        node_release(&j->old);
    known_chunks_release(&j->known);
    buffer_release(&j->hashes);
    dir_handle_drop(j->dir);
    free(j);
}

/* ---- what all workers share ---- */

void save_work_fail(struct save_work *w, const struct error *e)
{
    pthread_mutex_lock(&w->error_lock);
    if (!atomic_load(&w->failed)) {
        w->error = *e;
        atomic_store(&w->failed, true);
    }
    pthread_mutex_unlock(&w->error_lock);
}

int save_work_check(struct save_work *w, struct error *e)
{
    if (atomic_load_explicit(&w->failed, memory_order_acquire)) {
        pthread_mutex_lock(&w->error_lock);
        *e = w->error;
        pthread_mutex_unlock(&w->error_lock);
        return e->code;
    }
    if (w->req->cancel && atomic_load_explicit(w->req->cancel, memory_order_relaxed))
        return error_set(e, ERR_CANCELLED, "interrupted");
    return 0;
}

void save_work_read(struct save_work *w, uint64_t bytes)
{
    atomic_fetch_add_explicit(&w->bytes_read, bytes, memory_order_relaxed);
    if (w->req->progress)
        atomic_fetch_add_explicit(&w->req->progress->bytes_read, bytes, memory_order_relaxed);
}

void save_worker_release(struct save_worker *w)
{
    free(w->raw);
    free(w->chunks);
    chunk_source_close(w->source);
    *w = (struct save_worker){.work = w->work};
}

/* ---- chunks of the last version ---- */

bool file_job_load_old(struct file_job *j)
{
    struct error e = ERROR_INIT;

    if (!j->has_old && j->old_meta_len > 0)
        j->has_old = node_decode(j->old_meta, j->old_meta_len, &j->old, &e) == 0;
    return j->has_old;
}

static int take_known(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e)
{
    return known_chunks_add(ctx, ref) ? 0 : 1;
}

static int take_known_list(void *ctx, unsigned level, uint64_t off, const struct chunk_ref *ref,
                           struct error *e)
{
    return known_chunks_add_list(ctx, level, off, ref) ? 0 : 1;
}

static bool walk_known(struct save_worker *w, struct file_job *j)
{
    struct error e = ERROR_INIT;

    if (j->old.depth > 0 && !w->source && chunk_source_open(w->work->req->repo, &w->source, &e) < 0)
        return false;
    return content_walk_lists(w->source, &j->old, take_known_list, take_known, &j->known, &e) == 0;
}

/* Any failure means that nothing is known: then the file is cut and hashed as a new one is. */
void file_job_load_known(struct save_worker *w, struct file_job *j)
{
    const uint8_t *fast = NULL;
    struct signature like = {0}, ignored;

    if (j->known.count > 0 || !file_job_load_old(j) || j->old.ref_count == 0)
        return;
    bool ok = walk_known(w, j);
    size_t at = signature_decode(j->old_cache, j->old_cache_len, &like, &ignored);
    if (at > 0 && j->old_cache_len > at &&
        (j->old_cache_len - at) / sizeof(struct fast_hash) == j->known.count)
        fast = j->old_cache + at;
    if (!ok || !known_chunks_ready(&j->known, fast))
        known_chunks_release(&j->known);
}

/* ---- the batch of small files ---- */

int save_worker_flush(struct save_worker *w, struct error *e)
{
    int rc = 0;

    if (w->chunk_count > 0)
        rc = txn_put_block(w->work->txn, w->chunks, w->chunk_count, w->raw, w->raw_len, false, NULL,
                           NULL, 0, e);
    w->chunk_count = 0;
    w->raw_len = 0;
    return rc;
}

static bool room_for_chunk(struct save_worker *w)
{
    if (w->chunk_count < w->chunk_cap)
        return true;
    uint32_t cap = w->chunk_cap ? 2 * w->chunk_cap : 256;
    struct block_chunk *v = reallocarray(w->chunks, cap, sizeof(*v));
    if (!v)
        return false;
    w->chunks = v;
    w->chunk_cap = cap;
    return true;
}

/* p is a chunk that is ours to put; it moves to the end of the batch. */
static int add_to_batch(struct save_worker *w, const struct chunk_ref *ref, const uint8_t *p,
                        struct error *e)
{
    if (!room_for_chunk(w))
        return no_memory(e);
    if (p != w->raw + w->raw_len)
        memmove(w->raw + w->raw_len, p, ref->len);
    w->chunks[w->chunk_count++] =
        (struct block_chunk){.id = ref->id, .raw_off = w->raw_len, .raw_len = (uint32_t)ref->len};
    w->raw_len += (uint32_t)ref->len;
    return 0;
}

static int put_small(struct save_worker *w, struct file_job *j, const struct cut *cut,
                     const uint8_t *p, struct error *e)
{
    struct chunk_ref ref;
    struct fast_hash fast;

    int rc = chunk_identify(w->work, cut, p, &ref, &fast, e);
    if (rc < 0)
        return rc;
    if (!file_job_add_chunk(j, &ref, &fast))
        return no_memory(e);
    if (rc == 1 && (w->few || cut->len >= DELTA_LEN_MIN)) {
        int alone = chunk_put_alone(w, j, cut, &ref, p, e);
        rc = alone < 0 ? alone : 1 - alone;
    }
    return rc == 1 ? add_to_batch(w, &ref, p, e) : rc;
}

/* The file's bytes stand at raw + raw_len. Those of chunks that go to the batch stay there. */
static int cut_small(struct save_worker *w, struct file_job *j, uint32_t len, struct error *e)
{
    struct cutter c;
    struct cut cuts[32];
    uint8_t *from = w->raw + w->raw_len;
    uint32_t count;
    int rc = 0;

    cutter_init(&c, len, 0, &j->known, w->work->secret);
    while (rc == 0 && len > 0) {
        len -= (uint32_t)cutter_cut(&c, from, len, true, cuts, 32, &count);
        for (uint32_t i = 0; rc == 0 && i < count; i++) {
            rc = put_small(w, j, &cuts[i], from, e);
            from += cuts[i].len;
        }
    }
    return rc;
}

/* ---- one reading ---- */

struct reading {
    struct save_worker *worker;
    struct file_job *job;
    struct file_read f;
    struct wall_time at;
    enum file_verdict verdict;
    bool small;               /* its bytes stand behind the worker's batch */
    bool cut_short;           /* it ended before the length seen at first */
    bool hole;                /* nothing of it is stored: it reads as zeros, and takes no room */
    struct content_look look; /* what a long one is */
};

static bool same_again(struct reading *r, uint32_t len)
{
    struct error e = ERROR_INIT;
    uint8_t *p = malloc(len ? len : 1);
    size_t got = 0;

    bool same = p && file_read_at(&r->f, p, len, 0, &got, &e) == 0 && got == len &&
                memcmp(p, r->worker->raw + r->worker->raw_len, len) == 0;
    free(p);
    return same;
}

static const char *const changing = "kept changing while it was read";

static uint64_t file_job_len(const struct file_job *j)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < j->ref_count; i++)
        sum += j->refs[i].len;
    return sum;
}

static bool all_zeros(const uint8_t *p, size_t n)
{
    return n > 0 && p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

static int read_small(struct reading *r, struct error *e)
{
    struct save_worker *w = r->worker;
    uint32_t len = (uint32_t)r->f.len;
    size_t got = 0;

    if (w->raw_len >= BLOCK_RAW_LEN || w->chunk_count >= CHUNKS_FULL) {
        int rc = save_worker_flush(w, e);
        if (rc < 0)
            return rc;
    }
    if (!w->raw && !(w->raw = malloc(RAW_CAP)))
        return no_memory(e);
    if (file_read_at(&r->f, w->raw + w->raw_len, len, 0, &got, e) < 0)
        return ERR_INCOMPLETE;
    save_work_read(w->work, got);
    r->hole = r->f.st.st_blocks == 0 && all_zeros(w->raw + w->raw_len, got);
    r->verdict = file_read_check(&r->f);
    if (got < len) {
        r->verdict = FILE_CHANGED;
        r->f.len = got;
    } else if (r->verdict == FILE_GREW && same_again(r, len)) {
        r->verdict = FILE_STABLE;
    }
    return 0;
}

/* All of a file's pieces are stored before it is known whether it held still. */
static int read_large(struct reading *r, struct error *e)
{
    struct file_job *j = r->job;
    uint32_t runs = 0;
    bool same = false;
    int rc = file_read_extents(&r->f, &j->extents, &runs, e);

    if (rc < 0)
        return rc;
    r->hole = rc == 1;
    if (r->hole) {
        r->verdict = file_read_check(&r->f);
        return 0;
    }
    struct stream s = {.fd = r->f.fd, .runs = j->extents, .run_count = runs, .len = r->f.len};
    struct stream again = s;
    content_look_begin(&r->look, j->name);
    s.look = &r->look;
    rc = stream_store(r->worker, j, &s, 0, e);
    if (rc < 0)
        return s.read_failed ? ERR_INCOMPLETE : rc;
    r->verdict = file_read_check(&r->f);
    if (s.ended_early) {
        r->verdict = FILE_CHANGED;
        r->cut_short = true;
        r->f.len = file_job_len(j);
    }
    if (r->verdict == FILE_GREW && runs == 0) {
        rc = stream_same(r->worker, j, &again, &same, e);
        if (rc < 0)
            return again.read_failed ? ERR_INCOMPLETE : rc;
        if (same)
            r->verdict = FILE_STABLE;
    }
    j->n.extents = j->extents;
    j->n.extent_count = runs;
    return 0;
}

/* A source that cannot be read, in words that do not change from one save to the next. */
static int unread_for(struct file_job *j, int sys, struct error *e)
{
    char reason[128];
    struct buffer b = BUFFER_INIT;

    buffer_printf(&b, "cannot be read: %s", sys ? strerrordesc_np(sys) : "unknown error");
    const char *text = buffer_cstr(&b);
    size_t n = strnlen(text, sizeof(reason) - 1);
    memcpy(reason, text, n);
    reason[n] = 0;
    buffer_release(&b);
    return file_job_unread(j, 0, reason, e);
}

/* Out of something of ours: no fault of the file's. */
static bool is_shortage(int sys)
{
    return sys == EMFILE || sys == ENFILE || sys == ENOMEM;
}

void file_pause(unsigned tries)
{
    struct timespec t = {.tv_nsec = (5L << tries) * 1000000L};

    nanosleep(&t, NULL);
}

unsigned file_tries(uint64_t len)
{
    return len <= OFTEN_READ_MAX ? FILE_TRIES : 2;
}

/* ---- what comes of it ---- */

void file_job_set_stat(struct file_job *j, const struct signature *s)
{
    j->n.type = NODE_FILE;
    j->n.mode = (uint16_t)(s->mode & 07777);
    j->n.uid = s->uid;
    j->n.gid = s->gid;
    j->n.mtime_s = s->mtime_s;
    j->n.mtime_ns = s->mtime_ns;
    j->n.size = s->size;
}

int file_job_set_xattrs(struct file_job *j, int fd, struct error *e)
{
    int rc = xattrs_read(fd, -1, NULL, &j->xattrs, &j->n.xattr_count, e);

    j->n.xattrs = j->xattrs;
    if (rc != ERR_INCOMPLETE)
        return rc;
    log_warn("'%s': %s", j->path, e->message);
    error_clear(e);
    return 0;
}

void file_job_cache(struct file_job *j, const struct signature *s)
{
    j->signature = *s;
    j->look_again |= s->racy;
    buffer_clear(&j->hashes);
}

/* Fast hashes stand behind the signature; before the list is folded. A short file's SHA-256 costs
 * less than opening it did. */
void file_job_cache_hashes(struct file_job *j)
{
    bool is_short = j->ref_count == 1 && j->refs[0].len <= UNHASHED_MAX;

    if (j->ref_count <= CACHED_CHUNKS_MAX && !is_short)
        buffer_append(&j->hashes, j->fast, j->ref_count * sizeof(*j->fast));
}

int file_job_unread(struct file_job *j, uint8_t flags, const char *reason, struct error *e)
{
    struct signature s = j->seen;

    file_job_forget(j);
    if (file_job_load_old(j)) {
        j->n = j->old;
        j->n.owned = NULL;
    } else {
        file_job_set_stat(j, &s);
        j->n.size = 0;
        j->n.flags = 0;
    }
    j->n.mode = (uint16_t)(s.mode & 07777);
    j->n.uid = s.uid;
    j->n.gid = s.gid;
    j->n.flags |= NODE_UNREAD | flags;
    /* One reason after another for the same state is no change. */
    if (!(j->has_old && j->old.flags & NODE_UNREAD && j->old.reason)) {
        j->text = strdup(reason);
        if (!j->text)
            return no_memory(e);
        j->n.reason = j->text;
    }
    s.racy = true; /* try again at the next look */
    file_job_cache(j, &s);
    return file_job_compare(j, e);
}

int file_job_compare(struct file_job *j, struct error *e)
{
    struct buffer b = BUFFER_INIT;
    int rc = 0;

    j->outcome = FILE_DIFFERS;
    if (j->old_meta_len == 0)
        return 0;
    node_encode(&j->n, &b);
    if (!buffer_ok(&b))
        rc = error_set(e, ERR_FAILED, "cannot describe '%s'", j->path);
    else if (b.len == j->old_meta_len && memcmp(b.data, j->old_meta, b.len) == 0)
        j->outcome = FILE_SAME;
    else if (node_equal_but_times(b.data, b.len, j->old_meta, j->old_meta_len))
        j->outcome = FILE_TIMES;
    /* It may also be the receipt alone. */
    if (j->outcome == FILE_TIMES && file_job_load_old(j) && j->old.mtime_s == j->n.mtime_s &&
        j->old.mtime_ns == j->n.mtime_ns)
        j->outcome = FILE_SAME;
    buffer_release(&b);
    return rc;
}

enum content_class file_job_old_class(struct file_job *j)
{
    return file_job_load_old(j) ? node_class(j->old.flags) : CONTENT_OTHER;
}

void file_job_set_class(struct file_job *j, enum content_class class)
{
    j->n.flags = node_with_class(j->n.flags, class);
    if (file_job_load_old(j))
        j->n.flags |= j->old.flags & NODE_SPOILT;
}

static void classify(struct reading *r)
{
    const struct save_worker *w = r->worker;
    struct file_job *j = r->job;

    if (r->small || r->hole)
        content_look_begin(&r->look, j->name);
    if (r->small)
        content_look_feed(&r->look, w->raw + w->raw_len, (size_t)r->f.len);
    if (j->n.extent_count > 0) /* holes read as zeros, which no JSON has */
        content_look_feed(&r->look, "", 1);
    file_job_set_class(j, content_look_end(&r->look, r->f.len, file_job_old_class(j)));
}

/* The reading counts: cut what is not cut yet, and describe it. */
static int accept(struct reading *r, bool unstable, struct error *e)
{
    struct file_job *j = r->job;
    struct signature s = r->f.before;
    int rc = 0;

    classify(r);
    if (r->small && !r->hole)
        rc = cut_small(r->worker, j, (uint32_t)r->f.len, e);
    if (rc < 0)
        return rc;
    file_job_set_stat(j, &s);
    j->n.size = r->f.len;
    rc = file_job_set_xattrs(j, r->f.fd, e);
    if (rc < 0)
        return rc;
    s.racy = unstable || signature_is_racy(&s, r->at);
    if (unstable) {
        j->n.flags |= NODE_CHANGING;
        j->n.reason = changing;
    }
    file_job_cache(j, &s);
    file_job_cache_hashes(j);
    rc = file_job_fold(r->worker, j, e);
    return rc < 0 ? rc : file_job_compare(j, e);
}

static bool is_small(const struct file_read *f)
{
    bool sparse = (uint64_t)f->st.st_blocks * 512 < f->len && f->len > CHUNK_WHOLE_MAX;

    return f->len <= SMALL_FILE_MAX && !sparse;
}

static bool is_database(const struct reading *r)
{
    const struct save_worker *w = r->worker;

    if (!w->work->req->watch->sqlite)
        return false;
    return r->small ? file_begins_as_database(w->raw + w->raw_len, (size_t)r->f.len)
                    : file_read_is_database(&r->f);
}

/* 1: it changed, read it again. */
static int read_once(struct reading *r, bool last, struct error *e)
{
    struct file_job *j = r->job;
    int rc = r->small ? read_small(r, e) : 0;

    if (rc == 0 && is_database(r)) {
        rc = database_store(r->worker, j, &r->f, r->at, e);
        if (rc != 1)
            return rc;
        rc = 0;
    }
    if (rc == 0 && !r->small)
        rc = read_large(r, e);
    if (rc == ERR_INCOMPLETE) {
        int sys = e->sys;
        error_clear(e);
        return unread_for(j, sys, e);
    }
    if (rc < 0)
        return rc;
    if (r->verdict != FILE_STABLE && !last)
        return 1;
    if (r->cut_short && j->n.extent_count > 0)
        return file_job_unread(j, NODE_CHANGING, changing, e);
    return accept(r, r->verdict != FILE_STABLE, e);
}

static int open_failed(struct file_job *j, struct error *e)
{
    int sys = e->sys;

    if (e->code == ERR_NOTFOUND) {
        j->outcome = FILE_VANISHED;
        j->look_again = true;
        return 0;
    }
    if (is_shortage(sys))
        return e->code;
    error_clear(e);
    return unread_for(j, sys, e);
}

/* One try: 1 = again. */
static int try_file(struct reading *r, bool last, struct error *e)
{
    struct save_worker *w = r->worker;
    struct file_job *j = r->job;
    int rc = save_work_check(w->work, e);

    if (rc < 0)
        return rc;
    file_job_forget(j);
    r->cut_short = r->hole = false;
    r->at = clock_wall();
    rc = file_read_open(&r->f, j->dir->fd, j->name, j->flush, e);
    if (rc < 0)
        return open_failed(j, e);
    r->small = is_small(&r->f);
    rc = read_once(r, last, e);
    file_read_close(&r->f);
    return rc;
}

int file_job_run(struct save_worker *w, struct file_job *j, struct error *e)
{
    struct reading r = {.worker = w, .job = j, .f = {.fd = -1}};
    int rc = 1;

    file_job_load_known(w, j);
    for (unsigned i = 0; rc == 1; i++) {
        unsigned tries = i > 0 ? file_tries(r.f.len) : FILE_TRIES;
        if (i > 0)
            file_pause(i - 1);
        rc = try_file(&r, i + 1 >= tries, e);
    }
    known_chunks_release(&j->known);
    return rc;
}
