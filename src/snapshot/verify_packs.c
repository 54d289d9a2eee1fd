/* Walking every pack, logs first. This thread reads, checks the framing and the log's records; the
 * bodies of blocks go to workers, which expand them and compare each chunk's SHA-256. */
#include "snapshot/verify_job.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

struct log_state { /* of the order of all log packs */
    uint64_t sequence;
    struct hash chain; /* of the last commit */
    bool has_chain;
    uint64_t cut_pack, cut_from, cut_to; /* a first commit that is not the first of the log */
    bool broken;    /* something is missing: neither order nor chain can be told any more */
    uint64_t blank; /* a pack without a header, since the last commit */
    struct number_set commits, lists;
    bool folded; /* a checkpoint stands for what is gone */
};

struct pack_walk {
    struct verify_job *job;
    struct queue *queue;
    struct log_state *log;
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

static bool expand(struct expander *x, const struct record *r, const struct block *b)
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
    return true;
}

static void check_block(struct expander *x, const struct record *r, const uint8_t *body)
{
    struct error e = ERROR_INIT;
    struct block b;
    struct hash id;
    bool all = true;

    if (block_decode(body, r->len, &b, &e) != 0) {
        block_fault(x, r, "a block does not parse", NULL);
        return;
    }
    if (expand(x, r, &b)) {
        for (uint32_t i = 0; i < b.count; i++) {
            const struct block_chunk *c = &b.chunks[i];
            hash_sha256(x->raw + c->raw_off, c->raw_len, &id);
            bool same = !SAFETY(VERIFY_HASH, !hash_equal(&id, &c->id));
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

/* ---- packs that are lost ---- */

/* There may have been commits and lists. */
static void breaks_log(struct verify_job *j, struct log_state *log, size_t fault)
{
    log->broken = true;
    pthread_mutex_lock(&j->lock);
    j->faults[fault].log = true;
    pthread_mutex_unlock(&j->lock);
}

/* repo_packs may have told it already: then that fault stands for it. */
static int lost_pack(struct verify_job *j, struct log_state *log, const struct pack_row *row,
                     const struct error *why, struct error *e)
{
    size_t fault = NO_FAULT;

    pthread_mutex_lock(&j->lock);
    for (size_t i = 0; i < j->fault_count && fault == NO_FAULT; i++) {
        if (j->faults[i].pack_id == row->id)
            fault = i;
    }
    pthread_mutex_unlock(&j->lock);
    if (fault == NO_FAULT)
        fault = verify_fault_of(j, row->id, 0, 0, true, why);
    if (fault == NO_FAULT)
        return no_memory(e);
    if (row->kind == PACK_LOG)
        breaks_log(j, log, fault);
    return 0;
}

/* ---- the log's records ---- */

static int note(struct number_set *s, uint64_t v, struct error *e)
{
    return number_set_add(s, v) < 0 ? no_memory(e) : 0;
}

static int check_commit_list(const struct commit *c, struct error *e)
{
    struct buffer ops = BUFFER_INIT;

    if (c->list_len == 0)
        return 0;
    int rc = commit_list_decode(c, &ops, e);
    buffer_release(&ops);
    return rc;
}

/* An empty pack where commits are missing is what held them. */
static int chain_breaks(struct pack_walk *w, const char **why, struct error *e)
{
    const struct pack_row blank = {.id = w->log->blank, .kind = PACK_LOG};
    struct error empty = ERROR_INIT;

    if (blank.id) {
        error_set(&empty, ERR_DAMAGED, "the pack is empty, and commits are missing");
        return lost_pack(w->job, w->log, &blank, &empty, e);
    }
    *why = "a commit does not follow on the one before it";
    return 0;
}

/* A commit follows on the one before by its hash. *why stays NULL when all is well. */
static int check_commit(struct pack_walk *w, uint64_t from, uint64_t to, const uint8_t *body,
                        size_t len, const char **why, struct error *e)
{
    struct log_state *log = w->log;
    struct commit c;

    int rc = commit_decode(body, len, &c, e);
    if (rc != 0)
        return rc;
    if (!log->has_chain && !log->broken && !hash_is_zero(&c.chain)) {
        log->cut_pack = log->blank ? log->blank : w->row->id;
        log->cut_from = log->blank ? 0 : from;
        log->cut_to = log->blank ? 0 : to;
    }
    if (log->has_chain && !log->broken && !hash_equal(&c.chain, &log->chain))
        rc = chain_breaks(w, why, e);
    log->blank = 0;
    hash_sha256(body, len, &log->chain);
    log->has_chain = true;
    if (rc == 0)
        rc = note(&log->commits, c.number, e);
    w->last_number = c.number;
    if (rc == 0)
        rc = check_commit_list(&c, e);
    commit_release(&c);
    return rc;
}

static int check_list(const uint8_t *body, size_t len, uint64_t *number, struct error *e)
{
    struct buffer ops = BUFFER_INIT;
    uint8_t watch[WATCH_ID_LEN];
    struct op op;

    int rc = file_list_decode(body, len, number, watch, &ops, e);
    struct reader r = reader_of(ops.data, ops.len);
    while (rc == 0 && (rc = op_decode(&r, &op, e)) == 1)
        rc = 0;
    buffer_release(&ops);
    return rc;
}

static int check_rows(struct log_state *log, const struct buffer *rows, struct error *e)
{
    struct reader r = reader_of(rows->data, rows->len);
    struct row row;
    int rc;

    while ((rc = row_decode(&r, &row, e)) == 1) {
        struct commit c;
        if (row.type != ROW_SNAPSHOT)
            continue;
        rc = commit_decode(row.bytes, row.len, &c, e);
        if (rc == 0) {
            rc = note(&log->commits, c.number, e);
            commit_release(&c);
        }
        if (rc != 0)
            break;
    }
    return rc;
}

static int check_checkpoint(struct log_state *log, const uint8_t *body, size_t len, struct error *e)
{
    struct checkpoint_part part;
    struct buffer rows = BUFFER_INIT;

    int rc = checkpoint_decode(body, len, &part, &rows, e);
    if (rc == 0)
        rc = check_rows(log, &rows, e);
    log->folded = true;
    buffer_release(&rows);
    return rc;
}

static int check_seal(const struct pack_walk *w, uint64_t from, const uint8_t *body, size_t len,
                      const char **why, struct error *e)
{
    struct seal s;

    int rc = seal_decode(body, len, &s, e);
    if (rc == 0 && s.len != from)
        *why = "its seal tells another length";
    return rc;
}

static int check_small(uint8_t type, const uint8_t *body, size_t len, struct error *e)
{
    struct mark mark;
    struct prune prune;
    struct compaction compaction;
    struct fence fence;
    int rc = 0;

    switch (type) {
    case RECORD_MARK:
        if ((rc = mark_decode(body, len, &mark, e)) == 0)
            mark_release(&mark);
        break;
    case RECORD_PRUNE:
        if ((rc = prune_decode(body, len, &prune, e)) == 0)
            prune_release(&prune);
        break;
    case RECORD_COMPACTION:
        if ((rc = compaction_decode(body, len, &compaction, e)) == 0)
            compaction_release(&compaction);
        break;
    case RECORD_FENCE:
        rc = fence_decode(body, len, &fence, e);
        break;
    default:
        break;
    }
    return rc;
}

/* Whether what a sound record says can be understood; damage becomes a fault. */
static int check_record(struct pack_walk *w, uint64_t from, uint64_t to,
                        const struct record_header *h, const uint8_t *body)
{
    struct error e = ERROR_INIT;
    const char *why = NULL;
    int rc;

    switch (h->type) {
    case RECORD_COMMIT:
        rc = check_commit(w, from, to, body, h->body_len, &why, &e);
        break;
    case RECORD_FILE_LIST:
        rc = check_list(body, h->body_len, &w->last_number, &e);
        if (rc == 0)
            rc = note(&w->log->lists, h->sequence, &e);
        break;
    case RECORD_CHECKPOINT:
        rc = check_checkpoint(w->log, body, h->body_len, &e);
        break;
    case RECORD_SEAL:
        rc = check_seal(w, from, body, h->body_len, &why, &e);
        break;
    default:
        rc = check_small(h->type, body, h->body_len, &e);
        break;
    }
    if (rc == ERR_DAMAGED)
        why = e.message;
    else if (rc != 0) {
        *w->e = e;
        return rc;
    }
    if (why)
        verify_fault(w->job, w->row->id, from, to, false, why);
    return 0;
}

static void check_sequence(struct pack_walk *w, uint64_t from, uint64_t to,
                           const struct record_header *h)
{
    struct log_state *log = w->log;

    if (h->sequence == 0)
        return;
    if (h->sequence <= log->sequence && !log->broken)
        verify_fault(w->job, w->row->id, from, to, false, "a record is out of order");
    log->sequence = h->sequence;
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
        breaks_log(w->job, w->log, fault);
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
        breaks_log(w->job, w->log, fault);
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
        rc = note(&w->job->seen, verify_record_print(w->row->id, from), w->e);
        pthread_mutex_unlock(&w->job->lock);
        return rc;
    }
    if (h->type == RECORD_BLOCK)
        return add_block(w, from, to, body, h->body_len);
    check_sequence(w, from, to, h);
    return check_record(w, from, to, h, body);
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

static int walk_pack(struct verify_job *j, struct queue *q, struct log_state *log,
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
        return lost_pack(j, log, row, &why, e);
    verify_progress(j, PACK_HEADER_LEN);
    rc = walk_open_pack(&w, span->from);
    if (rc == ERR_FAILED && e->sys != 0 && verify_stopped(j, &why) == 0)
        rc = unread_rest(&w);
    send_load(&w);
    pack_close(w.pack);
    return rc;
}

/* ---- commits and lists against the catalog ---- */

static bool record_missing(const struct log_state *log, const struct verify_snapshot *s)
{
    if (!number_set_has(&log->commits, s->number))
        return true;
    for (uint64_t i = 0; !log->folded && i < s->list_count; i++) {
        if (!number_set_has(&log->lists, s->list_first + i))
            return true;
    }
    return false;
}

/* Some fault that could be what a record is missing for; what was not read comes first. */
static size_t log_fault(const struct verify_job *j)
{
    size_t found = NO_FAULT;

    for (size_t i = 0; i < j->fault_count; i++) {
        if (j->faults[i].log && j->faults[i].unread)
            return i;
        if (j->faults[i].log && found == NO_FAULT)
            found = i;
    }
    return found;
}

static int check_snapshots(struct verify_job *j, const struct log_state *log, struct error *e)
{
    int rc = 0;

    /* A checkpoint would stand for what is gone. */
    if (log->cut_pack && !log->folded && log_fault(j) == NO_FAULT)
        verify_fault(j, log->cut_pack, log->cut_from, log->cut_to, false,
                     "commits before the first one of the log are missing");
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        struct verify_snapshot *s = &j->snapshots[i];
        if (s->whole && !record_missing(log, s))
            continue;
        size_t fault = log_fault(j);
        if (fault == NO_FAULT)
            fault = verify_fault(j, 0, 0, 0, true,
                                 s->whole ? "its commit or file lists are not in the packs"
                                          : "its file lists do not give the state that was saved");
        s->unsure = s->whole && fault != NO_FAULT && j->faults[fault].unread;
        s->hit = !s->unsure;
        rc = fault == NO_FAULT ? no_memory(e) : verify_damage(j, fault, NULL, &s->number, 1, e);
    }
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

static void log_release(struct log_state *log)
{
    number_set_release(&log->commits);
    number_set_release(&log->lists);
    *log = (struct log_state){0};
}

int verify_packs(struct verify_job *j, struct error *e)
{
    struct log_state log = {0};
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
        rc = check_snapshots(j, &log, e);
    log_release(&log);
    return rc;
}

int verify_spans(struct verify_job *j, const struct verify_span *spans, size_t count,
                 struct error *e)
{
    struct pool pool;
    int rc = pool_open(&pool, j, e);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct log_state log = {0}; /* what is between two spans is not known */
        rc = walk_pack(j, &pool.queue, &log, &spans[i], e);
        log_release(&log);
    }
    if (rc != 0)
        verify_fail(j, e);
    pool_close(&pool);
    return rc == 0 ? verify_stopped(j, e) : rc;
}
