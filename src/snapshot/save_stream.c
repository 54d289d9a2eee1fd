/* A large file goes through in pieces. The thread that has the job reads and cuts; hashing and
 * packing of a piece is a task, so that idle threads take it. The number of pieces under way is
 * bounded, and with it the memory. */
#include "snapshot/save_file.h"

#include "base/bytes.h"
#include "store/chunk_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    PIECE_LEN = 1024 * 1024,
    PIECES_RAW_MAX = 16 * 1024 * 1024, /* under way, of one file */
    LIST_BLOCK_MAX = 1024 * 1024,
};

/* ---- the stream ---- */

static int read_at(int fd, uint8_t *p, size_t n, uint64_t off, size_t *got, struct error *e)
{
    struct file_read f = {.fd = fd};

    return file_read_at(&f, p, n, off, got, e);
}

static int stream_read(struct stream *s, uint8_t *p, size_t n, size_t *got, struct error *e)
{
    const struct node_extent whole = {0, s->len};
    const struct node_extent *runs = s->run_count ? s->runs : &whole;
    uint32_t count = s->run_count ? s->run_count : 1;

    *got = 0;
    while (*got < n && s->run < count && !s->ended_early) {
        uint64_t left = runs[s->run].len - s->in_run;
        size_t want = left < n - *got ? (size_t)left : n - *got;
        size_t r = 0;
        int rc = read_at(s->fd, p + *got, want, runs[s->run].off + s->in_run, &r, e);
        if (rc < 0) {
            s->read_failed = true;
            return rc;
        }
        *got += r;
        s->in_run += r;
        s->ended_early = r < want;
        if (s->in_run == runs[s->run].len) {
            s->run++;
            s->in_run = 0;
        }
    }
    return 0;
}

static uint64_t stream_len(const struct stream *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < s->run_count; i++)
        sum += s->runs[i].len;
    return s->run_count ? sum : s->len;
}

/* ---- chunks ---- */

bool file_job_add_chunk(struct file_job *j, const struct chunk_ref *ref,
                        const struct fast_hash *fast)
{
    if (j->ref_count == j->ref_cap) {
        uint32_t cap = j->ref_cap ? 2 * j->ref_cap : 1;
        struct chunk_ref *refs = reallocarray(j->refs, cap, sizeof(*refs));
        if (!refs)
            return false;
        j->refs = refs;
        struct fast_hash *hashes = reallocarray(j->fast, cap, sizeof(*hashes));
        if (!hashes)
            return false;
        j->fast = hashes;
        j->ref_cap = cap;
    }
    j->refs[j->ref_count] = *ref;
    j->fast[j->ref_count++] = *fast;
    return true;
}

static int no_memory(struct error *e)
{
    return error_sys(e, ENOMEM, "cannot save a file");
}

int chunk_identify(struct save_work *w, const struct cut *cut, const uint8_t *p,
                   struct chunk_ref *ref, struct fast_hash *fast, struct error *e)
{
    *fast = cut->fast;
    *ref = (struct chunk_ref){.id = cut->id, .len = cut->len};
    if (!cut->has_fast)
        hash_fast(p, cut->len, w->secret, fast);
    if (!cut->has_id)
        hash_sha256(p, cut->len, &ref->id);
    /* Also when it was known: what was found lost is stored again. */
    return txn_claim(w->txn, &ref->id, e);
}

/* A file that became another one is not tried to its end. */
int chunk_put_alone(struct save_worker *w, struct file_job *j, const struct cut *cut,
                    const struct chunk_ref *ref, const uint8_t *p, struct error *e)
{
    const struct block_chunk c = {.id = ref->id, .raw_len = cut->len};

    if (cut->old == 0 || cut->same || atomic_load(&j->misses) >= DELTA_MISSES_MAX)
        return 0;
    int rc = txn_put_version(w->work->txn, &w->source, &c, p, false,
                             &j->known.v[cut->old - 1].ref.id, cut->len >= DELTA_LEN_MIN, e);
    if (rc < 0)
        return rc;
    if (rc == 1)
        atomic_store(&j->misses, 0);
    else
        atomic_fetch_add(&j->misses, 1);
    return 1;
}

/* ---- pieces ---- */

struct piece {
    struct task task;
    struct piece *next; /* in the order of the file */
    struct cutting *cutting;
    uint8_t *raw;
    uint32_t raw_len;
    uint32_t count;
    struct cut *cuts; /* count of them; then what they are */
    struct chunk_ref *refs;
    struct fast_hash *fast;
    struct block_chunk *block;
};

struct cutting { /* one file on its way */
    struct save_worker *worker;
    struct file_job *job;
    struct cutter cutter;
    uint32_t piece_cap, chunks_cap;
    unsigned under_way, limit;
    struct piece *first, **end;
};

static void piece_free(struct piece *p)
{
    if (!p)
        return;
    free(p->raw);
    free(p->cuts);
    free(p->refs);
    free(p->fast);
    free(p->block);
    free(p);
}

