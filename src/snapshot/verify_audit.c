/* What a fault touches. Every row of a chunk in the catalog must have been seen where it says; one
 * that was not is read once more through a chunk source (a save or a compaction may have moved it
 * meanwhile), and is bad when that fails too. Then every version of every node is held against the
 * bad ones: that gives files, and the snapshots in which those versions stand. */
#include "snapshot/verify_job.h"

#include "base/bytes.h"
#include "store/catalog_write.h"
#include "store/chunk_list.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

/* ---- rows of chunks ---- */

static uint64_t row_print(const struct verify_job *j, const struct hash *id,
                          const struct chunk_place *p)
{
    return j->req->level == VERIFY_FULL
               ? verify_print(id, p->pack_id, p->offset, p->raw_off, p->raw_len)
               : verify_record_print(p->pack_id, p->offset);
}

struct reading {
    struct verify_job *job;
    struct verify_rows *rows;
    struct error *e;
};

static int read_row(void *ctx, const struct hash *id, const struct chunk_place *p)
{
    struct reading *r = ctx;
    struct verify_rows *rows = r->rows;

    if (rows->count == rows->cap) {
        size_t cap = rows->cap ? 2 * rows->cap : 4096;
        uint64_t *prints = reallocarray(rows->prints, cap, sizeof(*prints));
        if (prints)
            rows->prints = prints;
        uint64_t *keys = reallocarray(rows->keys, cap, sizeof(*keys));
        if (keys)
            rows->keys = keys;
        if (!prints || !keys)
            return no_memory(r->e);
        rows->cap = cap;
    }
    rows->prints[rows->count] = row_print(r->job, id, p);
    rows->keys[rows->count++] = verify_key(id);
    return 0;
}

int verify_rows_read(struct verify_job *j, struct verify_rows *rows, struct error *e)
{
    struct reading r = {.job = j, .rows = rows, .e = e};
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_chunks(c, read_row, &r, e);
    repo_catalog_close(j->req->repo, c);
    return rc;
}

void verify_rows_release(struct verify_rows *rows)
{
    free(rows->prints);
    free(rows->keys);
    memset(rows, 0, sizeof(*rows));
}

/* ---- chunks that were not seen ---- */

struct suspect {
    struct hash id;
    struct chunk_place place;
};

struct suspects {
    struct verify_job *job;
    struct suspect *list;
    size_t count, cap;
    struct error *e;
};

/* The fault at a place: of the record there, else of the whole pack. */
static size_t fault_at(const struct verify_job *j, uint64_t pack_id, uint64_t offset)
{
    size_t whole = NO_FAULT;

    for (size_t i = 0; i < j->fault_count; i++) {
        const struct verify_fault *f = &j->faults[i];
        if (f->pack_id != pack_id || pack_id == 0)
            continue;
        if (offset >= f->from && offset < f->to)
            return i;
        if (f->from == f->to)
            whole = i;
    }
    return whole;
}

/* Rows not seen, and rows in a record that has a fault. */
static int suspect_row(void *ctx, const struct hash *id, const struct chunk_place *p)
{
    struct suspects *s = ctx;
    struct verify_job *j = s->job;
    bool seen = number_set_has(&j->seen, row_print(j, id, p));

    if ((seen && fault_at(j, p->pack_id, p->offset) == NO_FAULT) || (!seen && p->refs == 0))
        return 0;
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct suspect *list = reallocarray(s->list, cap, sizeof(*list));
        if (!list)
            return no_memory(s->e);
        s->list = list;
        s->cap = cap;
    }
    s->list[s->count++] = (struct suspect){.id = *id, .place = *p};
    return 0;
}

static int add_bad(struct verify_job *j, const struct hash *id, size_t fault, bool content,
                   struct error *e)
{
    bool fresh;
    struct verify_bad *b = id_map_put(&j->bad, id, &fresh);

    if (!b || fault == NO_FAULT)
        return no_memory(e);
    b->fault = fault;
    b->content = content;
    return 0;
}

/* One for all chunks of which nobody knows where they were. */
static size_t absent_fault(struct verify_job *j)
{
    if (!j->has_absent)
        j->absent = verify_fault(j, 0, 0, 0, true, "content that no pack holds");
    j->has_absent = true;
    return j->absent;
}

