/* The log's records as the packs are walked: whether each can be understood, whether they stand in
 * order and every commit follows on the one before it, and in the end whether all commits and file
 * lists of the catalog are there.
 *
 * Log packs go when a checkpoint stands for them, older ones of which much is needed stay. So a
 * pack may begin with a commit that does not follow on the last one before it, and only a
 * checkpoint that is met later tells whether something is missing. It is not when the commit is one
 * of those that the newest checkpoint stands for, or follows on the last of them. */
#include "snapshot/verify_job.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const char does_not_follow[] = "a commit does not follow on the one before it";
static const char before_the_first[] = "commits before the first one of the log are missing";

static int no_memory(struct error *e)
{
    return error_set(e, ERR_FAILED, "out of memory");
}

static int note(struct number_set *s, uint64_t v, struct error *e)
{
    return number_set_add(s, v) < 0 ? no_memory(e) : 0;
}

void verify_log_release(struct verify_log *log)
{
    number_set_release(&log->commits);
    pair_map_release(&log->lists);
    free(log->jumps);
    *log = (struct verify_log){0};
}

/* ---- packs that are lost ---- */

void verify_log_breaks(struct verify_job *j, struct verify_log *log, size_t fault)
{
    log->broken = true;
    pthread_mutex_lock(&j->lock);
    j->faults[fault].log = true;
    pthread_mutex_unlock(&j->lock);
}

/* repo_packs may have told it already: then that fault stands for it. */
int verify_log_lost(struct verify_job *j, struct verify_log *log, const struct pack_row *row,
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
        verify_log_breaks(j, log, fault);
    return 0;
}

/* ---- commits ---- */

static int check_commit_list(const struct commit *c, struct error *e)
{
    struct buffer ops = BUFFER_INIT;

    if (c->list_len == 0)
        return 0;
    int rc = commit_list_decode(c, &ops, e);
    buffer_release(&ops);
    return rc;
}

static int add_jump(struct verify_log *log, const struct verify_place *at, uint64_t sequence,
                    const struct hash *chain, struct error *e)
{
    struct verify_jump *list = realloc(log->jumps, (log->jump_count + 1) * sizeof(*list));

    if (!list)
        return no_memory(e);
    log->jumps = list;
    list[log->jump_count++] = (struct verify_jump){.at = *at,
                                                   .sequence = sequence,
                                                   .blank = log->blank,
                                                   .chain = *chain,
                                                   .first = !log->last_pack};
    return 0;
}

/* A commit follows on the one before by its hash. *why stays NULL when all is well, or is to be
 * told in the end. */
static int check_commit(struct verify_log *log, const struct verify_place *at, uint64_t sequence,
                        const uint8_t *body, size_t len, uint64_t *number, const char **why,
                        struct error *e)
{
    struct commit c;

    int rc = commit_decode(body, len, &c, e);
    if (rc != 0)
        return rc;
    if (!log->broken && !hash_equal(&c.chain, &log->chain)) {
        if (log->last_pack == at->pack_id)
            *why = does_not_follow;
        else
            rc = add_jump(log, at, sequence, &c.chain, e);
    }
    log->blank = 0;
    log->last_pack = at->pack_id;
    hash_sha256(body, len, &log->chain);
    if (rc == 0)
        rc = note(&log->commits, c.number, e);
    *number = c.number;
    if (rc == 0)
        rc = check_commit_list(&c, e);
    commit_release(&c);
    return rc;
}

/* ---- checkpoints ---- */

static int check_rows(struct verify_log *log, const struct buffer *rows, struct error *e)
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

/* It counts when all of its parts were met, one after the other. */
static void take_part(struct verify_log *log, const struct checkpoint_part *part)
{
    bool next = part->id == log->part.id && part->part == log->part.part + 1;

    if (part->part != 0 && !next)
        log->part = (struct checkpoint_part){.part = UINT32_MAX};
    else
        log->part = *part;
    if (log->part.parts != 0 && log->part.parts == log->part.part + 1)
        log->folded = log->part;
}

static int check_checkpoint(struct verify_log *log, const uint8_t *body, size_t len,
                            struct error *e)
{
    struct checkpoint_part part;
    struct buffer rows = BUFFER_INIT;

    int rc = checkpoint_decode(body, len, &part, &rows, e);
    if (rc == 0)
        rc = check_rows(log, &rows, e);
    if (rc == 0)
        take_part(log, &part);
    buffer_release(&rows);
    return rc;
}

/* ---- other records ---- */

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

static int count_list(struct verify_log *log, uint64_t number, struct error *e)
{
    const uint64_t *met = pair_map_get(&log->lists, number, 0);

    return pair_map_put(&log->lists, number, 0, met ? *met + 1 : 1) ? 0 : no_memory(e);
}

