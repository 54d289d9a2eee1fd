#include "snapshot/verify.h"
#include "snapshot/freeze.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "snapshot/task_pool.h"
#include "snapshot/verify_job.h"
#include "store/catalog_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { WORKERS_MAX = 4, DAMAGED_MAX = 10000, MARK_SNAPSHOTS_MAX = 10000 };

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- what the parts share ---- */

unsigned verify_workers(const struct verify_request *req)
{
    return task_threads(req->workers, WORKERS_MAX);
}

uint64_t verify_key(const struct hash *id)
{
    return load_u64(id->b);
}

uint64_t verify_print(const struct hash *id, uint64_t pack_id, uint64_t offset, uint32_t raw_off,
                      uint32_t raw_len)
{
    uint8_t bytes[HASH_LEN + 24];

    memcpy(bytes, id->b, HASH_LEN);
    store_u64(bytes + HASH_LEN, pack_id);
    store_u64(bytes + HASH_LEN + 8, offset);
    store_u32(bytes + HASH_LEN + 16, raw_off);
    store_u32(bytes + HASH_LEN + 20, raw_len);
    return hash_guard(bytes, sizeof(bytes), 0);
}

uint64_t verify_record_print(uint64_t pack_id, uint64_t offset)
{
    static const struct hash none;

    return verify_print(&none, pack_id, offset, 0, 0);
}

int verify_fail(struct verify_job *j, const struct error *why)
{
    pthread_mutex_lock(&j->lock);
    if (j->code == 0) {
        j->code = why->code;
        j->why = *why;
    }
    int code = j->code;
    pthread_mutex_unlock(&j->lock);
    return code;
}

int verify_stopped(struct verify_job *j, struct error *e)
{
    struct error why = ERROR_INIT;

    if (j->req->cancel && atomic_load_explicit(j->req->cancel, memory_order_relaxed)) {
        error_set(&why, ERR_CANCELLED, "verify was interrupted");
        verify_fail(j, &why);
    }
    pthread_mutex_lock(&j->lock);
    int code = j->code;
    if (code != 0)
        *e = j->why;
    pthread_mutex_unlock(&j->lock);
    return code;
}

void verify_progress(struct verify_job *j, uint64_t bytes)
{
    if (j->req->progress)
        atomic_fetch_add_explicit(&j->req->progress->bytes_done, bytes, memory_order_relaxed);
}

static size_t add_fault(struct verify_job *j, const struct verify_fault *f)
{
    if (j->fault_count == j->fault_cap) {
        size_t cap = j->fault_cap ? 2 * j->fault_cap : 16;
        struct verify_fault *faults = reallocarray(j->faults, cap, sizeof(*faults));
        if (!faults)
            return NO_FAULT;
        j->faults = faults;
        j->fault_cap = cap;
    }
    j->faults[j->fault_count] = *f;
    return j->fault_count++;
}

size_t verify_fault(struct verify_job *j, uint64_t pack_id, uint64_t from, uint64_t to,
                    bool content, const char *reason)
{
    struct verify_fault f = {
        .pack_id = pack_id, .from = from, .to = to, .content = content, .reason = strdup(reason)};
    struct error e = ERROR_INIT;
    size_t at = NO_FAULT;

    pthread_mutex_lock(&j->lock);
    if (f.reason)
        at = add_fault(j, &f);
    pthread_mutex_unlock(&j->lock);
    if (at == NO_FAULT) {
        free(f.reason);
        no_memory(&e);
        verify_fail(j, &e);
    }
    return at;
}

size_t verify_fault_of(struct verify_job *j, uint64_t pack_id, uint64_t from, uint64_t to,
                       bool content, const struct error *why)
{
    size_t at = verify_fault(j, pack_id, from, to, content, why->message);

    pthread_mutex_lock(&j->lock);
    if (at != NO_FAULT)
        j->faults[at].unread = verify_unread(why);
    pthread_mutex_unlock(&j->lock);
    return at;
}

static int by_snapshot(const void *a, const void *b)
{
    uint64_t x = ((const struct verify_snapshot *)a)->number;
    uint64_t y = ((const struct verify_snapshot *)b)->number;

    return x < y ? -1 : x > y;
}

