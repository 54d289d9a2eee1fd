/* Writing a checkpoint.
 *
 * 1. The log pack is ended, so that what came before stands in packs that can go as a whole.
 * 2. A reading transaction of the catalog fixes what is folded in: all records up to the newest. No
 *    save may have a file list in the log then whose commit is still to come.
 * 3. The rows go into the log part by part, each one record and one flush, between the saves that
 *    go on meanwhile.
 * 4. The log pack is ended again, and the parts are read back from the disk and written once more.
 * 5. Both copies are read back. Only now the catalog notes which log packs are covered.
 *
 * A crash in between leaves parts without their end, or one copy: whole copies serve a reader, the
 * rest counts for nothing, and the next upkeep begins anew. */
#include "store/repo_private.h"

#include "base/bytes.h"
#include "io/fileops.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    PART_RAW = 1024 * 1024,     /* of rows; then a part is full */
    FOLD_MIN = 2 * 1024 * 1024, /* of the log, before a checkpoint pays */
    FOLD_MIN_ALL = 4096,        /* the same when asked for: more than headers and seals */
    FILE_FOLDED = 48, /* of a checkpoint: a file is an id, times, a name that packs well */
};

struct place {
    uint64_t pack_id, offset;
};

struct folding {
    struct repo *repo;
    const struct upkeep *upkeep;
    struct error *e;
    struct checkpoint_part head;
    struct buffer rows;
    struct place *first, *second; /* places of the parts of both copies */
    size_t count, second_count;
    uint64_t bytes;
    uint64_t log_pack; /* where the record behind the state goes; 0: a pack that is still to come */
};

/* ---- is one due ---- */

static uint64_t size_of_log(struct repo *r, uint64_t from)
{
    uint64_t sum = 0;
    struct stat st;
    char name[40];

    pthread_mutex_lock(&r->packs_lock);
    for (size_t i = 0; i < r->file_count; i++) {
        if (r->files[i].kind != PACK_LOG || r->files[i].id < from)
            continue;
        pack_file_name(PACK_LOG, r->files[i].id, name);
        if (fstatat(r->packs_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            sum += (uint64_t)st.st_size;
    }
    pthread_mutex_unlock(&r->packs_lock);
    return sum;
}

/* Bytes in the log that the newest checkpoint does not cover, and that checkpoint's size. */
static int log_growth(struct repo *r, uint64_t *grown, uint64_t *folded, struct error *e)
{
    struct catalog_position p;

    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, e);
    if (rc == 0)
        rc = catalog_position(r->writer, &p, e);
    pthread_mutex_unlock(&r->write_lock);
    if (rc < 0)
        return rc;
    uint64_t size = size_of_log(r, p.folded_pack);
    *folded = p.folded_bytes;
    *grown = size > 2 * p.folded_bytes ? size - 2 * p.folded_bytes : 0;
    return 0;
}

/* What a checkpoint would take, by the files that there are now. */
static int guess_folded(struct repo *r, uint64_t *bytes, struct error *e)
{
    struct watch_row *watches = NULL;
    size_t count = 0;

    *bytes = 0;
    pthread_mutex_lock(&r->write_lock);
    int rc = catalog_watches(r->writer, &watches, &count, e);
    pthread_mutex_unlock(&r->write_lock);
    for (size_t i = 0; rc >= 0 && i < count; i++) {
        *bytes += watches[i].files * FILE_FOLDED;
        watch_row_release(&watches[i]);
    }
    free(watches);
    return rc < 0 ? rc : 0;
}

/* When the log, older copies included, is two copies and a half: less would make it longer. So the
 * log of a first save, which is nothing but what a checkpoint would say again, has none. */
static int is_due(struct repo *r, bool all, struct error *e)
{
    uint64_t grown, folded, guess = 0;

    int rc = log_growth(r, &grown, &folded, e);
    if (rc < 0)
        return rc;
    if (all)
        return grown > FOLD_MIN_ALL;
    if (grown <= FOLD_MIN || grown <= folded / 2)
        return 0;
    if (folded == 0)
        rc = guess_folded(r, &guess, e);
    return rc < 0 ? rc : grown > guess * 5 / 2;
}

bool repo_upkeep_due(struct repo *r)
{
    struct error ignored = ERROR_INIT;

    return r->mode == REPO_WRITE && is_due(r, false, &ignored) == 1;
}

/* ---- parts ---- */

static int note_place(struct folding *f, struct place **list, size_t *count, uint64_t pack_id,
                      uint64_t offset)
{
    struct place *p = realloc(*list, (*count + 1) * sizeof(*p));

    if (!p)
        return repo_no_memory(f->e);
    *list = p;
    p[(*count)++] = (struct place){pack_id, offset};
    return 0;
}

/* One record, flushed; where it stands goes to the list. */
static int put_record(struct folding *f, const struct buffer *body, struct place **list,
                      size_t *count)
{
    struct repo *r = f->repo;
    uint64_t offset = 0, pack_id = 0;

    if (repo_upkeep_stopped(f->upkeep, f->e))
        return f->e->code;
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, f->e);
    if (rc == 0)
        rc = repo_record_put(r, RECORD_CHECKPOINT, body, NULL, NULL, &offset, f->e);
    if (rc == 0)
        pack_id = r->log ? r->log->id : 0;
    pthread_mutex_unlock(&r->write_lock);
    return rc == 0 ? note_place(f, list, count, pack_id, offset) : rc;
}

