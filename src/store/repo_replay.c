/* From the packs to the catalog: the tail that it has not seen yet, or everything.
 *
 * The log packs are walked in order of id from the catalog's position. Blocks are indexed where
 * they stand; file lists are remembered by place until the commit with their number comes (a list
 * without a commit is of a save that never was); commits, marks, prunes, compactions and fences
 * apply at once. At a commit, the data packs it needs are walked up to the lengths it names; what
 * stands behind them is indexed at the end: orphans, which a later save may use.
 *
 * What a crash leaves, and what is done about it by the next writer (`recovering`):
 * - whole records behind the catalog's position: flushed, read again from the disk, folded in. They
 *   may be of a save that was never acknowledged; it exists from now on.
 * - a tail that does not parse: a fence in a new log pack ends the old one before it.
 * - a commit, a mark or the like at the very end with holes of zeros before it, in its own write or
 *   in lists that were to be flushed with it (the disk wrote pages out of order when power went):
 *   never acknowledged, fenced off as well.
 * A list or block that is damaged elsewhere costs what it holds: the commit is listed, and its
 * state sum tells that it is not whole. */
#include "store/replay.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    BATCH_COMMITS = 64,            /* snapshots folded in by one transaction of the catalog */
    BATCH_BYTES = 8 * 1024 * 1024, /* or operations */
};

/* ---- the catalog's transaction ---- */

int replay_ensure_write(struct replay *p)
{
    if (p->in_write)
        return 0;
    int rc = catalog_begin(p->catalog, p->e);
    p->in_write = rc == 0;
    return rc;
}

/* Replay would have to begin again at the oldest list that still waits for its commit. */
static void store_position(struct replay *p, bool last)
{
    struct catalog_position now = p->position;

    if (!last && p->held_count > 0) {
        now.log_pack = p->held[0].pack_id;
        now.log_offset = p->held[0].offset;
    }
    if (last && p->recovering_writer)
        repo_safe_position(p->repo, NULL, &now);
    catalog_set_position(p->catalog, &now, p->e);
}

static int end_batch(struct replay *p, bool last)
{
    if (!p->in_write)
        return 0;
    store_position(p, last);
    int rc = catalog_commit(p->catalog, p->e);
    p->in_write = false;
    p->commits = 0;
    p->op_bytes = 0;
    return rc;
}

/* ---- fences ---- */