static struct verify_snapshot *find_snapshot(struct verify_job *j, uint64_t number)
{
    const struct verify_snapshot key = {.number = number};

    if (j->snapshot_count == 0)
        return NULL;
    return bsearch(&key, j->snapshots, j->snapshot_count, sizeof(key), by_snapshot);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

int verify_touch(struct verify_job *j, size_t fault, const uint64_t *snapshots, size_t count,
                 struct error *e)
{
    size_t kept = 0;

    pthread_mutex_lock(&j->lock);
    struct verify_fault *f = &j->faults[fault];
    uint64_t *all = reallocarray(f->snapshots, f->snapshot_count + count + 1, sizeof(*all));
    if (!all) {
        pthread_mutex_unlock(&j->lock);
        return no_memory(e);
    }
    f->snapshots = all;
    for (size_t i = 0; i < count; i++) {
        if (find_snapshot(j, snapshots[i]))
            all[f->snapshot_count++] = snapshots[i];
    }
    if (f->snapshot_count > 0)
        qsort(all, f->snapshot_count, sizeof(*all), by_number);
    for (size_t i = 0; i < f->snapshot_count; i++) {
        if (kept == 0 || all[kept - 1] != all[i])
            all[kept++] = all[i];
    }
    f->snapshot_count = kept;
    pthread_mutex_unlock(&j->lock);
    return 0;
}

/* ---- damage entries ---- */

/* Of a pack that is missing the catalog still knows the kind. */
static uint8_t pack_kind(const struct verify_job *j, uint64_t pack_id)
{
    struct error ignored = ERROR_INIT;
    struct catalog_pack known = {.kind = PACK_DATA};
    struct catalog *c;

    for (size_t i = 0; i < j->pack_count; i++) {
        if (j->packs[i].id == pack_id)
            return j->packs[i].kind;
    }
    if (repo_catalog_open(j->req->repo, &c, &ignored) == 0) {
        if (catalog_pack(c, pack_id, &known, &ignored) != 0)
            known.kind = PACK_DATA;
        repo_catalog_close(j->req->repo, c);
    }
    return known.kind;
}

/* File name of a pack, or NULL. */
static char *pack_name(const struct verify_job *j, uint64_t pack_id)
{
    char name[40];

    if (pack_id == 0)
        return NULL;
    uint8_t kind = pack_kind(j, pack_id);
    if (kind == PACK_LOG || kind == PACK_DATA)
        pack_file_name(kind, pack_id, name);
    else
        snprintf(name, sizeof(name), "*-%016" PRIx64 ".wkp", pack_id);
    return strdup(name);
}

int verify_damage(struct verify_job *j, size_t fault, const char *path, const uint64_t *snapshots,
                  size_t count, struct error *e)
{
    struct verify_result *r = j->result;
    struct verify_fault *f = &j->faults[fault];

    f->told = true;
    if (r->damaged_count == DAMAGED_MAX)
        return 0;
    if (!r->damaged && !(r->damaged = calloc(DAMAGED_MAX, sizeof(*r->damaged))))
        return no_memory(e);
    struct verify_damage d = {.snapshot = count > 0 ? snapshots[count - 1] : 0,
                              .path = path ? strdup(path) : NULL,
                              .pack = pack_name(j, f->pack_id),
                              .reason = strdup(f->reason),
                              .snapshots = malloc((count + 1) * sizeof(*snapshots)),
                              .snapshot_count = count,
                              .unread = f->unread};
    bool ok = (!path || d.path) && (f->pack_id == 0 || d.pack) && d.reason && d.snapshots;
    if (ok && count > 0)
        memcpy(d.snapshots, snapshots, count * sizeof(*snapshots));
    if (ok) {
        r->damaged[r->damaged_count++] = d;
        return 0;
    }
    free(d.path);
    free(d.pack);
    free(d.reason);
    free(d.snapshots);
    return no_memory(e);
}

void verify_result_release(struct verify_result *r)
{
    for (size_t i = 0; i < r->damaged_count; i++) {
        free(r->damaged[i].path);
        free(r->damaged[i].pack);
        free(r->damaged[i].reason);
        free(r->damaged[i].snapshots);
    }
    free(r->damaged);
    memset(r, 0, sizeof(*r));
}

/* Faults that touched no file stand for themselves. */
static int tell_rest(struct verify_job *j, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < j->fault_count; i++) {
        const struct verify_fault *f = &j->faults[i];
        if (!f->told)
            rc = verify_damage(j, i, NULL, f->snapshots, f->snapshot_count, e);
    }
    return rc;
}

