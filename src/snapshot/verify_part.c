/* Verifying in parts. What stands in the packs behind the watermarks (verify_marks.c) is new; once
 * all of it was read, every snapshot is verified whose chunks all stand below the marks. Beside
 * that a sample goes round: whole packs in the order of their ids, from a noted position on, up to
 * those that were there when the round began: what came later was new then.
 *
 * A part only tells sound from not. Where it finds anything, a full run names what it costs. */
#include "snapshot/verify_job.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "store/catalog.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const char position_key[] = "verify position", bad_key[] = CATALOG_VERIFY_BAD;
enum { POSITION_LEN = 32, MARKED_AT_ONCE = 10000, BAD_LEN = CATALOG_READ_LEN };

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- which snapshots are verified by it ---- */

struct numbers {
    uint64_t *list;
    size_t count, cap;
    bool fresh;     /* those that never were, else those that were before: */
    int64_t before; /* seconds */
    struct error *e;
};

static int add_snapshot(void *ctx, const struct snapshot_row *s)
{
    struct numbers *n = ctx;
    bool was = s->verified.s != 0;

    if (s->damaged || !s->whole || was == n->fresh || (was && s->verified.s >= n->before))
        return 0;
    if (n->count == n->cap) {
        size_t cap = n->cap ? 2 * n->cap : 64;
        uint64_t *list = reallocarray(n->list, cap, sizeof(*list));
        if (!list)
            return no_memory(n->e);
        n->list = list;
        n->cap = cap;
    }
    n->list[n->count++] = s->commit.number;
    return 0;
}

static int mark(const struct verify_part *part, const struct numbers *n, struct wall_time when,
                struct error *e)
{
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < n->count; at += MARKED_AT_ONCE) {
        size_t left = n->count - at;
        const struct mark m = {.type = MARK_VERIFIED,
                               .time = when,
                               .snapshots = n->list + at,
                               .count = (uint32_t)(left < MARKED_AT_ONCE ? left : MARKED_AT_ONCE)};
        rc = repo_mark(part->record_in, &m, e);
    }
    return rc;
}

/* ---- what is to be read ---- */

struct part_run {
    const struct verify_part *part;
    struct verify_request req;
    struct verify_job job;
    struct verify_span *spans;
    size_t span_count;
    bool *whole; /* for each pack: read up to its end */
};

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct pack_row *)a)->id;
    uint64_t y = ((const struct pack_row *)b)->id;

    return x < y ? -1 : x > y;
}

static void ignore_problem(void *ctx, uint64_t pack_id, const char *text)
{
}

/* strangers: packs that are missing, foreign or doubled count as faults. */
static int begin(struct part_run *r, const struct verify_part *part, bool strangers,
                 struct verify_result *result, struct error *e)
{
    struct verify_job *j = &r->job;

    *r = (struct part_run){.part = part};
    r->req = (struct verify_request){.repo = part->repo,
                                     .level = VERIFY_FULL,
                                     .record_in = part->record_in,
                                     .progress = part->progress,
                                     .cancel = part->cancel};
    verify_job_init(j, &r->req, result);
    int rc = verify_marks_load(j, e);
    if (rc == 0)
        rc = repo_packs(part->repo, &j->packs, &j->pack_count,
                        strangers ? verify_pack_problem : ignore_problem, j, e);
    if (rc != 0)
        return rc;
    if (j->pack_count > 0)
        qsort(j->packs, j->pack_count, sizeof(*j->packs), by_id);
    r->spans = calloc(j->pack_count + 1, sizeof(*r->spans));
    r->whole = calloc(j->pack_count + 1, sizeof(*r->whole));
    return r->spans && r->whole ? 0 : no_memory(e);
}

static void end(struct part_run *r)
{
    verify_job_release(&r->job);
    free(r->spans);
    free(r->whole);
}

/* Bytes that this adds to what is read. */
static uint64_t take(struct part_run *r, size_t pack, uint64_t from)
{
    const struct pack_row *row = &r->job.packs[pack];

    r->spans[r->span_count++] = (struct verify_span){.row = row, .from = from};
    r->whole[pack] = true;
    return row->bytes - from;
}

/* Read them; 0 also with faults. */
static int read_spans(struct part_run *r, struct error *e)
{
    struct verify_job *j = &r->job;
    uint64_t bytes = 0;

    for (size_t i = 0; i < r->span_count; i++)
        bytes += r->spans[i].row->bytes - r->spans[i].from;
    j->result->bytes = bytes;
    if (r->part->progress)
        atomic_fetch_add(&r->part->progress->bytes_total, bytes);
    int rc = verify_spans(j, r->spans, r->span_count, e);
    j->result->chunks = j->chunks;
    j->result->errors = j->fault_count;
    return rc == 0 ? verify_marks_raise(j, r->part->record_in, r->whole, e) : rc;
}

/* Name all that is damaged, and record it. */
static int verify_rest(const struct verify_part *part, struct verify_result *result,
                       struct error *e)
{
    const struct verify_request req = {.repo = part->repo,
                                       .level = VERIFY_FULL,
                                       .record = true,
                                       .record_in = part->record_in,
                                       .progress = part->progress,
                                       .cancel = part->cancel};