int replay_add_fence(struct replay *p, const struct fence *f)
{
    struct fence *list = realloc(p->fences, (p->fence_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(p->e);
    p->fences = list;
    list[p->fence_count++] = *f;
    return 0;
}

uint64_t replay_fence_of(const struct replay *p, uint64_t pack_id)
{
    uint64_t end = UINT64_MAX;

    for (size_t i = 0; i < p->fence_count; i++)
        if (p->fences[i].pack_id == pack_id && p->fences[i].len < end)
            end = p->fences[i].len;
    return end;
}

/* Fences stand first in a log pack. */
static int visit_leading_fence(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                               const uint8_t *body)
{
    struct replay *p = ctx;
    struct error ignored = ERROR_INIT;
    struct fence f;

    if (!h)
        return 0;
    p->has_records = true;
    if (h->type != RECORD_FENCE || fence_decode(body, h->body_len, &f, &ignored) < 0)
        return REPLAY_STOP;
    return replay_add_fence(p, &f);
}

/* Of packs that this handle goes on writing only what it flushed counts: what a flush that fails
 * takes away must not have become known. */
static int add_own_fences(struct replay *p)
{
    const struct repo *r = p->repo;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->lost_count; i++)
        rc = replay_add_fence(p, &r->lost[i]);
    for (size_t i = 0; rc == 0 && i < r->ending_count; i++)
        rc = replay_add_fence(p, &r->ending[i]);
    if (rc == 0 && r->data)
        rc = replay_add_fence(p, &(struct fence){.pack_id = r->data->id, .len = r->data->flushed});
    return rc;
}

bool replay_log_counts(const struct replay *p, const struct pack_file *f)
{
    return f->kind == PACK_LOG && f->id >= p->position.log_pack;
}

/* The log ends in the last pack that has a record. What follows it without any was made by a writer
 * that fell before its first flush there. */
static void note_log_file(struct replay *p, const struct pack *pack)
{
    if (p->has_records || p->newest_log == 0) {
        p->newest_log = pack->id;
        p->spare_log = 0;
        p->followed = false;
        return;
    }
    p->followed = true;
    p->spare_log = pack->len == PACK_HEADER_LEN ? pack->id : 0;
}

int replay_find_fences(struct replay *p)
{
    struct repo *r = p->repo;
    struct pack *pack;
    int rc = 0;

    for (size_t i = 0; rc >= 0 && i < r->file_count; i++) {
        struct error why = ERROR_INIT;
        if (!replay_log_counts(p, &r->files[i]))
            continue;
        rc = pack_open(r->packs_fd, PACK_LOG, r->files[i].id, r->id, false, &pack, &why);
        if (replay_is_lost(rc)) {
            rc = 0; /* told when it is walked */
            continue;
        }
        if (rc == 0) {
            p->has_records = false;
            rc = pack_walk(pack, 0, UINT64_MAX, visit_leading_fence, p, NULL, &why);
            note_log_file(p, pack);
            pack_close(pack);
        }
        if (rc < 0)
            *p->e = why;
    }
    return rc < 0 ? rc : 0;
}

/* ---- lists and commits ---- */

void replay_saw_number(struct replay *p, uint64_t number)
{
    if (number < INT64_MAX && p->position.next_number <= number)
        p->position.next_number = number + 1;
}

static int hold_list(struct replay *p, uint64_t offset, const struct record_header *h,
                     const uint8_t *body)
{
    if (h->body_len < 8)
        return 0;
    if (p->held_count == p->held_cap) {
        size_t cap = p->held_cap ? p->held_cap * 2 : 16;
        struct held_list *list = realloc(p->held, cap * sizeof(*list));
        if (!list)
            return repo_no_memory(p->e);
        p->held = list;
        p->held_cap = cap;
    }
    p->held[p->held_count++] = (struct held_list){.number = load_u64(body),
                                                  .sequence = h->sequence,
                                                  .pack_id = p->pack->id,
                                                  .offset = offset};
    replay_saw_number(p, load_u64(body));
    return 0;
}

/* Operations up to the first that does not parse. */
static size_t sound_ops(const struct buffer *ops)
{
    struct reader r = reader_of(ops->data, ops->len);
    struct error ignored = ERROR_INIT;
    size_t sound = 0;
    struct op op;

    while (op_decode(&r, &op, &ignored) == 1)
        sound = ops->len - r.left;
    return sound;
}

static int apply_list(struct replay *p, const struct held_list *l, const struct commit *m)
{
    struct buffer body = BUFFER_INIT, ops = BUFFER_INIT;
    struct error why = ERROR_INIT;
    struct record_header h;
    struct pack *pack = NULL;
    uint8_t watch_id[WATCH_ID_LEN];
    uint64_t number;

    int rc = repo_pack_get(p->repo, l->pack_id, &pack, &why);
    if (rc == 0)
        rc = pack_read(pack, l->offset, &h, &body, &why);
    if (rc == 0)
        rc = file_list_decode(body.data, body.len, &number, watch_id, &ops, &why);
    repo_pack_put(p->repo, pack);
    buffer_release(&body);
    if (rc < 0 && !replay_is_lost(rc)) {
        *p->e = why;
    } else if (rc < 0 || memcmp(watch_id, m->watch_id, WATCH_ID_LEN) != 0) {
        rc = 0; /* the state sum tells */
    } else {
        p->op_bytes += ops.len;
        rc = catalog_apply_ops(p->catalog, ops.data, sound_ops(&ops), p->e);
    }
    buffer_release(&ops);
    return rc;
}

static int apply_lists(struct replay *p, const struct commit *m)
{
    size_t kept = 0;
    int rc = 0;

    for (size_t i = 0; i < p->held_count; i++) {
        if (p->held[i].number != m->number)
            p->held[kept++] = p->held[i];
        else if (rc == 0)
            rc = apply_list(p, &p->held[i], m);
    }
    p->held_count = kept;
    return rc;
}

static int index_needs(struct replay *p, const struct commit *m)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < m->need_count; i++)
        rc = replay_index_data(p, m->needs[i].pack_id, m->needs[i].len);
    return rc;
}

