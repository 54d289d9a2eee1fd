/* Walking every pack, logs first. This thread reads and checks the framing, and has the log's
 * records checked (verify_log.c); the bodies of blocks go to workers, which expand them and compare
 * each chunk's SHA-256. */
#include "snapshot/verify_job.h"

#include "base/safety.h"
#include "io/fileops.h"

#include <fcntl.h>
#include <stdlib.h>

#include "base/banned.h"

enum { WORKERS_MAX = 4, QUEUE_BYTES = 4 * 1024 * 1024, LOAD_BYTES = 512 * 1024 };

struct record { /* of a block; its body stands in load.bytes */
    uint64_t pack_id, from, to;
    size_t body, len;
};

struct load { /* records for one worker */
    struct load *next;
    struct record *records;
    size_t count, cap;
    struct buffer bytes;
};

struct queue {
    struct verify_job *job;
    pthread_mutex_t lock;
    pthread_cond_t more, room;
    struct load *first, **end;
    size_t bytes;
    bool closed;
};

struct pack_walk {
    struct verify_job *job;
    struct queue *queue;
    struct verify_log *log;
    const struct pack_row *row;
    struct pack *pack;
    struct load *load;
    uint64_t at;          /* where the walk stands */
    uint64_t last;        /* where the last sound record begins */
    uint64_t last_number; /* the snapshot whose commit or list it is, 0 = neither */
    uint64_t records;
    struct error *e;
};

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- workers: blocks ---- */

struct expander {
    struct verify_job *job;
    struct chunk_source *source;
    uint8_t *raw; /* raw_cap bytes, at most BLOCK_RAW_MAX */
    size_t raw_cap;
    struct number_set seen;
    uint64_t chunks;
};

static void load_free(struct load *l)
{
    if (!l)
        return;
    free(l->records);
    buffer_release(&l->bytes);
    free(l);
}

static void block_fault(struct expander *x, const struct record *r, const char *what,
                        const struct error *why)
{
    struct error e = ERROR_INIT;

    error_set(&e, why ? why->code : ERR_DAMAGED, "%s%s%s", what, why ? ": " : "",
              why ? why->message : "");
    verify_fault_of(x->job, r->pack_id, r->from, r->to, true, &e);
}

static bool raw_reserve(struct expander *x, size_t len)
{
    struct error e = ERROR_INIT;

    if (len <= x->raw_cap)
        return true;
    free(x->raw);
    x->raw = malloc(len);
    x->raw_cap = x->raw ? len : 0;
    if (x->raw)
        return true;
    no_memory(&e);
    verify_fail(x->job, &e);
    return false;
}

static bool expand(struct expander *x, const struct record *r, struct block *b)
{
    struct error e = ERROR_INIT;
    const uint8_t *base = NULL;
    size_t base_len = 0;

    if (!raw_reserve(x, b->raw_len))
        return false;
    if (b->has_base && chunk_source_get(x->source, &b->base.id, &base, &base_len, &e) != 0) {
        block_fault(x, r, "the base of a delta cannot be read", &e);
        return false;
    }
    if (block_expand(b, base, base_len, x->raw, &e) != 0) {
        block_fault(x, r, "a block does not expand", &e);
        return false;
    }
    block_name(b, x->raw);
    return true;
}

static void check_block(struct expander *x, const struct record *r, const uint8_t *body)
{
    struct error e = ERROR_INIT;
    struct block b;
    struct hash id;
    bool all = true;

    int rc = block_decode(body, r->len, &b, &e);
    if (rc == ERR_FAILED) {
        verify_fail(x->job, &e); /* no memory, which says nothing about the block */
        return;
    }
    if (rc != 0) {
        block_fault(x, r, "a block does not parse", NULL);
        return;
    }
    if (expand(x, r, &b)) {
        for (uint32_t i = 0; i < b.count; i++) {
            const struct block_chunk *c = &b.chunks[i];
            if (!b.bare) /* else that it is another than is needed shows in the end */
                hash_sha256(x->raw + c->raw_off, c->raw_len, &id);
            bool same = b.bare || !SAFETY(VERIFY_HASH, !hash_equal(&id, &c->id));
            all = all && same;
            x->chunks++;
            if (same && number_set_add(&x->seen, verify_print(&c->id, r->pack_id, r->from,
                                                              c->raw_off, c->raw_len)) < 0) {
                no_memory(&e);
                verify_fail(x->job, &e);
            }
        }
        if (!all)
            block_fault(x, r, "a chunk does not match its SHA-256", NULL);
    }
    block_release(&b);
}