static struct piece *piece_new(struct cutting *c)
{
    struct piece *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->cutting = c;
    p->raw = malloc(c->piece_cap);
    p->cuts = calloc(c->chunks_cap, sizeof(*p->cuts));
    p->refs = calloc(c->chunks_cap, sizeof(*p->refs));
    p->fast = calloc(c->chunks_cap, sizeof(*p->fast));
    p->block = calloc(c->chunks_cap, sizeof(*p->block));
    if (p->raw && p->cuts && p->refs && p->fast && p->block)
        return p;
    piece_free(p);
    return NULL;
}

/* Chunks that are ours to put move together at the front, and become one block; but for those that
 * replace one of the last version. */
static int piece_store(struct piece *p, struct save_worker *w, struct error *e)
{
    uint32_t from = 0, to = 0, claimed = 0;

    for (uint32_t i = 0; i < p->count; i++) {
        const struct cut *cut = &p->cuts[i];
        int rc = chunk_identify(w->work, cut, p->raw + from, &p->refs[i], &p->fast[i], e);
        if (rc == 1) {
            int alone = chunk_put_alone(w, p->cutting->job, cut, &p->refs[i], p->raw + from, e);
            rc = alone < 0 ? alone : 1 - alone;
        }
        if (rc < 0)
            return rc;
        if (rc == 1) {
            if (from != to)
                memmove(p->raw + to, p->raw + from, cut->len);
            p->block[claimed++] =
                (struct block_chunk){.id = p->refs[i].id, .raw_off = to, .raw_len = cut->len};
            to += cut->len;
        }
        from += cut->len;
    }
    if (claimed == 0)
        return 0;
    return txn_put_block(w->work->txn, p->block, claimed, p->raw, to, false, NULL, NULL, 0, e);
}

static void piece_run(struct task *t, void *worker)
{
    struct piece *p = (struct piece *)((char *)t - offsetof(struct piece, task));
    struct save_work *work = ((struct save_worker *)worker)->work;
    struct error e = ERROR_INIT;

    if (save_work_check(work, &e) < 0 || piece_store(p, worker, &e) < 0)
        save_work_fail(work, &e);
}

/* Under the pool's lock. */
static bool piece_room(void *ctx)
{
    struct cutting *c = ctx;
    unsigned under_way = 0;

    for (struct piece *p = c->first; p; p = p->next)
        under_way += !p->task.done;
    return under_way < c->limit;
}

static bool pieces_done(void *ctx)
{
    struct cutting *c = ctx;

    for (struct piece *p = c->first; p; p = p->next) {
        if (!p->task.done)
            return false;
    }
    return true;
}

/* Wait for room (or for all), then take what is done at the front into the job's list. */
static int collect(struct cutting *c, bool all, struct error *e)
{
    struct save_work *work = c->worker->work;

    task_pool_wait(&work->pool, all ? pieces_done : piece_room, c, c->worker);
    for (struct piece *p = c->first; p; p = c->first) {
        if (!all) {
            pthread_mutex_lock(&work->pool.lock);
            bool done = p->task.done;
            pthread_mutex_unlock(&work->pool.lock);
            if (!done)
                break;
        }
        bool kept = true;
        for (uint32_t i = 0; kept && i < p->count; i++)
            kept = file_job_add_chunk(c->job, &p->refs[i], &p->fast[i]);
        c->first = p->next;
        if (!c->first)
            c->end = &c->first;
        piece_free(p);
        if (!kept)
            return no_memory(e);
    }
    return save_work_check(work, e);
}

static int push(struct cutting *c, struct piece *p, struct error *e)
{
    struct save_work *work = c->worker->work;

    *c->end = p;
    c->end = &p->next;
    p->task.run = piece_run;
    if (work->pool.count == 0) {
        piece_run(&p->task, c->worker);
        p->task.done = true;
    } else {
        task_pool_push(&work->pool, &p->task, true);
    }
    return collect(c, false, e);
}

static int run_cutting(struct cutting *c, struct stream *s, struct error *e)
{
    struct piece *p = NULL, *next = NULL;
    size_t have = 0, got = 0;
    bool at_end = false;
    int rc = 0;

    while (!at_end || have > 0) {
        if (!p)
            p = piece_new(c);
        if (!p)
            return no_memory(e);
        rc = stream_read(s, p->raw + have, c->piece_cap - have, &got, e);
        if (rc < 0)
            break;
        save_work_read(c->worker->work, got);
        if (s->look)
            content_look_feed(s->look, p->raw + have, got);
        at_end = have + got < c->piece_cap;
        have += got;
        if (have == 0)
            break;
        p->raw_len = (uint32_t)cutter_cut(&c->cutter, p->raw, have, at_end, p->cuts, c->chunks_cap,
                                          &p->count);
        have -= p->raw_len;
        next = have > 0 ? piece_new(c) : NULL;
        if (have > 0 && !next) {
            rc = no_memory(e);
            break;
        }
        if (next)
            memcpy(next->raw, p->raw + p->raw_len, have);
        rc = push(c, p, e);
        p = next;
        if (rc < 0)
            break;
    }
    piece_free(p);
    return rc;
}

