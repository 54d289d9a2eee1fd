/* How far each pack was read back and found sound: a watermark, so that verifying a new snapshot
 * costs what was stored since. Packs only grow, marks are lowered where one is cut, and ids are
 * never used again; hence what stands below a mark was read, whichever snapshot needs it. A pack
 * with a fault has no mark.
 *
 * The marks are a note in the catalog, {u64 pack, u64 bytes} each in order of ids: a cache. Without
 * it everything is read. */
#include "snapshot/verify_job.h"

#include "base/bytes.h"
#include "store/catalog_write.h"

#include <stdlib.h>

#include "base/banned.h"

static const char note_key[] = CATALOG_VERIFIED;
enum { MARK_LEN = CATALOG_READ_LEN };

int verify_marks_load(struct verify_job *j, struct error *e)
{
    struct repo *r = j->req->record_in ? j->req->record_in : j->req->repo;
    struct catalog *c;

    int rc = repo_catalog_open(r, &c, e);
    if (rc != 0)
        return rc;
    buffer_clear(&j->marks);
    rc = catalog_note_get(c, note_key, &j->marks, e);
    repo_catalog_close(r, c);
    if (rc == ERR_NOTFOUND) {
        error_clear(e);
        rc = 0;
    }
    return rc;
}

uint64_t verify_mark_of(const struct verify_job *j, uint64_t pack_id)
{
    size_t low = 0, high = j->marks.len / MARK_LEN;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const uint8_t *p = j->marks.data + mid * MARK_LEN;
        if (load_u64(p) == pack_id)
            return load_u64(p + 8);
        if (load_u64(p) < pack_id)
            low = mid + 1;
        else
            high = mid;
    }
    return 0;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct pack_row *)a)->id;
    uint64_t y = ((const struct pack_row *)b)->id;

    return x < y ? -1 : x > y;
}

static bool is_sound(const struct verify_job *j, uint64_t pack_id)
{
    for (size_t i = 0; i < j->fault_count; i++) {
        if (j->faults[i].pack_id == pack_id)
            return false;
    }
    return true;
}

static void put_mark(struct buffer *marks, uint64_t pack_id, uint64_t bytes)
{
    if (bytes == 0)
        return;
    put_u64(marks, pack_id);
    put_u64(marks, bytes);
}

static int store(struct repo *r, struct buffer *marks, struct error *e)
{
    int rc = buffer_ok(marks) ? repo_note_put(r, note_key, marks->data, marks->len, e)
                              : error_set(e, ERR_FAILED, "out of memory");

    buffer_release(marks);
    return rc;
}

int verify_marks_store(struct verify_job *j, struct repo *r, struct error *e)
{
    struct buffer marks = BUFFER_INIT;

    if (j->pack_count > 0)
        qsort(j->packs, j->pack_count, sizeof(*j->packs), by_id);
    for (size_t i = 0; i < j->pack_count; i++) {
        if (is_sound(j, j->packs[i].id))
            put_mark(&marks, j->packs[i].id, j->packs[i].bytes);
    }
    return store(r, &marks, e);
}

int verify_marks_raise(struct verify_job *j, struct repo *r, const bool *whole, struct error *e)
{
    struct buffer marks = BUFFER_INIT;

    for (size_t i = 0; i < j->pack_count; i++) {
        uint64_t id = j->packs[i].id;
        if (is_sound(j, id))
            put_mark(&marks, id, whole[i] ? j->packs[i].bytes : verify_mark_of(j, id));
    }
    return store(r, &marks, e);
}