/* A record did not decode: one that is damaged counts for nothing, and the log goes on behind it.
 * Anything else, no memory above all, says nothing about the record, which may be sound. */
static int not_understood(struct replay *p, int rc, const struct error *why)
{
    if (replay_is_lost(rc))
        return 0;
    *p->e = *why;
    return rc;
}

static int fold_commit(struct replay *p, uint64_t offset, const struct record_header *h,
                       const uint8_t *body)
{
    struct error why = ERROR_INIT;
    struct commit m;

    int rc = commit_decode(body, h->body_len, &m, &why);
    if (replay_is_lost(rc))
        repo_notice(p->repo, "a commit record in log pack %016" PRIx64 " does not parse",
                    p->pack->id);
    if (rc < 0)
        return not_understood(p, rc, &why);
    if (SAFETY(COMMIT_CHAIN, !hash_equal(&m.chain, &p->position.chain)))
        repo_notice(p->repo, "a commit before snapshot %" PRIu64 " is missing", m.number);
    rc = index_needs(p, &m);
    if (rc == 0)
        rc = replay_ensure_write(p);
    if (rc == 0)
        rc = catalog_apply_begin(p->catalog, m.watch_id, m.number, p->e);
    if (rc == 0)
        rc = apply_lists(p, &m);
    if (rc == 0)
        rc = catalog_apply_list(p->catalog, &m, p->e);
    if (rc == 0)
        rc = catalog_apply_end(p->catalog, &m, p->e);
    replay_saw_number(p, m.number);
    hash_sha256(body, h->body_len, &p->position.chain);
    p->position.commit_pack = p->pack->id;
    p->position.commit_offset = offset;
    p->commits++;
    commit_release(&m);
    return rc;
}

/* ---- damage ---- */

static void saw_gap(struct replay *p, uint64_t from, uint64_t to)
{
    if (p->gap_from == 0)
        p->gap_from = from;
    p->gap_to = to;
    if (p->newest && to >= p->pack->len)
        return; /* the torn tail; the end of the walk tells */
    repo_notice(p->repo, "log pack %016" PRIx64 " is damaged from byte %" PRIu64 " to %" PRIu64,
                p->pack->id, from, to);
}

/* ---- other records ---- */

static int fold_mark(struct replay *p, const struct record_header *h, const uint8_t *body)
{
    struct error why = ERROR_INIT;
    struct mark m;

    int rc = mark_decode(body, h->body_len, &m, &why);
    if (rc < 0)
        return not_understood(p, rc, &why);
    rc = replay_ensure_write(p);
    if (rc == 0)
        rc = catalog_apply_mark(p->catalog, h->sequence, &m, p->e);
    mark_release(&m);
    return rc;
}

static int fold_prune(struct replay *p, const struct record_header *h, const uint8_t *body)
{
    struct error why = ERROR_INIT;
    struct prune prune;

    int rc = prune_decode(body, h->body_len, &prune, &why);
    if (rc < 0)
        return not_understood(p, rc, &why);
    rc = replay_ensure_write(p);
    for (uint32_t i = 0; rc == 0 && i < prune.count; i++)
        rc = catalog_drop(p->catalog, prune.snapshots[i], p->e);
    prune_release(&prune);
    return rc;
}

/* What lived in the packs stands elsewhere. */
static int take_place(struct replay *p, const struct compaction *c)
{
    struct pack_file f;
    int rc = replay_ensure_write(p);

    for (uint32_t i = 0; rc == 0 && i < c->need_count; i++)
        rc = replay_index_data(p, c->needs[i].pack_id, c->needs[i].len);
    for (uint32_t i = 0; rc == 0 && i < c->count; i++) {
        struct catalog_pack row;
        rc = catalog_pack(p->catalog, c->packs[i], &row, p->e);
        if (rc == ERR_NOTFOUND && repo_file_known(p->repo, c->packs[i], &f)) {
            row = (struct catalog_pack){.id = f.id, .kind = f.kind, .len = f.size};
            rc = catalog_pack_put(p->catalog, &row, p->e);
        }
        if (rc == 0 || rc == ERR_NOTFOUND)
            rc = catalog_pack_gone(p->catalog, c->packs[i], c->time.s, p->e);
        if (p->position.commit_pack == c->packs[i])
            p->position.commit_pack = p->position.commit_offset = 0;
    }
    return rc;
}

