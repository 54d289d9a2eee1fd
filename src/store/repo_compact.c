/* Compaction: what lives moves out of packs that are to go.
 *
 * Which packs: log packs that a checkpoint covers, unless three quarters of their bytes are blocks
 * that live, and data packs of which less than half lives. Both have ended. In order:
 *
 * 1. *Doomed*, while no save is open: from then on no save takes what stands in these packs for
 *    known, so that nothing in them can gain its first reference. A reading transaction begun in
 *    the same moment says what lives; what is dead in it stays dead.
 * 2. *Survey*: the packs are walked, newest first. A delta that nothing needs lets go of its base,
 *    hence whole chains of dead deltas are found dead. What the walk finds living must be all that
 *    the catalog knows to live there; else something is damaged, and the pack stays.
 * 3. *Move*: living chunks go to the data pack in blocks made anew at the strong level, small ones
 *    together; deltas go as they are, since their base keeps its id. Flushed and indexed every few
 *    blocks.
 * 4. *Read back* from the disk, expanded, hashes compared.
 * 5. *Record*: the compaction record names the packs, and how much of which packs must be there for
 *    it to hold. Flushed. The catalog forgets the packs.
 * 6. Later the files are unlinked (repo_upkeep.c).
 *
 * Broken off before 5 it leaves chunks that stand twice; the next upkeep begins again. */
#include "store/repo_compact.h"

#include "base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    BATCH_BYTES = 64 * 1024 * 1024, /* of packs taken on at once */
    RECORD_COST = 128,              /* of a chunk in a block of its own, about */
    FORGET_AT_ONCE = 512,           /* rows of dead chunks in one transaction */
};

/* ---- which packs ---- */

static struct pack_use use_of(const struct compacting *k, uint64_t id)
{
    for (size_t i = 0; i < k->use_count; i++)
        if (k->uses[i].pack_id == id)
            return k->uses[i];
    return (struct pack_use){.pack_id = id};
}

/* A list that waits for its commit must stay where it is. */
static uint64_t oldest_waiting(const struct repo *r)
{
    uint64_t oldest = UINT64_MAX;

    for (const struct txn *t = r->txns; t; t = t->next)
        if (t->spilled_count > 0 && t->spilled[0].pack_id < oldest)
            oldest = t->spilled[0].pack_id;
    return oldest;
}

/* It was looked at, and was mostly needed; so it is while next to nothing in it has died. */
static bool is_settled(const struct compacting *k, const struct pack_use *use)
{
    const struct repo *r = k->repo;

    for (size_t i = 0; i < r->settled_count; i++)
        if (r->settled[i].pack_id == use->pack_id)
            return !k->eager && use->live > r->settled[i].live / 8 * 7;
    return false;
}

static bool is_worth_it(const struct compacting *k, const struct catalog_pack *row, uint64_t folded)
{
    const struct repo *r = k->repo;
    const struct pack_use use = use_of(k, row->id);

    if (row->gone || row->id >= k->below || !repo_file_known(k->repo, row->id, NULL))
        return false;
    if (row->kind == PACK_LOG)
        return row->id < folded && row->id < oldest_waiting(r) &&
               !(r->log && r->log->id == row->id) && !is_settled(k, &use);
    if ((r->data && r->data->id == row->id) || r->ending_count > 0)
        return false;
    for (size_t i = 0; i < r->unindexed_count; i++)
        if (r->unindexed[i].pack_id == row->id)
            return false;
    if (k->upkeep->all && use.live < use.all)
        return true;
    return use.live < use.all / 2 || use.live + use.live_count * RECORD_COST < row->len / 2;
}

