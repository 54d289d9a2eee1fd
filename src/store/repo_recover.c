/* The writer's side of a replay: make durable what is believed, and take over the packs' ends.
 *
 * Packs that end in a torn tail, or that later packs follow, take no more: a fence in a new log
 * pack says how far they count. Numbers in it stay used up. */
#include "store/replay.h"

#include "base/bytes.h"
#include "base/safety.h"
#include "io/fileops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    NUMBER_LEN = 8,          /* at the beginning of lists and commits */
    NUMBERS_AHEAD = 1 << 20, /* more saves than can be open at a time */
    BURN_WINDOW = 1 << 16,
    SECTOR = 512,
};

/* What is about to be believed stands on the disk: flushed, and read again from there. */
static int secure_file(struct repo *r, const struct pack_file *f, struct error *e)
{
    char name[40];
    int rc = 0;

    pack_file_name(f->kind, f->id, name);
    int fd = fileops->openat(r->packs_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_sys(e, errno, "cannot open pack '%s'", name);
    if (SAFETY(TAIL_FLUSH, fileops->fdatasync(fd)) < 0)
        rc = error_sys(e, errno, "cannot flush pack '%s'", name);
    else
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    fileops->close(fd);
    return rc;
}

static bool has_news(struct replay *p, const struct pack_file *f)
{
    struct error ignored = ERROR_INIT;
    struct catalog_pack row;

    if (f->kind == PACK_LOG)
        return f->id > p->position.log_pack ||
               (f->id == p->position.log_pack && f->size > p->position.log_offset);
    if (catalog_pack(p->catalog, f->id, &row, &ignored) < 0)
        return true;
    return row.fence == 0 && !row.sealed && !row.gone && f->size > row.len;
}

/* Whoever made the last packs may have been killed before their names were on the disk. */
int replay_secure_tail(struct replay *p)
{
    struct repo *r = p->repo;
    bool any = false;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        if (!has_news(p, &r->files[i]))
            continue;
        any = true;
        rc = secure_file(r, &r->files[i], p->e);
    }
    return rc == 0 && any ? SAFETY(TAIL_FLUSH, dir_sync(r->packs_fd, p->e)) : rc;
}

static int open_for_writing(struct repo *r, uint8_t kind, uint64_t id, uint64_t len,
                            struct pack **out, struct error *e)
{
    int rc = pack_open(r->packs_fd, kind, id, r->id, true, out, e);

    if (rc == 0)
        (*out)->len = (*out)->flushed = len;
    return rc;
}

static bool has_data_pack(const struct repo *r, uint64_t id)
{
    for (size_t i = 0; i < r->file_count; i++)
        if (r->files[i].kind == PACK_DATA && r->files[i].id == id)
            return true;
    return false;
}

/* Packs behind the end of the log that hold something, but no record. A data pack under the name of
 * one is no log; a fence would end the pack that has this id. */
static int fence_followers(struct replay *p)
{
    struct repo *r = p->repo;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++)
        if (r->files[i].kind == PACK_LOG && r->files[i].id > p->newest_log &&
            r->files[i].size > PACK_HEADER_LEN && !has_data_pack(r, r->files[i].id))
            rc = repo_fence_add(r, r->files[i].id, PACK_HEADER_LEN, p->e);
    return rc;
}

static int take_log(struct replay *p)
{
    struct repo *r = p->repo;
    struct catalog_pack row;

    if (r->log || p->newest_log == 0 || repo_data_lost(r, p->newest_log, UINT64_MAX))
        return 0;
    int rc = catalog_pack(p->catalog, p->newest_log, &row, p->e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    bool ended = rc == 0 && (row.sealed || row.fence);
    rc = 0;
    if (!ended && (p->torn || p->followed))
        rc = repo_fence_add(r, p->newest_log, p->newest_end, p->e);
    if (rc == 0)
        rc = fence_followers(p);
    if (rc == 0 && p->spare_log && !repo_data_lost(r, p->spare_log, UINT64_MAX))
        return open_for_writing(r, PACK_LOG, p->spare_log, PACK_HEADER_LEN, &r->log, p->e);
    if (rc < 0 || ended || p->torn || p->followed)
        return rc; /* the next write begins a new one */
    return open_for_writing(r, PACK_LOG, p->newest_log, p->newest_end, &r->log, p->e);
}

/* Where the disk does not give its header it ends here, and the next write begins a new one. */
static int go_on_with(struct replay *p, const struct pack_file *f, uint64_t len)
{
    struct repo *r = p->repo;

    pack_close(r->data);
    r->data = NULL;
    int rc = open_for_writing(r, PACK_DATA, f->id, len, &r->data, p->e);
    if (rc == 0 || p->e->sys != EIO)
        return rc;
    repo_notice(r, "%s: nothing more is written to it", p->e->message);
    error_clear(p->e);
    return 0;
}

/* What is put into a data pack is younger than what stands in those with lower ids: a rebuild
 * takes them in by id, and the last place of a chunk counts. */
static uint64_t newest_data(const struct repo *r)
{
    uint64_t id = 0;

    for (size_t i = 0; i < r->file_count; i++)
        if (r->files[i].kind == PACK_DATA)
            id = r->files[i].id;
    return id;
}

static int take_data(struct replay *p)
{
    struct repo *r = p->repo;
    const uint64_t newest = newest_data(r);
    struct catalog_pack row;
    int rc = 0;

    if (r->data)
        return 0;
    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        const struct pack_file *f = &r->files[i];
        struct error ignored = ERROR_INIT;
        if (f->kind != PACK_DATA || catalog_pack(p->catalog, f->id, &row, &ignored) < 0 ||
            row.sealed || row.fence || row.gone || repo_data_lost(r, f->id, UINT64_MAX) ||
            repo_data_is_ending(r, f->id) || !repo_place_holds(r, f->id) ||
            !repo_file_is_itself(r, f))
            continue;
        if (row.len < f->size && row.len > 0) {
            rc = repo_fence_add(r, f->id, row.len, p->e);
        } else if (f->id == newest && row.len == f->size && row.len < r->pack_full) {
            rc = go_on_with(p, f, row.len);
        }
    }
    return rc;
}