/* ---- snapshots ---- */

struct loading {
    struct verify_job *job;
    size_t cap;
    struct error *e;
};

/* Commits name the packs that grew, so that the newest are the ones named again. */
static int add_need(struct verify_job *j, const struct pack_need *n, struct error *e)
{
    for (size_t i = j->need_count; i-- > 0;) {
        if (j->needs[i].pack_id != n->pack_id)
            continue;
        if (j->needs[i].len < n->len)
            j->needs[i].len = n->len;
        return 0;
    }
    struct pack_need *list = reallocarray(j->needs, j->need_count + 1, sizeof(*list));
    if (!list)
        return no_memory(e);
    j->needs = list;
    list[j->need_count++] = *n;
    return 0;
}

static int load_snapshot(void *ctx, const struct snapshot_row *s)
{
    struct loading *l = ctx;
    struct verify_job *j = l->job;

    for (uint32_t i = 0; i < s->commit.need_count; i++) {
        int rc = add_need(j, &s->commit.needs[i], l->e);
        if (rc != 0)
            return rc;
    }

    if (j->snapshot_count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct verify_snapshot *list = reallocarray(j->snapshots, cap, sizeof(*list));
        if (!list)
            return no_memory(l->e);
        j->snapshots = list;
        l->cap = cap;
    }
    j->snapshots[j->snapshot_count++] = (struct verify_snapshot){
        .number = s->commit.number,
        .watch = s->watch_serial,
        .list_first = s->commit.list_first,
        .list_count = s->commit.list_count,
        .known_damaged = s->damaged,
        .whole = s->whole,
        .wanted = j->req->snapshots == NULL,
    };
    return 0;
}

/* Snapshots that others drop meanwhile are left out, unless they were asked for by number. */
static bool may_be_gone(const struct verify_job *j)
{
    return !j->req->snapshots || j->req->if_there;
}

static int not_there(uint64_t number, struct error *e)
{
    return error_set(e, ERR_NOTFOUND, "no snapshot %" PRIu64, number);
}

static int want_given(struct verify_job *j, struct error *e)
{
    for (size_t i = 0; j->req->snapshots && i < j->req->count; i++) {
        struct verify_snapshot *s = find_snapshot(j, j->req->snapshots[i]);
        if (s)
            s->wanted = true;
        else if (!may_be_gone(j))
            return not_there(j->req->snapshots[i], e);
    }
    return 0;
}

static int load_snapshots(struct verify_job *j, struct error *e)
{
    struct loading l = {.job = j, .e = e};
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshots(c, 0, 1, UINT64_MAX, false, load_snapshot, &l, e);
    repo_catalog_close(j->req->repo, c);
    return rc == 0 ? want_given(j, e) : rc;
}

static void end_leases(struct verify_job *j, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (j->snapshots[i].wanted)
            repo_lease_end(j->req->repo, j->snapshots[i].number);
    }
}

static int take_leases(struct verify_job *j, struct error *e)
{
    size_t kept = 0;

    for (size_t i = 0; i < j->snapshot_count; i++) {
        const struct verify_snapshot *s = &j->snapshots[i];
        int rc = s->wanted ? repo_lease(j->req->repo, s->number, e) : 0;
        if (rc == ERR_BUSY && may_be_gone(j))
            continue;
        if (rc != 0) {
            end_leases(j, kept);
            return rc;
        }
        j->snapshots[kept++] = *s;
    }
    j->snapshot_count = kept;
    return 0;
}

static int note_there(void *ctx, const struct snapshot_row *row)
{
    struct verify_snapshot *s = find_snapshot(ctx, row->commit.number);

    if (s)
        s->there = true;
    return 0;
}