static int add_pack(struct compacting *k, const struct catalog_pack *row)
{
    struct old_pack *list = realloc(k->packs, (k->pack_count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(k->e);
    k->packs = list;
    list[k->pack_count++] = (struct old_pack){
        .id = row->id,
        .kind = row->kind,
        .end = catalog_pack_end(row),
    };
    return 0;
}

/* What it takes to move what lives there, about; a little more for the records. */
static uint64_t cost_of(const struct compacting *k, const struct catalog_pack *row)
{
    const struct pack_use use = use_of(k, row->id);
    double share = use.all ? (double)use.live / (double)use.all : 0;

    return (uint64_t)(share * (double)row->len) + use.live_count * RECORD_COST;
}

/* Newest first, so that deltas come before their bases. */
static int choose(struct compacting *k, uint64_t folded)
{
    uint64_t room = k->upkeep->pressed ? repo_upkeep_room(k->repo) : UINT64_MAX;
    struct catalog_pack *rows;
    uint64_t bytes = 0;
    size_t count;

    int rc = catalog_packs(k->repo->writer, &rows, &count, k->e);
    for (size_t i = count; rc == 0 && i-- > 0;) {
        if (k->pack_count > 0 && bytes + rows[i].len > BATCH_BYTES)
            break;
        if (!is_worth_it(k, &rows[i], folded) || cost_of(k, &rows[i]) > room)
            continue;
        room -= cost_of(k, &rows[i]);
        rc = add_pack(k, &rows[i]);
        bytes += rows[i].len;
    }
    free(rows);
    return rc;
}

static int doom(struct compacting *k)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < k->pack_count; i++)
        rc = repo_doom(k->repo, k->packs[i].id, k->e);
    return rc;
}

static bool was_touched(const struct compacting *k, uint64_t id)
{
    for (size_t i = 0; i < k->pack_count; i++)
        if (k->packs[i].id == id)
            return k->forgetting && !k->packs[i].stays;
    return true;
}

/* Those of which something was forgotten stay doomed, emptied in the end or not: a save that began
 * before that reads by a state in which it was not. */
static void spare(struct compacting *k)
{
    struct repo *r = k->repo;
    size_t kept = 0;

    pthread_mutex_lock(&r->packs_lock);
    for (size_t i = 0; i < r->doomed_count; i++)
        if (was_touched(k, r->doomed[i]))
            r->doomed[kept++] = r->doomed[i];
    r->doomed_count = kept;
    pthread_mutex_unlock(&r->packs_lock);
}

static int count_uses(struct compacting *k, struct catalog *c)
{
    free(k->uses);
    k->uses = NULL;
    return catalog_pack_uses(c, &k->uses, &k->use_count, k->e);
}

/* What lives where, at about this time: enough to choose by. */
static int look(struct compacting *k)
{
    struct catalog *c;

    int rc = repo_catalog_lend(k->repo, &c, k->e);
    if (rc < 0)
        return rc;
    rc = count_uses(k, c);
    repo_catalog_return(k->repo, c);
    return rc;
}

/* 1: packs were chosen, and the state that says what lives in them stands still. */
static int begin(struct compacting *k)
{
    struct repo *r = k->repo;
    struct catalog_position p;

    int rc = repo_catalog_mend(r, k->e);
    if (rc == 0)
        rc = repo_data_index_now(r, k->e);
    if (rc == 0)
        rc = catalog_position(r->writer, &p, k->e);
    if (rc == 0)
        rc = choose(k, p.folded_pack);
    if (rc == 0 && k->pack_count > 0)
        rc = doom(k);
    if (rc == 0 && k->pack_count > 0)
        rc = repo_catalog_lend(r, &k->state, k->e);
    if (rc == 0 && k->pack_count > 0)
        rc = catalog_read_begin(k->state, k->e);
    k->generation = r->generation;
    repo_catalog_failed(r, rc, false);
    r->compacted = rc == 0 && k->pack_count == 0;
    return rc < 0 ? rc : k->pack_count > 0;
}

static int begin_between_saves(struct compacting *k, struct upkeep_result *done)
{
    struct repo *r = k->repo;
    int rc = 0;

    pthread_mutex_lock(&r->write_lock);
    bool nothing = r->compacted && !k->eager;
    pthread_mutex_unlock(&r->write_lock);
    if (nothing)
        return 0;
    rc = look(k);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    if (r->txns)
        done->waiting = true;
    else
        rc = begin(k);
    pthread_mutex_unlock(&r->write_lock);
    if (rc < 1)
        return rc;
    rc = count_uses(k, k->state);
    for (size_t i = 0; rc == 0 && i < k->pack_count; i++)
        k->packs[i].live = use_of(k, k->packs[i].id).live;
    return rc < 0 ? rc : 1;
}