static int put_part(struct folding *f, bool last)
{
    struct buffer body = BUFFER_INIT;

    f->head.parts = last ? f->head.part + 1 : 0;
    int rc = checkpoint_encode(&f->head, f->rows.data, f->rows.len, (int)f->repo->codec, &body);
    if (rc < 0 || !buffer_ok(&body))
        rc = repo_no_memory(f->e);
    if (rc == 0)
        rc = put_record(f, &body, &f->first, &f->count);
    f->bytes += record_span((uint32_t)body.len);
    f->head.part++;
    buffer_release(&body);
    buffer_clear(&f->rows);
    return rc;
}

/* The file of an emptied pack is gone: so is its row. */
static bool is_worth_a_row(struct folding *f, const struct row *row)
{
    return row->type != ROW_PACK || row->pack_gone == 0 ||
           repo_file_known(f->repo, row->pack_id, NULL);
}

static int add_row(void *ctx, const struct row *row)
{
    struct folding *f = ctx;

    if (!is_worth_a_row(f, row))
        return 0;
    row_encode(row, &f->rows);
    if (!buffer_ok(&f->rows))
        return repo_no_memory(f->e);
    return f->rows.len >= PART_RAW ? put_part(f, false) : 0;
}

/* ---- what is folded in ---- */

static bool list_is_waiting(const struct repo *r)
{
    for (const struct txn *t = r->txns; t; t = t->next)
        if (t->spilled_count > 0)
            return true;
    return false;
}

/* 1: *c reads what the checkpoint says, until it is returned; 0: saves are in the way. */
static int fix_state(struct folding *f, struct catalog **c)
{
    struct repo *r = f->repo;

    *c = NULL;
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, f->e);
    if (rc == 0 && list_is_waiting(r)) {
        pthread_mutex_unlock(&r->write_lock);
        return 0;
    }
    if (rc == 0 && !r->txns)
        rc = repo_data_index_now(r, f->e);
    if (rc == 0)
        rc = repo_catalog_lend(r, c, f->e);
    if (rc == 0)
        rc = catalog_read_begin(*c, f->e);
    repo_catalog_failed(r, rc, false);
    f->head = (struct checkpoint_part){.id = r->next_sequence,
                                       .covers = r->next_sequence - 1,
                                       .next_number = r->next_number,
                                       .next_pack = r->next_pack,
                                       .chain = r->chain};
    f->log_pack = r->log ? r->log->id : 0;
    pthread_mutex_unlock(&r->write_lock);
    return rc < 0 ? rc : 1;
}

/* ---- the second copy ---- */

static int read_part(struct folding *f, const struct place *at, struct buffer *body)
{
    struct error *e = f->e;
    struct record_header h;
    struct pack *pack = NULL;

    buffer_clear(body);
    int rc = repo_pack_get(f->repo, at->pack_id, &pack, e);
    if (rc == 0)
        rc = pack_read(pack, at->offset, &h, body, e);
    repo_pack_put(f->repo, pack);
    return rc;
}