static struct load *take_load(struct queue *q)
{
    struct error ignored = ERROR_INIT;

    pthread_mutex_lock(&q->lock);
    while (!q->first && !q->closed)
        pthread_cond_wait(&q->more, &q->lock);
    struct load *l = q->first;
    if (l) {
        q->first = l->next;
        if (!q->first)
            q->end = &q->first;
        q->bytes -= l->bytes.len;
        pthread_cond_signal(&q->room);
    }
    pthread_mutex_unlock(&q->lock);
    if (l && verify_stopped(q->job, &ignored) != 0)
        l->count = 0;
    return l;
}

/* What one expander found goes to the job. */
static void fold(struct expander *x)
{
    struct error e = ERROR_INIT;
    struct verify_job *j = x->job;
    bool ok = true;

    pthread_mutex_lock(&j->lock);
    j->chunks += x->chunks;
    if (j->seen.count == 0) {
        struct number_set empty = j->seen;
        j->seen = x->seen;
        x->seen = empty;
    } else {
        for (size_t i = 0; ok && i < x->seen.cap; i++)
            ok = x->seen.slots[i] == 0 || number_set_add(&j->seen, x->seen.slots[i]) >= 0;
    }
    pthread_mutex_unlock(&j->lock);
    number_set_release(&x->seen);
    if (!ok) {
        no_memory(&e);
        verify_fail(j, &e);
    }
}

static void *expand_loads(void *queue)
{
    struct queue *q = queue;
    struct expander x = {.job = q->job};
    struct error e = ERROR_INIT;
    struct load *l;

    int rc = chunk_source_open(x.job->req->repo, &x.source, &e);
    if (rc != 0)
        verify_fail(x.job, &e);
    while ((l = take_load(q)) != NULL) {
        for (size_t i = 0; rc == 0 && i < l->count; i++)
            check_block(&x, &l->records[i], l->bytes.data + l->records[i].body);
        load_free(l);
    }
    fold(&x);
    chunk_source_close(x.source);
    free(x.raw);
    return NULL;
}

static void send_load(struct pack_walk *w)
{
    struct queue *q = w->queue;
    struct load *l = w->load;

    w->load = NULL;
    if (!l)
        return;
    pthread_mutex_lock(&q->lock);
    while (q->bytes > QUEUE_BYTES)
        pthread_cond_wait(&q->room, &q->lock);
    *q->end = l;
    q->end = &l->next;
    q->bytes += l->bytes.len;
    pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
}

static int add_block(struct pack_walk *w, uint64_t from, uint64_t to, const uint8_t *body,
                     size_t len)
{
    if (!w->load && !(w->load = calloc(1, sizeof(*w->load))))
        return no_memory(w->e);
    struct load *l = w->load;
    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 16;
        struct record *records = reallocarray(l->records, cap, sizeof(*records));
        if (!records)
            return no_memory(w->e);
        l->records = records;
        l->cap = cap;
    }
    l->records[l->count] = (struct record){
        .pack_id = w->row->id, .from = from, .to = to, .body = l->bytes.len, .len = len};
    buffer_append(&l->bytes, body, len);
    if (!buffer_ok(&l->bytes))
        return no_memory(w->e);
    l->count++;
    if (l->bytes.len >= LOAD_BYTES)
        send_load(w);
    return 0;
}

/* ---- one pack ---- */