/* ---- the end ---- */

static int forget_some(struct compacting *k, size_t *next)
{
    struct repo *r = k->repo;
    unsigned done = 0;

    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, k->e);
    if (rc == 0)
        rc = catalog_begin(r->writer, k->e);
    if (rc == 0) {
        for (; rc == 0 && *next < k->chunk_count && done < FORGET_AT_ONCE; ++*next) {
            const struct old_chunk *c = &k->chunks[*next];
            if (!c->mine || c->live || c->refs > 0)
                continue;
            rc = catalog_chunk_forget(r->writer, &c->id, c->pack_id, k->e);
            done++;
        }
        if (rc == 0)
            rc = catalog_commit(r->writer, k->e);
        else
            catalog_rollback(r->writer);
    }
    repo_catalog_failed(r, rc, false);
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

static int forget_dead(struct compacting *k)
{
    size_t next = 0;
    int rc = 0;

    while (rc == 0 && next < k->chunk_count)
        rc = repo_upkeep_stopped(k->upkeep, k->e) ? k->e->code : forget_some(k, &next);
    return rc;
}

/* Chunks that only dead deltas needed. One that is needed after all: nothing is done. */
static int forget_bases(struct compacting *k)
{
    struct catalog *c = k->repo->writer;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < k->chunk_count; i++) {
        const struct old_chunk *o = &k->chunks[i];
        struct chunk_place at;
        if (!o->mine || o->live || o->refs == 0 || o->stays)
            continue;
        rc = catalog_chunk_forget(c, &o->id, o->pack_id, k->e);
        struct error absent = ERROR_INIT;
        if (rc == 0 && catalog_chunk(c, &o->id, &at, &absent) == 0 && at.pack_id == o->pack_id)
            rc = error_set(k->e, ERR_FAILED, "a chunk that was dead is needed again");
    }
    return rc;
}

static int empty_packs(struct compacting *k, int64_t time)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < k->pack_count; i++)
        if (!k->packs[i].stays)
            rc = catalog_pack_emptied(k->repo->writer, k->packs[i].id, time, k->e);
    return rc == 0 ? forget_bases(k) : rc;
}

static int encode_record(struct compacting *k, const struct wall_time *time, struct buffer *body)
{
    uint64_t *ids = malloc((k->pack_count + 1) * sizeof(*ids));
    struct compaction c = {
        .time = *time, .packs = ids, .needs = k->needs, .need_count = (uint32_t)k->need_count};

    if (!ids)
        return repo_no_memory(k->e);
    for (size_t i = 0; i < k->pack_count; i++)
        if (!k->packs[i].stays)
            ids[c.count++] = k->packs[i].id;
    compaction_encode(&c, body);
    free(ids);
    return buffer_ok(body) ? 0 : repo_no_memory(k->e);
}

static bool needs_are_lost(const struct compacting *k)
{
    for (size_t i = 0; i < k->need_count; i++)
        if (repo_data_lost(k->repo, k->needs[i].pack_id, k->needs[i].len))
            return true;
    return false;
}

static int write_record(struct compacting *k, const struct buffer *body)
{
    struct repo *r = k->repo;
    struct log_batch b;

    int rc = repo_batch_begin(r, &b, k->e);
    if (rc < 0)
        return rc;
    repo_batch_add(r, &b, RECORD_COMPACTION, body->data, body->len, NULL);
    rc = repo_batch_write(r, &b, true, k->e);
    repo_batch_release(&b);
    return rc;
}

/* The record is durable: nothing that fails from here on takes it back. */
static void end_catalog(struct repo *r)
{
    struct error why = ERROR_INIT;

    int rc = repo_rows_put(r, false, &why);
    if (rc == 0)
        rc = repo_position_move(r, &why);
    if (rc == 0)
        rc = catalog_commit(r->writer, &why);
    else
        catalog_rollback(r->writer);
    if (rc == 0)
        repo_rows_done(r, false);
    else
        repo_catalog_failed(r, rc, true);
}