/* What was dropped between the list and its lease may have lost records already. */
static int leave_out_dropped(struct verify_job *j, struct error *e)
{
    struct catalog *c;
    size_t kept = 0;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshots(c, 0, 1, UINT64_MAX, false, note_there, j, e);
    repo_catalog_close(j->req->repo, c);
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        const struct verify_snapshot *s = &j->snapshots[i];
        if (!s->there && s->wanted && !may_be_gone(j))
            rc = not_there(s->number, e);
    }
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        const struct verify_snapshot s = j->snapshots[i];
        if (s.there)
            j->snapshots[kept++] = s;
        else if (s.wanted)
            repo_lease_end(j->req->repo, s.number);
        j->result->snapshots += s.there && s.wanted;
    }
    if (rc == 0)
        j->snapshot_count = kept;
    return rc;
}

/* ---- packs ---- */

void verify_pack_problem(void *ctx, uint64_t pack_id, const char *text)
{
    verify_fault(ctx, pack_id, 0, 0, pack_id != 0, text);
}

static void ignore_problem(void *ctx, uint64_t pack_id, const char *text)
{
}

static bool has_fault(const struct verify_job *j, uint64_t pack_id)
{
    for (size_t i = 0; i < j->fault_count; i++) {
        if (j->faults[i].pack_id == pack_id)
            return true;
    }
    return false;
}

static uint64_t pack_bytes(const struct verify_job *j, uint64_t pack_id)
{
    for (size_t i = 0; i < j->pack_count; i++) {
        if (j->packs[i].id == pack_id)
            return j->packs[i].bytes;
    }
    return 0;
}

/* A catalog made anew takes a pack for as long as it is; the commits know better. What a compaction
 * emptied counts no more, whether its file is there still or not. What was fenced was never
 * acknowledged; but when content is missing, also the end of a pack that was cut short. */
static int check_needs(struct verify_job *j, bool fenced, struct error *e)
{
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < j->need_count; i++) {
        const struct pack_need *n = &j->needs[i];
        uint64_t bytes = pack_bytes(j, n->pack_id);
        struct catalog_pack row;
        char reason[128];
        if (bytes >= n->len || has_fault(j, n->pack_id))
            continue;
        rc = catalog_pack(c, n->pack_id, &row, e);
        if (rc == 0 && (row.fence != 0) == fenced && row.gone == 0) {
            snprintf(reason, sizeof(reason),
                     "the pack has %" PRIu64 " bytes of the %" PRIu64 " that snapshots need", bytes,
                     n->len);
            verify_fault(j, n->pack_id, 0, 0, true, reason);
        }
        if (rc == ERR_NOTFOUND)
            rc = 0;
    }
    repo_catalog_close(j->req->repo, c);
    return rc;
}

static int list_packs(struct verify_job *j, struct error *e)
{
    bool some = j->req->snapshots != NULL;

    int rc = repo_packs(j->req->repo, &j->packs, &j->pack_count,
                        some ? ignore_problem : verify_pack_problem, j, e);
    if (rc == 0 && !some)
        rc = check_needs(j, false, e);
    for (size_t i = 0; rc == 0 && i < j->fault_count; i++) {
        struct verify_fault *f = &j->faults[i];
        f->log = f->pack_id != 0 && pack_kind(j, f->pack_id) == PACK_LOG;
    }
    for (size_t i = 0; rc == 0 && !some && i < j->pack_count; i++) {
        j->result->bytes += j->packs[i].bytes;
        if (j->req->progress)
            atomic_fetch_add(&j->req->progress->bytes_total, j->packs[i].bytes);
    }
    return rc;
}

/* ---- everything stored ---- */

struct row_thread {
    struct verify_job *job;
    struct verify_rows rows;
};

static void *read_rows(void *ctx)
{
    struct row_thread *t = ctx;
    struct error e = ERROR_INIT;

    if (verify_rows_read(t->job, &t->rows, &e) != 0)
        verify_fail(t->job, &e);
    return NULL;
}

