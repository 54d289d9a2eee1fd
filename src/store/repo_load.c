/* Checkpoints as a replay meets them.
 *
 * A replay from the beginning looks for the newest checkpoint whose parts are all sound. What the
 * log says up to the record that it covers is then passed over, but for blocks; its rows are taken
 * in when the first record behind that one comes, since list chunks have to be readable by then. A
 * checkpoint that turns out not to give the state it names is passed over for the one before, or
 * for its other copy.
 *
 * The table of packs names those that a compaction emptied. They do not count, unless a pack that
 * it says must be there is not: that is a copy of a repository made while packs came and went, and
 * what is missing from it may stand in those still. */
#include "store/replay.h"

#include "base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- finding one ---- */

static bool is_bad(const struct replay *p, uint64_t id)
{
    for (unsigned i = 0; i < p->bad_count; i++)
        if (p->bad[i] == id)
            return true;
    return false;
}

static void forget_parts(struct found_checkpoint *f)
{
    free(f->places);
    *f = (struct found_checkpoint){0};
}

static int add_place(struct found_checkpoint *f, uint64_t pack_id, uint64_t offset, struct error *e)
{
    struct part_place *list = realloc(f->places, (f->count + 1) * sizeof(*list));

    if (!list)
        return repo_no_memory(e);
    f->places = list;
    list[f->count++] = (struct part_place){pack_id, offset};
    return 0;
}

/* 1: with this part the checkpoint is complete; 0: not yet. */
static int take_part(struct replay *p, uint64_t pack_id, uint64_t offset,
                     const struct record_header *h, const uint8_t *body)
{
    struct found_checkpoint *f = &p->parts;
    struct error why = ERROR_INIT;
    struct checkpoint_part part;

    int rc = checkpoint_part_decode(body, h->body_len, &part, &why);
    if (rc < 0 || is_bad(p, part.id)) {
        forget_parts(f);
        return 0;
    }
    if (part.part == 0)
        forget_parts(f);
    else if (part.id != f->head.id || part.part != f->count) {
        forget_parts(f);
        return 0;
    }
    f->head = part;
    f->bytes += record_span(h->body_len);
    rc = add_place(f, pack_id, offset, p->e);
    return rc < 0 ? rc : part.parts != 0;
}

/* The first copy and the second stand in two packs: everything before the first is covered. */
static void note_cover(struct replay *p)
{
    const struct found_checkpoint *first = &p->complete, *second = &p->parts;

    if (first->count == 0 || first->head.covers != second->head.covers ||
        first->places[first->count - 1].pack_id >= second->places[0].pack_id)
        return;
    p->position.folded_pack = first->places[0].pack_id;
    p->position.folded_bytes = second->bytes;
}

static void complete_parts(struct replay *p)
{
    forget_parts(&p->complete);
    p->complete = p->parts;
    p->parts = (struct found_checkpoint){0};
}

int replay_fold_part(struct replay *p, uint64_t offset, const struct record_header *h,
                     const uint8_t *body)
{
    int rc = take_part(p, p->pack->id, offset, h, body);

    if (rc < 1)
        return rc;
    note_cover(p);
    complete_parts(p);
    return 0;
}

struct finding {
    struct replay *replay;
    uint64_t pack_id;
};

static int visit_part(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                      const uint8_t *body)
{
    struct finding *f = ctx;

    if (!h || h->type != RECORD_CHECKPOINT)
        return 0;
    int rc = take_part(f->replay, f->pack_id, from, h, body);
    if (rc == 1)
        complete_parts(f->replay);
    return rc < 0 ? rc : 0;
}

static int look_through(struct replay *p, const struct pack_file *file)
{
    struct finding f = {.replay = p, .pack_id = file->id};
    struct error why = ERROR_INIT;
    struct pack *pack;

    int rc = pack_open(p->repo->packs_fd, PACK_LOG, file->id, p->repo->id, false, &pack, &why);
    if (rc == ERR_DAMAGED || rc == ERR_NOTFOUND)
        return 0; /* told when it is walked */
    if (rc < 0) {
        *p->e = why;
        return rc;
    }
    rc = pack_walk(pack, 0, replay_fence_of(p, file->id), visit_part, &f, NULL, p->e);
    pack_close(pack);
    return rc;
}

/* ---- its rows ---- */

typedef int (*take_row)(struct replay *p, const struct row *row);

static int read_part(struct replay *p, const struct part_place *at, struct buffer *rows)
{
    struct buffer body = BUFFER_INIT;
    struct checkpoint_part part;
    struct record_header h;
    struct pack *pack = NULL;

    int rc = repo_pack_get(p->repo, at->pack_id, &pack, p->e);
    if (rc == 0)
        rc = pack_read(pack, at->offset, &h, &body, p->e);
    repo_pack_put(p->repo, pack);
    if (rc == 0)
        rc = checkpoint_decode(body.data, body.len, &part, rows, p->e);
    buffer_release(&body);
    return rc;
}