/* A copy made meanwhile has the packs that were emptied. Where they are gone, what should stand in
 * their place is missed, and not they; a later compaction may have emptied that too. */
static int name_missing(struct replay *p, const struct compaction *c)
{
    bool copy = true;
    int rc = 0;

    for (uint32_t i = 0; i < c->count; i++)
        copy &= repo_file_known(p->repo, c->packs[i], NULL);
    for (uint32_t i = 0; rc == 0 && !copy && i < c->need_count; i++) {
        struct catalog_pack row = {.id = c->needs[i].pack_id, .kind = PACK_DATA};
        if (repo_file_known(p->repo, row.id, NULL) ||
            (rc = catalog_pack(p->catalog, row.id, &row, p->e)) != ERR_NOTFOUND)
            continue;
        error_clear(p->e);
        rc = replay_ensure_write(p);
        if (rc == 0)
            rc = catalog_pack_put(p->catalog, &row, p->e);
    }
    for (uint32_t i = 0; rc == 0 && i < c->count; i++) {
        if (repo_file_known(p->repo, c->packs[i], NULL))
            continue;
        rc = replay_ensure_write(p);
        if (rc == 0)
            rc = catalog_pack_gone(p->catalog, c->packs[i], c->time.s, p->e);
    }
    return rc;
}

static int fold_compaction(struct replay *p, const struct record_header *h, const uint8_t *body)
{
    struct error why = ERROR_INIT;
    struct compaction gone;

    int rc = compaction_decode(body, h->body_len, &gone, &why);
    if (rc < 0)
        return not_understood(p, rc, &why);
    rc = replay_needs_met(p, gone.needs, gone.need_count) ? take_place(p, &gone)
                                                          : name_missing(p, &gone);
    compaction_release(&gone);
    return rc;
}

static int fold_fence(struct replay *p, const struct record_header *h, const uint8_t *body)
{
    struct error ignored = ERROR_INIT;
    struct catalog_pack row;
    struct pack_file file = {.kind = 0}; /* a fence does not tell */
    struct fence f;

    if (fence_decode(body, h->body_len, &f, &ignored) < 0)
        return 0;
    int rc = replay_add_fence(p, &f);
    if (rc == 0)
        rc = catalog_pack(p->catalog, f.pack_id, &row, p->e);
    if (rc == ERR_NOTFOUND) {
        repo_file_known(p->repo, f.pack_id, &file);
        row = (struct catalog_pack){.id = f.pack_id, .kind = file.kind};
        rc = 0;
    }
    if (rc == 0)
        rc = replay_ensure_write(p);
    row.fence = f.len;
    if (row.kind == PACK_LOG)
        row.len = f.len;
    return rc == 0 ? catalog_pack_put(p->catalog, &row, p->e) : rc;
}

static int fold_seal(struct replay *p, uint64_t end, const struct record_header *h,
                     const uint8_t *body)
{
    struct catalog_pack row = {.id = p->pack->id, .kind = PACK_LOG, .len = end};

    row.sealed = replay_seal_hash(body, h->body_len, &row.sha256);
    int rc = replay_ensure_write(p);
    return rc == 0 ? catalog_pack_put(p->catalog, &row, p->e) : rc;
}

/* ---- the walk ---- */