static int verify_all(struct verify_job *j, struct error *e)
{
    struct row_thread t = {.job = j};
    pthread_t thread;

    bool beside = pthread_create(&thread, NULL, read_rows, &t) == 0;
    int rc = verify_packs(j, e);
    if (beside)
        pthread_join(thread, NULL);
    else
        read_rows(&t);
    if (rc == 0)
        rc = verify_stopped(j, e);
    if (rc == 0)
        rc = verify_audit_chunks(j, &t.rows, e);
    verify_rows_release(&t.rows);
    if (rc == 0)
        rc = verify_audit_nodes(j, true, e);
    if (rc == 0 && j->req->level == VERIFY_FULL && j->bad.count == 0)
        rc = verify_audit_counts(j, e);
    return rc;
}

/* ---- marks ---- */

enum verdict { VERIFIED, DAMAGED, REPAIRED };

static bool falls_under(const struct verify_snapshot *s, enum verdict v)
{
    switch (v) {
    case VERIFIED:
        return s->wanted && s->whole && !s->hit && !s->unsure;
    case DAMAGED:
        return s->hit && !s->known_damaged;
    case REPAIRED:
        return s->wanted && s->whole && !s->hit && !s->unsure && s->known_damaged;
    }
    return false;
}

static bool any_falls_under(const struct verify_job *j, enum verdict v)
{
    bool any = false;

    for (size_t i = 0; i < j->snapshot_count; i++)
        any = any || falls_under(&j->snapshots[i], v);
    return any;
}

static struct repo *marked(const struct verify_request *req)
{
    return req->record_in ? req->record_in : req->repo;
}

static int mark_all(struct verify_job *j, enum verdict v, uint8_t type, struct error *e)
{
    struct mark m = {.type = type, .time = clock_wall()};
    int rc = 0;

    m.snapshots = malloc(MARK_SNAPSHOTS_MAX * sizeof(*m.snapshots));
    if (!m.snapshots)
        return no_memory(e);
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        if (falls_under(&j->snapshots[i], v))
            m.snapshots[m.count++] = j->snapshots[i].number;
        if (m.count == MARK_SNAPSHOTS_MAX || (m.count > 0 && i + 1 == j->snapshot_count)) {
            rc = repo_mark(marked(j->req), &m, e);
            m.count = 0;
        }
    }
    free(m.snapshots);
    return rc;
}

static uint64_t newly_damaged(const struct verify_job *j, int64_t watch)
{
    uint64_t n = 0;

    for (size_t i = 0; i < j->snapshot_count; i++)
        n += j->snapshots[i].watch == watch && falls_under(&j->snapshots[i], DAMAGED);
    return n;
}

/* What is damaged may have been relied on: nothing of its watch is pruned until somebody looked. */
static int freeze_damaged(struct verify_job *j, struct error *e)
{
    struct watch_row *rows = NULL;
    struct catalog *c = NULL;
    size_t count = 0;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc == 0)
        rc = catalog_watches(c, &rows, &count, e);
    for (size_t i = 0; i < count; i++) {
        uint64_t n = newly_damaged(j, rows[i].serial);
        if (rc == 0 && n > 0)
            rc = freeze_set(marked(j->req), rows[i].id, FREEZE_DAMAGED, 0, e,
                            "verification found damage in %llu %s", (unsigned long long)n,
                            n == 1 ? "snapshot" : "snapshots");
        watch_row_release(&rows[i]);
    }
    free(rows);
    if (c)
        repo_catalog_close(j->req->repo, c);
    return rc;
}

static int record(struct verify_job *j, struct error *e)
{
    int rc = freeze_damaged(j, e);

    if (rc == 0)
        rc = mark_all(j, DAMAGED, MARK_DAMAGED, e);

    for (size_t i = 0; rc == 0 && i < j->bad.count; i++) {
        const struct verify_bad *b = id_map_at(&j->bad, i);
        if (b->content && !j->faults[b->fault].unread)
            rc = repo_chunk_lost(marked(j->req), &b->id, e);
        if (rc == ERR_NOTFOUND)
            rc = 0;
    }
    if (rc == 0 && j->req->level == VERIFY_FULL)
        rc = mark_all(j, REPAIRED, MARK_REPAIRED, e);
    if (rc == 0 && any_falls_under(j, REPAIRED))
        rc = freeze_lift_mended(marked(j->req), e);
    if (rc == 0 && j->req->level == VERIFY_FULL)
        rc = mark_all(j, VERIFIED, MARK_VERIFIED, e);
    if (rc == 0 && j->req->level == VERIFY_FULL && !j->req->snapshots)
        rc = verify_marks_store(j, marked(j->req), e);
    j->result->recorded = rc == 0;
    return rc;
}