/* Read once more; one that cannot be had is bad. Only a full run has to be told twice what the
 * quick one did not look at. */
static int try_again(struct verify_job *j, struct chunk_source *source, const struct suspect *s,
                     struct error *e)
{
    struct error why = ERROR_INIT;
    const uint8_t *p;
    size_t len;
    bool seen = number_set_has(&j->seen, row_print(j, &s->id, &s->place));
    size_t fault = fault_at(j, s->place.pack_id, s->place.offset);

    if (seen)
        return fault == NO_FAULT || j->faults[fault].content ? 0
                                                             : add_bad(j, &s->id, fault, false, e);
    bool covered = fault != NO_FAULT && !j->faults[fault].unread;
    if (chunk_source_get(source, &s->id, &p, &len, &why) == 0)
        return covered ? add_bad(j, &s->id, fault, false, e) : 0;
    if (s->place.pack_id == 0)
        fault = absent_fault(j);
    else if (fault == NO_FAULT || (!covered && !verify_unread(&why)))
        fault =
            verify_fault_of(j, s->place.pack_id, s->place.offset, s->place.offset + 1, true, &why);
    return add_bad(j, &s->id, fault, true, e);
}

static int find_bad(struct verify_job *j, struct error *e)
{
    struct suspects s = {.job = j, .e = e};
    struct chunk_source *source = NULL;
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_chunks(c, suspect_row, &s, e);
    repo_catalog_close(j->req->repo, c);
    if (rc == 0 && s.count > 0)
        rc = chunk_source_open(j->req->repo, &source, e);
    for (size_t i = 0; rc == 0 && i < s.count; i++) {
        rc = verify_stopped(j, e);
        if (rc == 0)
            rc = try_again(j, source, &s.list[i], e);
    }
    chunk_source_close(source);
    free(s.list);
    return rc;
}

int verify_audit_chunks(struct verify_job *j, const struct verify_rows *rows, struct error *e)
{
    bool all = true;

    for (size_t i = 0; i < rows->count; i++) {
        bool seen = number_set_has(&j->seen, rows->prints[i]);
        all = all && seen;
        if (seen && number_set_add(&j->good, rows->keys[i]) < 0)
            return no_memory(e);
    }
    return all && j->fault_count == 0 ? 0 : find_bad(j, e);
}

/* ---- nodes ---- */

struct audit {
    struct verify_job *job;
    struct catalog *catalog;
    struct chunk_source *source;
    int64_t watch;
    bool all;
    struct number_set lists;     /* list chunks looked into (key and level) */
    struct number_set bad_lists; /* of those: with a bad chunk below */
    size_t fault;                /* of the node at hand, NO_FAULT = none */
    bool content;
    struct error *e;
};

/* What matters more: content that is gone, that was not read, that is there in spite of a fault. */
static int weight(const struct audit *a, size_t fault, bool content)
{
    if (fault == NO_FAULT)
        return 0;
    return !content ? 1 : a->job->faults[fault].unread ? 2 : 3;
}

static void take(struct audit *a, size_t fault, bool content)
{
    if (weight(a, fault, content) > weight(a, a->fault, a->content)) {
        a->fault = fault;
        a->content = content;
    }
}

static void take_fault(struct audit *a, const struct verify_bad *b)
{
    take(a, b->fault, b->content);
}

static int note_bad(struct audit *a, const struct hash *id, size_t fault)
{
    int rc = add_bad(a->job, id, fault, true, a->e);

    if (rc == 0)
        take_fault(a, id_map_find(&a->job->bad, id));
    return rc;
}

/* Nothing is known of the chunk: is it there? */
static int look_up(struct audit *a, const struct hash *id)
{
    struct verify_job *j = a->job;
    struct error why = ERROR_INIT;
    const uint8_t *p;
    size_t len;

    if (chunk_source_get(a->source, id, &p, &len, &why) == 0)
        return number_set_add(&j->good, verify_key(id)) < 0 ? no_memory(a->e) : 0;
    return note_bad(a, id,
                    why.code == ERR_NOTFOUND ? absent_fault(j)
                                             : verify_fault_of(j, 0, 0, 0, true, &why));
}