static int each_row(struct replay *p, take_row take)
{
    struct buffer rows = BUFFER_INIT;
    struct row row;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < p->complete.count; i++) {
        buffer_clear(&rows);
        rc = read_part(p, &p->complete.places[i], &rows);
        struct reader r = reader_of(rows.data, rows.len);
        while (rc == 0 && (rc = row_decode(&r, &row, p->e)) == 1)
            rc = take(p, &row);
    }
    buffer_release(&rows);
    return rc;
}

/* A file that is as long as it has to be. */
static bool pack_is_there(struct replay *p, uint64_t id, uint64_t len)
{
    struct pack_file f;

    return repo_file_known(p->repo, id, &f) && f.size >= len && replay_fence_of(p, id) >= len;
}

bool replay_needs_met(struct replay *p, const struct pack_need *needs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!pack_is_there(p, needs[i].pack_id, needs[i].len)) {
            repo_notice(p->repo,
                        "pack %016" PRIx64 " is not there: what was moved to it is looked for "
                        "where it stood before",
                        needs[i].pack_id);
            return false;
        }
    }
    return true;
}

static int check_pack_row(struct replay *p, const struct row *row)
{
    const struct pack_need need = {row->pack_id, row->pack_len};

    if (row->type != ROW_PACK)
        return REPLAY_STOP;
    if (row->pack_kind == PACK_DATA && row->pack_gone == 0)
        return replay_needs_met(p, &need, 1) ? 0 : ERR_NOTFOUND;
    if (row->pack_gone == 0) { /* the pack that begins with a log's fence may have gone */
        const struct fence f = {.pack_id = row->pack_id, .len = row->pack_fence};
        return row->pack_kind == PACK_LOG && f.len > 0 ? replay_add_fence(p, &f) : 0;
    }
    uint64_t *list = realloc(p->gone, (p->gone_count + 1) * sizeof(*list));
    if (!list)
        return repo_no_memory(p->e);
    p->gone = list;
    list[p->gone_count++] = row->pack_id;
    return 0;
}

static int now_bad(struct replay *p, int rc)
{
    if (rc == ERR_DAMAGED && p->bad_count < BAD_CHECKPOINTS_MAX)
        p->bad[p->bad_count++] = p->complete.head.id;
    return rc;
}

int replay_find_checkpoint(struct replay *p)
{
    struct repo *r = p->repo;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++)
        if (r->files[i].kind == PACK_LOG)
            rc = look_through(p, &r->files[i]);
    forget_parts(&p->parts);
    if (rc < 0 || p->complete.count == 0)
        return rc;
    p->to_load = true;
    rc = each_row(p, check_pack_row);
    if (rc == ERR_NOTFOUND)
        p->gone_count = 0;
    return rc == REPLAY_STOP || rc == ERR_NOTFOUND ? 0 : now_bad(p, rc);
}

bool replay_is_gone(const struct replay *p, uint64_t pack_id)
{
    for (size_t i = 0; i < p->gone_count; i++)
        if (p->gone[i] == pack_id)
            return true;
    return false;
}

static int load_row(struct replay *p, const struct row *row)
{
    struct row pack = *row;

    if (row->type != ROW_PACK)
        return catalog_load_row(p->catalog, row, p->e);
    if (pack.pack_gone && !repo_file_known(p->repo, pack.pack_id, NULL))
        return 0; /* what is missed then is what should stand in its place */
    if (pack.pack_gone && !replay_is_gone(p, pack.pack_id))
        pack.pack_gone = 0;
    int rc = catalog_load_row(p->catalog, &pack, p->e);
    if (rc == 0 && pack.pack_kind == PACK_DATA)
        rc = replay_index_data(p, pack.pack_id, pack.pack_len);
    return rc;
}

int replay_load(struct replay *p)
{
    const struct checkpoint_part *head = &p->complete.head;

    p->to_load = false;
    int rc = replay_ensure_write(p);
    if (rc == 0)
        rc = each_row(p, load_row);
    if (rc == 0)
        rc = catalog_load_end(p->catalog, p->e);
    p->position.chain = head->chain;
    p->position.sequence = head->covers;
    if (head->next_number > 0)
        replay_saw_number(p, head->next_number - 1);
    if (p->position.next_pack < head->next_pack)
        p->position.next_pack = head->next_pack;
    if (head->covers > p->max_sequence)
        p->max_sequence = head->covers;
    rc = now_bad(p, rc);
    forget_parts(&p->complete); /* its copies are met again on the way */
    return rc;
}