/* As a commit: into the catalog's open transaction, then the record, then the transaction ends. 1:
 * it is not done, as the catalog was made anew since. A chunk that stands in two places may have
 * the other one now, in a pack that was to go. */
static int record(struct compacting *k)
{
    struct repo *r = k->repo;
    struct wall_time now = clock_wall();
    struct buffer body = BUFFER_INIT;

    int rc = repo_catalog_mend(r, k->e);
    if (rc == 0 && r->generation != k->generation)
        return 1;
    if (rc == 0)
        rc = encode_record(k, &now, &body);
    if (rc == 0)
        rc = catalog_begin(r->writer, k->e);
    if (rc < 0) {
        buffer_release(&body);
        return rc;
    }
    rc = empty_packs(k, now.s);
    if (rc == 0 && needs_are_lost(k))
        rc = error_set(k->e, ERR_FAILED, "a write failed while packs were compacted");
    if (rc == 0)
        rc = write_record(k, &body);
    buffer_release(&body);
    if (rc < 0) {
        catalog_rollback(r->writer);
        repo_fences_flush(r);
        return rc;
    }
    end_catalog(r);
    return 0;
}

static size_t emptied(const struct compacting *k)
{
    size_t count = 0;

    for (size_t i = 0; i < k->pack_count; i++)
        count += !k->packs[i].stays;
    return count;
}

static size_t settled(const struct compacting *k)
{
    size_t count = 0;

    for (size_t i = 0; i < k->pack_count; i++)
        count += k->packs[i].settled;
    return count;
}

/* ---- the whole ---- */

static void release(struct compacting *k)
{
    chunk_source_close(k->source);
    repo_catalog_return(k->repo, k->state);
    for (size_t i = 0; i < k->moved_count; i++)
        free(k->moved[i].chunks);
    free(k->moved);
    free(k->uses);
    free(k->packs);
    free(k->blocks);
    free(k->chunks);
    free(k->needs);
    buffer_release(&k->raw);
    free(k->pending);
    id_map_release(&k->let_go);
}

/* 1: the packs stay. */
static int go_through(struct compacting *k)
{
    int rc = compact_survey(k);
    if (rc == 0 && emptied(k) > 0)
        rc = compact_move(k);
    if (rc == 0)
        rc = compact_read_back(k);
    /* Now the state is not needed any more; it would only hold up the catalog's WAL. */
    if (rc == 0)
        catalog_read_end(k->state);
    k->forgetting = rc == 0;
    if (rc == 0 && emptied(k) > 0)
        rc = forget_dead(k);
    if (rc < 0 || emptied(k) == 0)
        return rc;
    pthread_mutex_lock(&k->repo->write_lock);
    rc = record(k);
    pthread_mutex_unlock(&k->repo->write_lock);
    return rc;
}

/* 1: a batch is done, and there may be more. */
static int compact_batch(struct repo *r, const struct upkeep *u, uint64_t below,
                         struct upkeep_result *done, struct error *e)
{
    struct compacting k = {.repo = r, .upkeep = u, .e = e, .below = below, .raw = BUFFER_INIT};
    k.eager = u->all || u->pressed || repo_free_missing(r) > 0;
    bool more = false;

    id_map_init(&k.let_go, sizeof(struct let_go));
    int rc = begin_between_saves(&k, done);
    if (rc == 1) {
        rc = go_through(&k);
        if (rc == 0) {
            done->packs_emptied += emptied(&k);
            done->bytes_moved += k.bytes_moved;
            more = emptied(&k) + settled(&k) == k.pack_count;
        }
    }
    spare(&k);
    release(&k);
    return rc < 0 ? rc : more;
}

int repo_compact(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                 struct error *e)
{
    int rc;

    /* What is moved now is not moved again. */
    pthread_mutex_lock(&r->write_lock);
    uint64_t below = r->next_pack;
    pthread_mutex_unlock(&r->write_lock);
    do
        rc = repo_upkeep_stopped(u, e) ? e->code : compact_batch(r, u, below, done, e);
    while (rc == 1);
    return rc;
}