static int check_chunk(struct audit *a, const struct hash *id)
{
    const struct verify_bad *b = a->job->bad.count > 0 ? id_map_find(&a->job->bad, id) : NULL;

    if (b) {
        take_fault(a, b);
        return 0;
    }
    return !a->all || number_set_has(&a->job->good, verify_key(id)) ? 0 : look_up(a, id);
}

/* A chunk id stands for different things at different levels. */
static uint64_t list_key(const struct hash *id, unsigned level)
{
    return verify_key(id) + level * UINT64_C(0x9e3779b97f4a7c15);
}

static int check_list(struct audit *a, const struct hash *id, unsigned level);

static int check_refs(struct audit *a, const struct chunk_ref *refs, uint32_t count, unsigned level)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        rc = check_chunk(a, &refs[i].id);
        if (rc == 0 && level > 0)
            rc = check_list(a, &refs[i].id, level);
    }
    return rc;
}

/* The children of a list chunk; what was found in it once holds for every node. */
static int look_into(struct audit *a, const struct hash *id, unsigned level)
{
    struct error why = ERROR_INIT;
    struct chunk_ref *refs = NULL;
    const uint8_t *p;
    uint32_t count = 0;
    size_t len;

    if (chunk_source_get(a->source, id, &p, &len, &why) != 0)
        return id_map_find(&a->job->bad, id) /* told by check_chunk */
                   ? 0
                   : note_bad(a, id, verify_fault_of(a->job, 0, 0, 0, true, &why));
    int rc = chunk_list_decode(p, len, &refs, &count, &why);
    if (rc == ERR_FAILED) { /* no memory */
        *a->e = why;
        return rc;
    }
    if (rc != 0) {
        rc = add_bad(a->job, id, verify_fault(a->job, 0, 0, 0, true, why.message), true, a->e);
        if (rc == 0)
            take_fault(a, id_map_find(&a->job->bad, id));
        return rc;
    }
    rc = check_refs(a, refs, count, level - 1);
    free(refs);
    return rc;
}

static int check_list(struct audit *a, const struct hash *id, unsigned level)
{
    uint64_t key = list_key(id, level);
    size_t fault = a->fault;
    bool content = a->content;

    if (number_set_has(&a->lists, key) && !number_set_has(&a->bad_lists, key))
        return 0;
    a->fault = NO_FAULT;
    a->content = false;
    int rc = look_into(a, id, level);
    if (rc == 0 && (number_set_add(&a->lists, key) < 0 ||
                    (a->fault != NO_FAULT && number_set_add(&a->bad_lists, key) < 0)))
        rc = no_memory(a->e);
    take(a, fault, content);
    return rc;
}

/* ---- snapshots that hold a version ---- */

static int numbers_between(const struct verify_job *j, int64_t watch, uint64_t from, int64_t to,
                           uint64_t **numbers, size_t *count, struct error *e)
{
    uint64_t end = to == CATALOG_OPEN ? UINT64_MAX : (uint64_t)to;

    *count = 0;
    *numbers = malloc((j->snapshot_count + 1) * sizeof(**numbers));
    if (!*numbers)
        return no_memory(e);
    for (size_t i = 0; i < j->snapshot_count; i++) {
        const struct verify_snapshot *s = &j->snapshots[i];
        if (s->watch == watch && s->number >= from && s->number < end)
            (*numbers)[(*count)++] = s->number;
    }
    return 0;
}

static int tell_file(struct audit *a, uint64_t node, const uint64_t *numbers, size_t count)
{
    struct verify_job *j = a->job;
    struct buffer path = BUFFER_INIT;

    int rc =
        catalog_node_path(a->catalog, a->watch, node, (int64_t)numbers[count - 1], &path, a->e);
    bool named = rc == 0 && buffer_ok(&path);
    if (rc == ERR_NOTFOUND)
        rc = 0;
    if (rc == 0)
        rc = verify_damage(j, a->fault, named ? (const char *)path.data : NULL, numbers, count,
                           a->e);
    for (size_t i = 0, k = 0; i < j->snapshot_count && k < count; i++) {
        if (j->snapshots[i].number == numbers[k]) {
            if (j->faults[a->fault].unread)
                j->snapshots[i].unsure = true;
            else
                j->snapshots[i].hit = true;
            k++;
        }
    }
    buffer_release(&path);
    return rc;
}