static int check_seal(const struct verify_place *at, const uint8_t *body, size_t len,
                      const char **why, struct error *e)
{
    struct seal s;

    int rc = seal_decode(body, len, &s, e);
    if (rc == 0 && s.len != at->from)
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

static void check_sequence(struct verify_job *j, struct verify_log *log,
                           const struct verify_place *at, const struct record_header *h)
{
    if (h->sequence == 0)
        return;
    if (h->sequence <= log->sequence && !log->broken)
        verify_fault(j, at->pack_id, at->from, at->to, false, "a record is out of order");
    log->sequence = h->sequence;
}

/* Whether what a sound record says can be understood; damage becomes a fault. */
int verify_log_record(struct verify_job *j, struct verify_log *log, const struct verify_place *at,
                      const struct record_header *h, const uint8_t *body, uint64_t *number,
                      struct error *e)
{
    struct error what = ERROR_INIT;
    const char *why = NULL;
    int rc;

    check_sequence(j, log, at, h);
    switch (h->type) {
    case RECORD_COMMIT:
        rc = check_commit(log, at, h->sequence, body, h->body_len, number, &why, &what);
        break;
    case RECORD_FILE_LIST:
        rc = check_list(body, h->body_len, number, &what);
        if (rc == 0)
            rc = count_list(log, *number, &what);
        break;
    case RECORD_CHECKPOINT:
        rc = check_checkpoint(log, body, h->body_len, &what);
        break;
    case RECORD_SEAL:
        rc = check_seal(at, body, h->body_len, &why, &what);
        break;
    default:
        rc = check_small(h->type, body, h->body_len, &what);
        break;
    }
    if (rc == ERR_DAMAGED)
        why = what.message;
    else if (rc != 0) {
        *e = what;
        return rc;
    }
    if (why)
        verify_fault(j, at->pack_id, at->from, at->to, false, why);
    return 0;
}

/* ---- commits and lists against the catalog ---- */

/* Other records may stand between the lists of a snapshot; a checkpoint that stands for one of them
 * stands for all. */
static bool record_missing(const struct verify_log *log, const struct verify_snapshot *s)
{
    bool folded = log->folded.parts != 0 && s->list_first <= log->folded.covers;
    const uint64_t *met = pair_map_get(&log->lists, s->number, 0);

    if (!number_set_has(&log->commits, s->number))
        return true;
    return !folded && (met ? *met : 0) < s->list_count;
}

/* 1: it was dropped after its lease was looked for; what it stood in may be gone since. */
static int was_dropped(const struct verify_job *j, uint64_t number, struct error *e)
{
    struct error absent = ERROR_INIT;
    struct snapshot_row row;
    struct catalog *c;

    int rc = repo_catalog_open(j->req->repo, &c, e);
    if (rc != 0)
        return rc;
    rc = catalog_snapshot(c, number, &row, &absent);
    repo_catalog_close(j->req->repo, c);
    if (rc == 0)
        snapshot_row_release(&row);
    else if (rc != ERR_NOTFOUND)
        *e = absent;
    return rc == ERR_NOTFOUND ? 1 : rc;
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

static bool stands_for(const struct checkpoint_part *folded, const struct verify_jump *jump)
{
    return folded->parts != 0 &&
           (jump->sequence <= folded->covers || hash_equal(&jump->chain, &folded->chain));
}

/* An empty pack where commits are missing is what held them. */
static int tell_jump(struct verify_job *j, struct verify_log *log, const struct verify_jump *jump,
                     struct error *e)
{
    const struct pack_row blank = {.id = jump->blank, .kind = PACK_LOG};
    struct error empty = ERROR_INIT;

    if (jump->first && log_fault(j) != NO_FAULT)
        return 0; /* that is what was lost */
    if (jump->first && jump->blank)
        verify_fault(j, jump->blank, 0, 0, false, before_the_first);
    else if (jump->first)
        verify_fault(j, jump->at.pack_id, jump->at.from, jump->at.to, false, before_the_first);
    else if (!jump->blank)
        verify_fault(j, jump->at.pack_id, jump->at.from, jump->at.to, false, does_not_follow);
    else {
        error_set(&empty, ERR_DAMAGED, "the pack is empty, and commits are missing");
        return verify_log_lost(j, log, &blank, &empty, e);
    }
    return 0;
}

int verify_log_end(struct verify_job *j, struct verify_log *log, struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < log->jump_count; i++) {
        if (!stands_for(&log->folded, &log->jumps[i]))
            rc = tell_jump(j, log, &log->jumps[i], e);
    }
    for (size_t i = 0; rc == 0 && i < j->snapshot_count; i++) {
        struct verify_snapshot *s = &j->snapshots[i];
        if (s->whole && !record_missing(log, s))
            continue;
        rc = was_dropped(j, s->number, e);
        if (rc != 0) {
            rc = rc < 0 ? rc : 0;
            continue;
        }
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