static int fold_record(struct replay *p, uint64_t from, uint64_t to, const struct record_header *h,
                       const uint8_t *body)
{
    switch (h->type) {
    case RECORD_COMMIT:
        return fold_commit(p, from, h, body);
    case RECORD_MARK:
        return fold_mark(p, h, body);
    case RECORD_PRUNE:
        return fold_prune(p, h, body);
    case RECORD_COMPACTION:
        return fold_compaction(p, h, body);
    case RECORD_FENCE:
        return fold_fence(p, h, body);
    case RECORD_CHECKPOINT:
        return replay_fold_part(p, from, h, body);
    case RECORD_SEAL:
        return fold_seal(p, to, h, body);
    default:
        return 0;
    }
}

static void saw_sequence(struct replay *p, uint64_t sequence)
{
    if (sequence > p->last_sequence)
        p->last_sequence = sequence;
    if (sequence > p->max_sequence)
        p->max_sequence = sequence;
}

/* A record that the checkpoint stands for. Where the last commit stands is worth knowing still. */
static void see_covered(struct replay *p, uint64_t from, const struct record_header *h,
                        const uint8_t *body)
{
    struct hash hash;

    p->gap_from = 0;
    if (h->type != RECORD_COMMIT)
        return;
    hash_sha256(body, h->body_len, &hash);
    if (!hash_equal(&hash, &p->complete.head.chain))
        return;
    p->position.commit_pack = p->pack->id;
    p->position.commit_offset = from;
}

static int visit_log(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                     const uint8_t *body)
{
    struct replay *p = ctx;

    if (!h) {
        saw_gap(p, from, to);
        return 0;
    }
    if (h->type == RECORD_BLOCK)
        return replay_add_block(p, p->pack->id, from, body, h->body_len);
    saw_sequence(p, h->sequence);
    if (p->to_load) {
        if (h->sequence <= p->complete.head.covers) {
            see_covered(p, from, h, body);
            return 0;
        }
        int rc = replay_load(p);
        if (rc < 0)
            return rc;
    }
    if (h->type == RECORD_FILE_LIST)
        return hold_list(p, from, h, body);
    if (h->sequence <= p->position.sequence) {
        p->gap_from = 0; /* folded before: what stands before it was flushed */
        return 0;
    }
    int rc = replay_write_is_torn(p, to);
    if (rc == 1) {
        p->cut = p->gap_from;
        return REPLAY_STOP;
    }
    if (rc == 0)
        rc = fold_record(p, from, to, h, body);
    p->gap_from = 0;
    p->position.sequence = h->sequence;
    p->position.log_pack = p->pack->id;
    p->position.log_offset = to;
    if (rc == 0 && (p->commits >= BATCH_COMMITS || p->op_bytes >= BATCH_BYTES))
        rc = end_batch(p, false);
    return rc;
}

/* One without a sound header is what a crash leaves of a pack that was being made. */
static void tell_log(struct replay *p, uint64_t id, const char *why)
{
    struct pack_file f;

    if (repo_file_known(p->repo, id, &f) && f.size <= PACK_HEADER_LEN)
        return;
    repo_notice(p->repo, "log pack %016" PRIx64 " cannot be read: %s", id, why);
}

static int walk_log(struct replay *p, uint64_t id, uint64_t from)
{
    struct error why = ERROR_INIT;
    uint64_t tail = 0, end = replay_fence_of(p, id);

    p->newest = id == p->newest_log;
    p->gap_from = 0;
    int rc = pack_open(p->repo->packs_fd, PACK_LOG, id, p->repo->id, false, &p->pack, &why);
    if (rc < 0 && !replay_is_lost(rc)) {
        *p->e = why;
        return rc;
    }
    if (rc < 0) {
        tell_log(p, id, why.message);
        return 0;
    }
    rc = pack_walk(p->pack, from, end, visit_log, p, &tail, p->e);
    if (rc == 0 && end < p->pack->len)
        rc = replay_burn(p, end);
    else if (rc == 0 && p->newest && tail < p->pack->len)
        rc = replay_burn(p, tail);
    if (rc == 0 && p->newest && p->gap_from && p->gap_from < tail) {
        p->cut = p->gap_from; /* nothing that was flushed stands behind the hole */
        rc = REPLAY_STOP;
    }
    if (p->newest) {
        p->newest_end = tail;
        p->torn |= tail < p->pack->len;
    }
    pack_close(p->pack);
    p->pack = NULL;
    return rc;
}