static int check_node(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                      size_t len)
{
    struct audit *a = ctx;
    struct verify_job *j = a->job;
    struct error why = ERROR_INIT;
    struct node n = {0};
    uint64_t *numbers;
    size_t count;

    int rc = verify_stopped(j, a->e);
    if (rc != 0)
        return rc;
    a->fault = NO_FAULT;
    a->content = false;
    rc = node_decode(meta, len, &n, &why);
    if (rc == ERR_FAILED) { /* no memory */
        *a->e = why;
        return rc;
    }
    if (rc == 0) {
        rc = check_refs(a, n.refs, n.ref_count, n.depth);
    } else {
        rc = 0;
        a->fault = verify_fault(j, 0, 0, 0, true, why.message);
        a->content = true;
    }
    node_release(&n);
    if (rc != 0 || a->fault == NO_FAULT)
        return rc;
    rc = numbers_between(j, a->watch, (uint64_t)from, to, &numbers, &count, a->e);
    if (rc != 0)
        return rc;
    if (count > 0)
        rc = a->content ? tell_file(a, node, numbers, count)
                        : verify_touch(j, a->fault, numbers, count, a->e);
    free(numbers);
    return rc;
}

static int audit_watches(struct audit *a)
{
    struct watch_row *watches;
    size_t count;

    int rc = catalog_watches(a->catalog, &watches, &count, a->e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < count; i++) {
        a->watch = watches[i].serial;
        if (rc == 0)
            rc = catalog_nodes(a->catalog, a->watch, check_node, a, a->e);
        watch_row_release(&watches[i]);
    }
    free(watches);
    return rc;
}

int verify_audit_nodes(struct verify_job *j, bool all, struct error *e)
{
    struct audit a = {.job = j, .all = all, .e = e};

    if (!all && j->bad.count == 0)
        return 0;
    int rc = chunk_source_open(j->req->repo, &a.source, e);
    if (rc == 0)
        rc = repo_catalog_open(j->req->repo, &a.catalog, e);
    if (rc == 0) {
        rc = audit_watches(&a);
        repo_catalog_close(j->req->repo, a.catalog);
    }
    chunk_source_close(a.source);
    number_set_release(&a.lists);
    number_set_release(&a.bad_lists);
    return rc;
}

/* ---- counts of references ---- */

static int read_list(void *ctx, const struct hash *id, struct chunk_ref **refs, uint32_t *count,
                     struct error *e)
{
    const uint8_t *p;
    size_t len;

    int rc = chunk_source_get(ctx, id, &p, &len, e);
    return rc != 0 ? rc : chunk_list_decode(p, len, refs, count, e);
}

int verify_audit_counts(struct verify_job *j, struct error *e)
{
    struct chunk_source *source;
    struct catalog *c;
    uint64_t wrong = 0;
    char reason[128];

    /* A private copy was counted from the packs a moment ago, and has a reader of its own. */
    if (repo_in_memory(j->req->repo))
        return 0;
    int rc = chunk_source_open(j->req->repo, &source, e);
    if (rc != 0)
        return rc;
    rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc == 0) {
        catalog_set_list_reader(c, read_list, source);
        rc = catalog_read_begin(c, e); /* rows and counts of one moment */
        if (rc == 0)
            rc = catalog_audit_refs(c, &wrong, NULL, NULL, e);
        catalog_read_end(c);
        catalog_set_list_reader(c, NULL, NULL);
        repo_catalog_close(j->req->repo, c);
    }
    chunk_source_close(source);
    if (rc == 0 && wrong > 0) {
        snprintf(reason, sizeof(reason),
                 "catalog: %" PRIu64 " counts of references are wrong; rebuild it", wrong);
        verify_fault(j, 0, 0, 0, false, reason);
    }
    return rc;
}