int stream_store(struct save_worker *w, struct file_job *j, struct stream *s, uint32_t page_size,
                 struct error *e)
{
    struct cutting c = {.worker = w, .job = j};
    struct error other = ERROR_INIT;

    cutter_init(&c.cutter, stream_len(s), page_size, &j->known, w->work->secret);
    c.piece_cap = 2 * c.cutter.longest > PIECE_LEN ? 2 * (uint32_t)c.cutter.longest : PIECE_LEN;
    c.chunks_cap = c.piece_cap / (uint32_t)c.cutter.chunker.min + 2;
    c.limit = PIECES_RAW_MAX / c.piece_cap;
    if (c.limit > 2 * w->work->pool.count + 1)
        c.limit = 2 * w->work->pool.count + 1;
    c.end = &c.first;
    int rc = run_cutting(&c, s, e);
    int collected = collect(&c, true, rc < 0 ? &other : e);
    return rc < 0 ? rc : collected;
}

int stream_same(struct save_worker *w, const struct file_job *j, struct stream *s, bool *same,
                struct error *e)
{
    uint8_t *p = malloc(CHUNK_LEN_MAX);
    struct fast_hash fast;
    int rc = p ? 0 : no_memory(e);

    *same = true;
    for (uint32_t i = 0; rc == 0 && *same && i < j->ref_count; i++) {
        size_t got = 0;
        rc = stream_read(s, p, (size_t)j->refs[i].len, &got, e);
        if (rc < 0)
            break;
        hash_fast(p, got, w->work->secret, &fast);
        *same = got == j->refs[i].len && memcmp(&fast, &j->fast[i], sizeof(fast)) == 0;
        rc = save_work_check(w->work, e);
    }
    free(p);
    return rc;
}

/* ---- long lists ---- */

struct list_sink {
    struct save_worker *worker;
    struct file_job *job;
    unsigned level;    /* of the list chunk that comes next */
    uint64_t off, len; /* where it begins in the content; of the content */
    struct buffer raw;
    struct buffer chunks; /* struct block_chunk */
};

static int put_lists(struct list_sink *s, struct error *e)
{
    uint32_t count = (uint32_t)(s->chunks.len / sizeof(struct block_chunk));
    int rc = 0;

    if (!buffer_ok(&s->raw) || !buffer_ok(&s->chunks))
        return no_memory(e);
    if (count > 0)
        rc = txn_put_block(s->worker->work->txn, (const struct block_chunk *)s->chunks.data, count,
                           s->raw.data, (uint32_t)s->raw.len, true, NULL, NULL, 0, e);
    buffer_clear(&s->raw);
    buffer_clear(&s->chunks);
    return rc;
}

/* Content under a list chunk; whole levels come one after the other. */
static uint64_t step_over(struct list_sink *s, const uint8_t *p, size_t n)
{
    uint64_t len = 0;

    if (s->off == s->len) {
        s->level++;
        s->off = 0;
    }
    for (size_t at = 0; at < n; at += CHUNK_REF_LEN)
        len += load_u64(p + at + HASH_LEN);
    s->off += len;
    return len;
}

static int take_list(void *ctx, const struct hash *id, const void *p, size_t n, struct error *e)
{
    struct list_sink *s = ctx;
    struct save_worker *w = s->worker;
    uint64_t len = step_over(s, p, n);
    struct block_chunk c = {.id = *id, .raw_len = (uint32_t)n};

    int rc = txn_claim(w->work->txn, id, e);
    if (rc <= 0)
        return rc;
    const struct hash *old = known_chunks_list(&s->job->known, s->level, s->off - len, len);
    if (old) {
        rc = txn_put_version(w->work->txn, &w->source, &c, p, true, old, true, e);
        return rc < 0 ? rc : 0;
    }
    if (s->raw.len > 0 && s->raw.len + n > LIST_BLOCK_MAX) {
        rc = put_lists(s, e);
        if (rc < 0)
            return rc;
    }
    c.raw_off = (uint32_t)s->raw.len;
    buffer_append(&s->raw, p, n);
    buffer_append(&s->chunks, &c, sizeof(c));
    return 0;
}

static uint64_t content_len(const struct file_job *j)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < j->ref_count; i++)
        sum += j->refs[i].len;
    return sum;
}

int file_job_fold(struct save_worker *w, struct file_job *j, struct error *e)
{
    struct list_sink sink = {.worker = w, .job = j, .raw = BUFFER_INIT, .chunks = BUFFER_INIT};
    int rc = 0;

    j->n.depth = 0;
    if (j->ref_count > NODE_INLINE_REFS) {
        sink.level = 1;
        sink.len = content_len(j);
        rc = chunk_list_fold(&j->refs, &j->ref_count, &j->n.depth, take_list, &sink, e);
        if (rc == 0)
            rc = put_lists(&sink, e);
    }
    j->n.refs = j->refs;
    j->n.ref_count = j->ref_count;
    buffer_release(&sink.raw);
    buffer_release(&sink.chunks);
    return rc;
}