static int walk_logs(struct replay *p)
{
    const struct catalog_position start = p->position;
    struct repo *r = p->repo;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++)
        if (r->files[i].kind == PACK_LOG && r->files[i].id >= start.log_pack &&
            r->files[i].id <= p->newest_log && !replay_is_gone(p, r->files[i].id))
            rc = walk_log(p, r->files[i].id,
                          r->files[i].id == start.log_pack ? start.log_offset : 0);
    return rc;
}

/* ---- entry ---- */

void replay_release(struct replay *p)
{
    pack_close(p->pack);
    free(p->fences);
    free(p->held);
    free(p->parts.places);
    free(p->complete.places);
    free(p->gone);
    buffer_release(&p->raw);
    if (p->in_write)
        catalog_rollback(p->catalog);
}

/* The log ends at a fence that is still to be written: one that waits, or that comes of this. */
static bool ends_unwritten(const struct replay *p)
{
    const struct repo *r = p->repo;

    if (p->torn)
        return true;
    for (size_t i = 0; i < r->fence_count; i++)
        if (r->fences[i].pack_id == p->newest_log)
            return true;
    return false;
}

/* The catalog stands at the end of what was walked, so that the next open finds nothing to do, and
 * knows the numbers that lists of saves have used that never were. Not so those behind a fence that
 * a kill would keep from the disk: what the next writer finds there then is no record that was
 * folded in before. */
static int move_to_end(struct replay *p)
{
    if (!p->recovering_writer || p->newest_log == 0 ||
        (p->position.log_pack == p->newest_log && p->position.log_offset >= p->newest_end))
        return 0;
    int rc = replay_ensure_write(p);
    p->position.log_pack = p->newest_log;
    p->position.log_offset = p->newest_end;
    uint64_t used = ends_unwritten(p) ? p->last_sequence : p->max_sequence;
    if (p->position.sequence < used)
        p->position.sequence = used;
    return rc;
}

static int replay_once(struct replay *p)
{
    int rc = catalog_position(p->catalog, &p->position, p->e);
    p->full = p->position.log_pack == 0;
    catalog_gather_many(p->catalog, p->full);
    if (rc == 0)
        rc = add_own_fences(p);
    if (rc == 0)
        rc = replay_find_fences(p);
    if (rc == 0 && p->recovering_writer)
        rc = replay_secure_tail(p);
    if (rc == 0 && p->full)
        rc = replay_find_checkpoint(p);
    if (rc == 0)
        rc = walk_logs(p);
    if (rc == 0 && p->to_load)
        rc = replay_load(p);
    if (rc == 0)
        rc = replay_index_orphans(p);
    if (rc == 0)
        rc = move_to_end(p);
    if (rc == 0)
        rc = end_batch(p, true);
    catalog_gather_many(p->catalog, false);
    return rc;
}

static void start_again(struct replay *p)
{
    struct replay fresh = {.repo = p->repo,
                           .catalog = p->catalog,
                           .e = p->e,
                           .recovering_writer = p->recovering_writer,
                           .bad_count = p->bad_count};

    memcpy(fresh.bad, p->bad, sizeof(fresh.bad));
    replay_release(p);
    *p = fresh;
}

int repo_replay(struct repo *r, struct catalog *c, bool recovering, struct error *e)
{
    struct replay p = {.repo = r, .catalog = c, .e = e, .recovering_writer = recovering};

    int rc = replay_once(&p);
    for (unsigned bad = 0; rc == ERR_DAMAGED && p.bad_count > bad; bad++) {
        repo_notice(r, "a checkpoint is not used: %s", e->message);
        start_again(&p);
        rc = replay_once(&p);
    }
    if (rc == REPLAY_STOP) {
        /* Blocks behind the hole were indexed: undo that, and look again only up to the hole. */
        const struct fence cut = {.pack_id = p.newest_log, .len = p.cut};
        start_again(&p);
        rc = replay_add_fence(&p, &cut);
        if (rc == 0)
            rc = replay_once(&p);
    }
    if (rc == 0 && recovering)
        rc = replay_take_over(&p);
    replay_release(&p);
    return rc;
}