/* ---- the whole ---- */

void verify_job_release(struct verify_job *j)
{
    for (size_t i = 0; i < j->fault_count; i++) {
        free(j->faults[i].reason);
        free(j->faults[i].snapshots);
    }
    free(j->faults);
    free(j->snapshots);
    free(j->packs);
    buffer_release(&j->marks);
    free(j->needs);
    id_map_release(&j->bad);
    number_set_release(&j->good);
    number_set_release(&j->seen);
    pthread_mutex_destroy(&j->lock);
}

static int check(struct verify_job *j, struct error *e)
{
    int rc = list_packs(j, e);

    if (rc == 0 && j->req->snapshots) {
        if (j->req->level == VERIFY_FULL && !j->req->again)
            rc = verify_marks_load(j, e);
        if (rc == 0)
            rc = verify_some(j, e);
        if (rc == 0)
            rc = verify_audit_nodes(j, false, e);
    } else if (rc == 0) {
        rc = verify_all(j, e);
        if (rc == 0 && j->has_absent)
            rc = check_needs(j, true, e);
    }
    if (rc == 0)
        rc = tell_rest(j, e);
    j->result->chunks = j->chunks;
    j->result->errors = j->fault_count;
    return rc;
}

void verify_job_init(struct verify_job *j, const struct verify_request *req,
                     struct verify_result *result)
{
    *j = (struct verify_job){.req = req, .result = result};
    memset(result, 0, sizeof(*result));
    pthread_mutex_init(&j->lock, NULL);
    id_map_init(&j->bad, sizeof(struct verify_bad));
}

static int run(const struct verify_request *req, struct verify_result *result, bool *deeper,
               struct error *e)
{
    struct verify_job j;

    verify_job_init(&j, req, result);
    int rc = load_snapshots(&j, e);
    if (rc == 0)
        rc = take_leases(&j, e);
    if (rc == 0) {
        rc = leave_out_dropped(&j, e);
        if (rc == 0)
            rc = check(&j, e);
        if (rc == 0) /* a damaged index makes sound packs look damaged */
            rc = repo_catalog_check(req->repo, req->level == VERIFY_FULL && !req->snapshots, e);
        *deeper = rc == 0 && req->level == VERIFY_QUICK && j.bad.count > 0;
        if (rc == 0 && !*deeper && req->record)
            rc = record(&j, e);
        if (rc == ERR_NOSPACE) /* what was found is told, if not recorded */
            rc = 0;
        end_leases(&j, j.snapshot_count);
    }
    verify_job_release(&j);
    return rc;
}

static int run_deep(const struct verify_request *req, struct verify_result *result, struct error *e)
{
    struct verify_request full = *req;
    bool deeper = false;

    int rc = run(req, result, &deeper, e);
    if (rc == 0 && deeper) {
        /* What a quick look found broken may be the base of more: only reading all of it tells. */
        verify_result_release(result);
        full.level = VERIFY_FULL;
        rc = run(&full, result, &deeper, e);
    }
    return rc;
}

/* The writer's catalog is the file that a reader beside it found damaged, unless it has made
 * another one since. */
bool verify_replaced(struct repo *r, struct repo *record_in, int rc, struct catalog_try *tried)
{
    if (record_in && record_in != r && !tried->done && !repo_catalog_moved(r)) {
        struct catalog_try writers = repo_catalog_try(record_in);
        repo_catalog_replaced(record_in, rc, &writers);
    }
    return repo_catalog_replaced(r, rc, tried);
}

int verify_run(const struct verify_request *req, struct verify_result *result, struct error *e)
{
    uint64_t begun = clock_mono_ns();
    struct catalog_try tried = repo_catalog_try(req->repo);
    int rc;

    while (rc = run_deep(req, result, e), verify_replaced(req->repo, req->record_in, rc, &tried))
        verify_result_release(result);
    result->seconds = (double)(clock_mono_ns() - begun) / 1e9;
    return rc;
}