/* Bytes that fill up to the next record; what stands in the record before is sound. */
static int padding_damage(struct pack_walk *w, uint64_t to)
{
    size_t fault =
        verify_fault(w->job, w->row->id, w->last, to, false, "bytes between records are not zero");

    if (fault == NO_FAULT)
        return no_memory(w->e);
    return w->last_number ? verify_touch(w->job, fault, &w->last_number, 1, w->e) : 0;
}

/* What stands from..to is no record; whether its header can still be read tells how much is known.
 */
static int damage(struct pack_walk *w, uint64_t from, uint64_t to)
{
    struct error ignored = ERROR_INIT;
    uint8_t header[RECORD_HEADER_LEN];
    struct record_header h;

    if (to - from < RECORD_ALIGN && w->last > 0)
        return padding_damage(w, to);
    bool readable = file_read_all(w->pack->fd, header, sizeof(header), from, &ignored) == 0 &&
                    record_header_decode(header, w->row->id, from, &h, &ignored) == 0;
    size_t fault = verify_fault(w->job, w->row->id, from, to, true,
                                readable ? "a record does not match its checksum"
                                         : "the header of a record does not match its checksum");
    if (fault == NO_FAULT)
        return no_memory(w->e);
    if (w->row->kind == PACK_LOG && !(readable && h.type == RECORD_BLOCK))
        verify_log_breaks(w->job, w->log, fault);
    return 0;
}

/* The disk refused a read: what stands from there on is looked for piece by piece by the audit. */
static int unread_rest(struct pack_walk *w)
{
    struct error why = *w->e;
    size_t fault = verify_fault_of(w->job, w->row->id, w->at, UINT64_MAX, true, &why);

    if (fault == NO_FAULT)
        return no_memory(w->e);
    error_clear(w->e);
    if (w->row->kind == PACK_LOG)
        verify_log_breaks(w->job, w->log, fault);
    return 0;
}

static int visit_record(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                        const uint8_t *body)
{
    struct pack_walk *w = ctx;

    int rc = verify_stopped(w->job, w->e);
    if (rc != 0)
        return rc;
    verify_progress(w->job, to - from);
    w->at = to;
    if (!h)
        return damage(w, from, to);
    w->last = from;
    w->last_number = 0;
    w->records++;
    if (w->job->req->level == VERIFY_QUICK && h->type == RECORD_BLOCK) {
        pthread_mutex_lock(&w->job->lock);
        rc = number_set_add(&w->job->seen, verify_record_print(w->row->id, from)) < 0
                 ? no_memory(w->e)
                 : 0;
        pthread_mutex_unlock(&w->job->lock);
        return rc;
    }
    if (h->type == RECORD_BLOCK)
        return add_block(w, from, to, body, h->body_len);
    return verify_log_record(w->job, w->log, &(struct verify_place){w->row->id, from, to}, h, body,
                             &w->last_number, w->e);
}

/* Only the headers of records, up to the first that is none; *stop tells where. */
static int walk_headers(struct pack_walk *w, uint64_t *stop)
{
    uint8_t header[RECORD_HEADER_LEN];
    uint64_t at = PACK_HEADER_LEN;
    int rc = 0;

    while (rc == 0 && at + sizeof(header) <= w->pack->len) {
        struct error e = ERROR_INIT;
        struct record_header h;
        if (file_read_all(w->pack->fd, header, sizeof(header), at, &e) != 0 ||
            record_header_decode(header, w->row->id, at, &h, &e) != 0 ||
            record_span(h.body_len) > w->pack->len - at)
            break;
        if (h.type == RECORD_BLOCK)
            rc = visit_record(w, at, at + record_span(h.body_len), &h, NULL);
        else
            break; /* its body has to be read */
        at += record_span(h.body_len);
    }
    *stop = at;
    return rc;
}