static void let_go_cold(struct folding *f, const struct place *places, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (i == 0 || places[i].pack_id != places[i - 1].pack_id)
            repo_pack_cold(f->repo, places[i].pack_id);
}

static int copy_parts(struct folding *f)
{
    struct buffer body = BUFFER_INIT;
    int rc = 0;

    let_go_cold(f, f->first, f->count);
    pthread_mutex_lock(&f->repo->write_lock);
    uint64_t id = f->repo->next_sequence;
    pthread_mutex_unlock(&f->repo->write_lock);
    for (size_t i = 0; rc == 0 && i < f->count; i++) {
        rc = read_part(f, &f->first[i], &body);
        if (rc == 0) {
            store_u64(body.data, id);
            rc = put_record(f, &body, &f->second, &f->second_count);
        }
    }
    buffer_release(&body);
    return rc;
}

static int check_copy(struct folding *f)
{
    struct buffer a = BUFFER_INIT, b = BUFFER_INIT;
    int rc = 0;

    let_go_cold(f, f->second, f->second_count);
    for (size_t i = 0; rc == 0 && i < f->count; i++) {
        rc = read_part(f, &f->first[i], &a);
        if (rc == 0)
            rc = read_part(f, &f->second[i], &b);
        if (rc == 0 && (a.len != b.len || memcmp(a.data + 8, b.data + 8, a.len - 8) != 0))
            rc = error_set(f->e, ERR_DAMAGED, "a checkpoint does not read back as it was written");
    }
    buffer_release(&a);
    buffer_release(&b);
    return rc;
}

/* ---- the whole ---- */

static int note_cover(struct folding *f)
{
    struct repo *r = f->repo;
    struct catalog_position p;

    if (f->first[f->count - 1].pack_id >= f->second[0].pack_id)
        return 0; /* not two packs: a failure made it so, the next one will be */
    pthread_mutex_lock(&r->write_lock);
    int rc = repo_catalog_mend(r, f->e);
    if (rc == 0)
        rc = catalog_begin(r->writer, f->e);
    if (rc == 0) {
        rc = catalog_position(r->writer, &p, f->e);
        p.folded_pack = f->first[0].pack_id;
        p.folded_bytes = f->bytes;
        if (rc == 0)
            rc = catalog_set_position(r->writer, &p, f->e);
        if (rc == 0)
            rc = catalog_commit(r->writer, f->e);
        else
            catalog_rollback(r->writer);
    }
    repo_catalog_failed(r, rc, false);
    r->compacted = false;
    pthread_mutex_unlock(&r->write_lock);
    return rc;
}

static int fold(struct folding *f)
{
    struct repo *r = f->repo;
    struct catalog *c;

    int rc = fix_state(f, &c);
    if (rc == 1) {
        rc = catalog_rows(c, add_row, f, f->e);
        if (rc == 0)
            rc = put_part(f, true);
        if (rc == ERR_CATALOG) {
            pthread_mutex_lock(&r->write_lock);
            repo_catalog_failed(r, rc, true);
            pthread_mutex_unlock(&r->write_lock);
        }
    }
    repo_catalog_return(r, c);
    if (rc < 0 || f->count == 0)
        return rc;
    /* The log went on to another pack before the first part, by a failure or because it was full:
     * what came behind the state stands in a pack that two copies would be said to cover. */
    if (f->first[0].pack_id != f->log_pack)
        return 0;
    rc = repo_log_switch(r, f->upkeep, f->e);
    if (rc == 0)
        rc = copy_parts(f);
    if (rc == 0)
        rc = check_copy(f);
    return rc == 0 ? note_cover(f) : rc;
}

int repo_checkpoint(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                    struct error *e)
{
    struct folding f = {.repo = r, .upkeep = u, .e = e, .rows = BUFFER_INIT};

    int rc = is_due(r, u->all, e);
    if (rc <= 0)
        return rc;
    pthread_mutex_lock(&r->write_lock);
    bool waiting = list_is_waiting(r);
    pthread_mutex_unlock(&r->write_lock);
    done->waiting |= waiting;
    if (waiting)
        return 0;
    rc = repo_log_switch(r, u, e);
    if (rc == 0)
        rc = fold(&f);
    if (rc == 0)
        done->checkpoint_bytes = f.bytes;
    buffer_release(&f.rows);
    free(f.first);
    free(f.second);
    return rc;
}