    verify_result_release(result);
    return verify_run(&req, result, e);
}

/* ---- new ---- */

static uint64_t align_up(uint64_t n)
{
    return (n + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

/* Packs with faults have no mark; which those are is noted, {u64 pack, u64 bytes} each, so that not
 * every save has them read again. That is left to the sample. */
static uint64_t known_bad(const struct buffer *bad, uint64_t pack_id)
{
    uint64_t bytes = 0;

    for (size_t at = 0; at + BAD_LEN <= bad->len; at += BAD_LEN) {
        if (load_u64(bad->data + at) == pack_id)
            bytes = load_u64(bad->data + at + 8);
    }
    return bytes;
}

static bool has_fault(const struct verify_job *j, uint64_t pack_id)
{
    bool has = false;

    for (size_t i = 0; i < j->fault_count; i++)
        has = has || j->faults[i].pack_id == pack_id;
    return has;
}

static int note_bad(struct part_run *r, const struct buffer *known, struct error *e)
{
    const struct verify_job *j = &r->job;
    struct buffer bad = BUFFER_INIT;

    for (size_t i = 0; i < j->pack_count; i++) {
        uint64_t id = j->packs[i].id;
        uint64_t bytes = has_fault(j, id) ? j->packs[i].bytes : known_bad(known, id);
        if (bytes == 0)
            continue;
        put_u64(&bad, id);
        put_u64(&bad, bytes);
    }
    int rc = buffer_ok(&bad) ? repo_note_put(r->part->record_in, bad_key, bad.data, bad.len, e)
                             : no_memory(e);
    buffer_release(&bad);
    return rc;
}

static int load_note(struct part_run *r, const char *key, struct buffer *out, struct error *e)
{
    struct catalog *c;
    int rc = repo_catalog_open(r->part->record_in, &c, e);

    if (rc != 0)
        return rc;
    rc = catalog_note_get(c, key, out, e);
    repo_catalog_close(r->part->record_in, c);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    return rc;
}

static bool take_new(struct part_run *r, const struct buffer *bad, uint64_t max)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < r->job.pack_count; i++) {
        uint64_t id = r->job.packs[i].id;
        uint64_t mark = align_up(verify_mark_of(&r->job, id)), known = known_bad(bad, id);
        uint64_t from = known > mark ? known : mark;
        if (from >= r->job.packs[i].bytes)
            r->whole[i] = mark > 0;
        else if (bytes < max)
            bytes += take(r, i, from);
        else
            return false;
    }
    return true;
}

/* A chunk that is needed and does not stand below a mark stops it. */
static int below_marks(void *ctx, const struct hash *id, const struct chunk_place *p)
{
    return p->refs > 0 && p->offset >= verify_mark_of(ctx, p->pack_id) ? 1 : 0;
}

/* 1: every chunk that the snapshots of one state of the catalog need was read. */
static int all_read(struct part_run *r, struct catalog *c, struct numbers *n, struct error *e)
{
    int rc = catalog_snapshots(c, 0, 1, UINT64_MAX, true, add_snapshot, n, e);

    if (rc != 0 || n->count == 0)
        return rc;
    rc = verify_marks_load(&r->job, e);
    if (rc == 0)
        rc = catalog_chunks(c, below_marks, &r->job, e);
    return rc < 0 ? rc : rc == 0;
}

/* Something in the packs is damaged: which of them need it? */
static int verify_one_by_one(struct part_run *r, const struct numbers *n, struct error *e)
{
    struct verify_result result = {0};
    const struct verify_request req = {.repo = r->part->repo,
                                       .level = VERIFY_FULL,
                                       .snapshots = n->list,
                                       .count = n->count,
                                       .if_there = true,
                                       .record = true,
                                       .record_in = r->part->record_in,
                                       .cancel = r->part->cancel};

    int rc = verify_run(&req, &result, e);
    verify_result_release(&result);
    return rc;
}

static int mark_new(struct part_run *r, struct error *e)
{
    struct numbers n = {.fresh = true, .e = e};
    struct catalog *c;
    int rc = repo_catalog_open(r->part->repo, &c, e);

    if (rc != 0)
        return rc;
    rc = catalog_read_begin(c, e);
    if (rc == 0) {
        rc = all_read(r, c, &n, e);
        catalog_read_end(c);
    }
    repo_catalog_close(r->part->repo, c);
    if (rc == 1)
        rc = mark(r->part, &n, clock_wall(), e);
    else if (rc == 0 && n.count > 0)
        rc = verify_one_by_one(r, &n, e);
    r->job.result->snapshots = n.count;
    free(n.list);
    return rc;
}