/* ---- a torn write ---- */

/* 1: there is one. The first may begin with what was written before: the rest of it counts. */
static int has_zero_sector(const struct pack *pack, uint64_t from, uint64_t to, struct error *e)
{
    static const uint8_t zero[SECTOR];
    uint8_t sector[SECTOR];

    for (uint64_t at = from, end; (end = (at / SECTOR + 1) * SECTOR) <= to; at = end) {
        int rc = file_read_all(pack->fd, sector, (size_t)(end - at), at, e);
        if (rc < 0)
            return rc;
        if (memcmp(sector, zero, (size_t)(end - at)) == 0)
            return 1;
    }
    return 0;
}

static int visit_any_end(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                         const uint8_t *body)
{
    return h && h->type != RECORD_BLOCK && h->type != RECORD_FILE_LIST ? REPLAY_STOP : 0;
}

int replay_write_is_torn(struct replay *p, uint64_t end)
{
    if (p->gap_from == 0 || !p->newest)
        return 0;
    int rc = has_zero_sector(p->pack, p->gap_from, p->gap_to, p->e);
    if (rc < 1)
        return rc;
    rc = pack_walk(p->pack, end, replay_fence_of(p, p->pack->id), visit_any_end, NULL, NULL, p->e);
    return rc < 0 ? rc : rc != REPLAY_STOP;
}

/* ---- numbers that are used up ---- */

/* The body may be torn: what it says of the number is believed when it is near. */
static void burn_record(struct replay *p, const struct record_header *h, const uint8_t *number)
{
    if (!SAFETY(LOST_NUMBERS, h->type != RECORD_BLOCK))
        return;
    if (h->sequence > p->max_sequence)
        p->max_sequence = h->sequence;
    if ((h->type == RECORD_FILE_LIST || h->type == RECORD_COMMIT) && h->body_len >= NUMBER_LEN &&
        load_u64(number) < p->position.next_number + NUMBERS_AHEAD)
        replay_saw_number(p, load_u64(number));
}

static void burn_window(struct replay *p, uint64_t at, const uint8_t *bytes, size_t len)
{
    struct error ignored = ERROR_INIT;
    struct record_header h;

    for (size_t i = 0; i + RECORD_HEADER_LEN + NUMBER_LEN <= len; i += RECORD_ALIGN)
        if (record_header_decode(bytes + i, p->pack->id, at + i, &h, &ignored) == 0)
            burn_record(p, &h, bytes + i + RECORD_HEADER_LEN);
}

/* What stands behind a fence or in a torn tail does not exist, but its numbers are used up. Number
 * and header lie side by side: where the header is not whole no record was written. */
int replay_burn(struct replay *p, uint64_t from)
{
    static const size_t step = BURN_WINDOW - RECORD_HEADER_LEN - NUMBER_LEN;
    uint8_t *window = malloc(BURN_WINDOW);
    size_t got = BURN_WINDOW;
    int rc = 0;

    if (!window)
        return repo_no_memory(p->e);
    for (uint64_t at = from / RECORD_ALIGN * RECORD_ALIGN; rc == 0 && got == BURN_WINDOW;
         at += step) {
        rc = file_read_some(p->pack->fd, window, BURN_WINDOW, at, &got, p->e);
        if (rc == 0)
            burn_window(p, at, window, got);
    }
    free(window);
    return rc;
}

/* In packs that were emptied nothing stands that a save may rely on: their files are to go. */
static int doom_emptied(struct repo *r, const struct catalog_pack *row, struct error *e)
{
    return row->gone && repo_place_holds(r, row->id) ? repo_doom(r, row->id, e) : 0;
}

/* Ids that anything ever named are not given out again. */
static int take_ids(struct replay *p)
{
    struct catalog_position position;
    struct catalog_pack *rows = NULL;
    size_t count = 0;

    int rc = catalog_position(p->catalog, &position, p->e);
    if (rc == 0)
        rc = catalog_packs(p->catalog, &rows, &count, p->e);
    if (rc < 0)
        return rc;
    if (p->repo->next_pack < position.next_pack)
        p->repo->next_pack = position.next_pack;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (p->repo->next_pack <= rows[i].id)
            p->repo->next_pack = rows[i].id + 1;
        rc = doom_emptied(p->repo, &rows[i], p->e);
    }
    for (size_t i = 0; i < p->fence_count; i++)
        if (p->fences[i].pack_id < INT64_MAX && p->repo->next_pack <= p->fences[i].pack_id)
            p->repo->next_pack = p->fences[i].pack_id + 1;
    free(rows);
    return rc;
}

int replay_take_over(struct replay *p)
{
    struct repo *r = p->repo;

    if (r->next_sequence <= p->position.sequence)
        r->next_sequence = p->position.sequence + 1;
    if (r->next_sequence <= p->max_sequence)
        r->next_sequence = p->max_sequence + 1;
    if (r->next_number < p->position.next_number)
        r->next_number = p->position.next_number;
    r->chain = p->position.chain;
    if (p->torn)
        repo_notice(r, "a write that was cut off at the end of the log was discarded");
    int rc = take_ids(p);
    if (rc == 0)
        rc = take_log(p);
    return rc == 0 ? take_data(p) : rc;
}