static int walk_open_pack(struct pack_walk *w, uint64_t from)
{
    int rc = 0;

    posix_fadvise(w->pack->fd, 0, 0, POSIX_FADV_DONTNEED);
    if (w->job->req->level == VERIFY_QUICK && w->row->kind == PACK_DATA)
        rc = walk_headers(w, &from);
    if (rc == 0)
        rc = pack_walk(w->pack, from, UINT64_MAX, visit_record, w, NULL, w->e);
    return rc;
}

static int walk_pack(struct verify_job *j, struct queue *q, struct verify_log *log,
                     const struct verify_span *span, struct error *e)
{
    const struct pack_row *row = span->row;
    struct pack_walk w = {.job = j, .queue = q, .log = log, .row = row, .e = e};
    struct error why = ERROR_INIT;

    if (row->blank) {
        if (row->kind == PACK_LOG)
            log->blank = row->id;
        return 0;
    }
    int rc = repo_pack_open(j->req->repo, row, &w.pack, &why);
    if (rc != 0)
        return verify_log_lost(j, log, row, &why, e);
    verify_progress(j, PACK_HEADER_LEN);
    rc = walk_open_pack(&w, span->from);
    if (rc == ERR_FAILED && e->sys != 0 && verify_stopped(j, &why) == 0)
        rc = unread_rest(&w);
    send_load(&w);
    pack_close(w.pack);
    return rc;
}

/* ---- all packs ---- */

void verify_drop_cache(struct verify_job *j)
{
    for (size_t i = 0; i < j->pack_count; i++) {
        struct error ignored = ERROR_INIT;
        struct pack *p;
        if (repo_pack_open(j->req->repo, &j->packs[i], &p, &ignored) != 0)
            continue;
        posix_fadvise(p->fd, 0, 0, POSIX_FADV_DONTNEED);
        pack_close(p);
    }
}

static void close_queue(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->more);
    pthread_mutex_unlock(&q->lock);
}

struct pool {
    struct queue queue;
    pthread_t threads[WORKERS_MAX];
    unsigned started;
};

static int pool_open(struct pool *p, struct verify_job *j, struct error *e)
{
    unsigned wanted = j->req->level == VERIFY_FULL ? verify_workers(j->req) : 0;
    struct queue *q = &p->queue;

    *p = (struct pool){.queue.job = j};
    q->end = &q->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->more, NULL);
    pthread_cond_init(&q->room, NULL);
    while (p->started < wanted &&
           pthread_create(&p->threads[p->started], NULL, expand_loads, q) == 0)
        p->started++;
    return wanted == 0 || p->started > 0
               ? 0
               : error_set(e, ERR_FAILED, "cannot start a thread to verify with");
}

/* All that was sent has been expanded after this. */
static void pool_close(struct pool *p)
{
    struct queue *q = &p->queue;

    close_queue(q);
    for (unsigned i = 0; i < p->started; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&q->room);
    pthread_cond_destroy(&q->more);
    pthread_mutex_destroy(&q->lock);
}

int verify_packs(struct verify_job *j, struct error *e)
{
    struct verify_log log = {0};
    struct pool pool;
    int rc = pool_open(&pool, j, e);

    for (size_t i = 0; rc == 0 && i < j->pack_count; i++)
        rc = walk_pack(j, &pool.queue, &log, &(struct verify_span){.row = &j->packs[i]}, e);
    if (rc != 0)
        verify_fail(j, e);
    pool_close(&pool);
    if (rc == 0)
        rc = verify_stopped(j, e);
    if (rc == 0)
        rc = verify_log_end(j, &log, e);
    verify_log_release(&log);
    return rc;
}

int verify_spans(struct verify_job *j, const struct verify_span *spans, size_t count,
                 struct error *e)
{
    struct pool pool;
    int rc = pool_open(&pool, j, e);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct verify_log log = {0}; /* what is between two spans is not known */
        rc = walk_pack(j, &pool.queue, &log, &spans[i], e);
        verify_log_release(&log);
    }
    if (rc != 0)
        verify_fail(j, e);
    pool_close(&pool);
    return rc == 0 ? verify_stopped(j, e) : rc;
}