static int read_new(const struct verify_part *part, uint64_t max, struct verify_result *result,
                    bool *all, struct error *e)
{
    struct buffer bad = BUFFER_INIT;
    struct part_run r;
    int rc = begin(&r, part, false, result, e);

    if (rc == 0)
        rc = load_note(&r, bad_key, &bad, e);
    *all = rc == 0 && take_new(&r, &bad, max);
    if (rc == 0)
        rc = read_spans(&r, e);
    if (rc == 0 && result->errors > 0)
        rc = note_bad(&r, &bad, e);
    else if (rc == 0 && *all)
        rc = mark_new(&r, e);
    buffer_release(&bad);
    end(&r);
    return rc;
}

int verify_new(const struct verify_part *part, uint64_t max, struct verify_result *result,
               bool *all, struct error *e)
{
    uint64_t begun = clock_mono_ns();
    struct catalog_try tried = repo_catalog_try(part->repo);
    int rc;

    while (rc = read_new(part, max, result, all, e),
           verify_replaced(part->repo, part->record_in, rc, &tried))
        verify_result_release(result);
    if (rc == 0 && result->errors > 0)
        rc = verify_rest(part, result, e);
    result->seconds = (double)(clock_mono_ns() - begun) / 1e9;
    return rc;
}

/* ---- a sample ---- */

struct position {
    uint64_t next, last; /* ids of packs: the one to go on with; the last one of the round */
    uint64_t bytes;      /* that the round had to read when it began */
    int64_t begun;       /* seconds; 0: no round */
};

static int load_position(struct part_run *r, struct position *p, struct error *e)
{
    struct buffer b = BUFFER_INIT;
    int rc = load_note(r, position_key, &b, e);

    *p = (struct position){0};
    if (rc == 0 && b.len == POSITION_LEN)
        *p = (struct position){.next = load_u64(b.data),
                               .last = load_u64(b.data + 8),
                               .bytes = load_u64(b.data + 16),
                               .begun = (int64_t)load_u64(b.data + 24)};
    buffer_release(&b);
    return rc;
}

static int store_position(struct part_run *r, const struct position *p, struct error *e)
{
    uint8_t b[POSITION_LEN];

    store_u64(b, p->next);
    store_u64(b + 8, p->last);
    store_u64(b + 16, p->bytes);
    store_u64(b + 24, (uint64_t)p->begun);
    return repo_note_put(r->part->record_in, position_key, b, sizeof(b), e);
}

static void begin_round(const struct part_run *r, struct position *p)
{
    const struct verify_job *j = &r->job;

    *p = (struct position){.begun = clock_wall().s};
    for (size_t i = 0; i < j->pack_count; i++) {
        p->last = j->packs[i].id;
        p->bytes += j->packs[i].bytes;
    }
}

/* true: the round ends with it. */
static bool take_share(struct part_run *r, struct position *p, unsigned percent)
{
    uint64_t share = (p->bytes + 99) / 100 * percent, bytes = 0;
    const struct verify_job *j = &r->job;

    for (size_t i = 0; i < j->pack_count && j->packs[i].id <= p->last; i++) {
        if (j->packs[i].id < p->next)
            continue;
        if (bytes >= share)
            return false;
        bytes += take(r, i, 0);
        p->next = j->packs[i].id + 1;
    }
    return true;
}

static int end_round(struct part_run *r, const struct position *p, struct error *e)
{
    struct numbers n = {.before = p->begun, .e = e};
    struct catalog *c;
    int rc = repo_catalog_open(r->part->repo, &c, e);

    if (rc != 0)
        return rc;
    rc = catalog_snapshots(c, 0, 1, UINT64_MAX, true, add_snapshot, &n, e);
    repo_catalog_close(r->part->repo, c);
    if (rc == 0)
        rc = mark(r->part, &n, (struct wall_time){.s = p->begun}, e);
    r->job.result->snapshots = n.count;
    free(n.list);
    return rc;
}

static int sample(struct part_run *r, unsigned percent, bool *round, struct error *e)
{
    struct position p;
    int rc = load_position(r, &p, e);

    if (rc != 0)
        return rc;
    if (p.begun == 0)
        begin_round(r, &p);
    *round = take_share(r, &p, percent);
    rc = read_spans(r, e);
    if (rc == 0 && *round && r->job.result->errors == 0)
        rc = end_round(r, &p, e);
    if (*round)
        p.begun = 0;
    return rc == 0 ? store_position(r, &p, e) : rc;
}

static int read_share(const struct verify_part *part, unsigned percent,
                      struct verify_result *result, bool *round, struct error *e)
{
    struct part_run r;
    int rc = begin(&r, part, true, result, e);

    *round = false;
    if (rc == 0)
        rc = sample(&r, percent, round, e);
    end(&r);
    return rc;
}

int verify_sample(const struct verify_part *part, unsigned percent, struct verify_result *result,
                  bool *round, struct error *e)
{
    uint64_t begun = clock_mono_ns();
    struct catalog_try tried = repo_catalog_try(part->repo);
    int rc;

    while (rc = read_share(part, percent, result, round, e),
           verify_replaced(part->repo, part->record_in, rc, &tried))
        verify_result_release(result);
    if (rc == 0 && result->errors > 0)
        rc = verify_rest(part, result, e);
    result->seconds = (double)(clock_mono_ns() - begun) / 1e9;
    return rc;
}
