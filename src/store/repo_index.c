/* The blocks of data packs, for a replay: up to the length that a commit names, then the rest. */
#include "store/replay.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/banned.h"

int replay_add_block(struct replay *p, uint64_t pack_id, uint64_t offset, const uint8_t *body,
                     size_t len)
{
    struct error damage = ERROR_INIT;
    struct block b;

    int rc = block_decode_ids(body, len, &b, &p->raw, &damage);
    if (rc == ERR_DAMAGED)
        return 0; /* its chunks are found missing when they are asked for */
    if (rc < 0) {
        *p->e = damage;
        return rc;
    }
    rc = replay_ensure_write(p);
    if (rc == 0)
        rc = catalog_add_block(p->catalog, pack_id, offset, b.chunks, b.count,
                               b.has_base ? &b.base : NULL, true, p->e);
    block_release(&b);
    return rc;
}

struct data_walk {
    struct replay *replay;
    uint64_t pack_id;
    bool sealed;
    struct hash sha256; /* as the seal tells */
    bool orphans;       /* no commit needs them: a hole is where a cut tore the tail */
};

bool replay_seal_hash(const uint8_t *body, size_t len, struct hash *sha256)
{
    struct error ignored = ERROR_INIT;
    struct seal s;

    if (seal_decode(body, len, &s, &ignored) == 0)
        *sha256 = s.sha256;
    return true;
}

static int visit_data(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                      const uint8_t *body)
{
    struct data_walk *w = ctx;

    if (!h)
        return w->orphans ? REPLAY_STOP : 0;
    if (h->type == RECORD_SEAL)
        w->sealed = replay_seal_hash(body, h->body_len, &w->sha256);
    return h->type == RECORD_BLOCK
               ? replay_add_block(w->replay, w->pack_id, from, body, h->body_len)
               : 0;
}

/* One without a sound header that no commit needs is what a crash leaves of a pack that was being
 * made. */
static void tell_missing(struct replay *p, uint64_t pack_id, bool needed, const char *why)
{
    struct pack_file f;

    if (p->told_missing == pack_id ||
        (!needed && repo_file_known(p->repo, pack_id, &f) && f.size <= PACK_HEADER_LEN))
        return;
    p->told_missing = pack_id;
    repo_notice(p->repo, "data pack %016" PRIx64 " cannot be read: %s", pack_id, why);
}

/* Past bad sectors only when that was asked for: by itself a writer takes nothing for lost. Where
 * there are any the tail is the end of what was looked at: nothing is fenced off that the disk may
 * give another time. */
static int walk_data(struct data_walk *w, struct pack *pack, uint64_t from, uint64_t end,
                     uint64_t *tail)
{
    struct repo *r = w->replay->repo;
    struct pack_unread unread = {0};

    pack->unread = r->past_unread ? &unread : NULL;
    int rc = pack_walk(pack, from, end, visit_data, w, tail, w->replay->e);
    if (unread.bytes > 0)
        repo_notice(r, "data pack %016" PRIx64 ": the disk refuses to read %" PRIu64 " bytes",
                    pack->id, unread.bytes);
    r->unread_bytes += unread.bytes;
    if (unread.bytes > 0 && rc >= 0)
        *tail = (end < pack->len ? end : pack->len) / RECORD_ALIGN * RECORD_ALIGN;
    return rc == REPLAY_STOP ? 0 : rc;
}

/* Index blocks of a data pack up to a length; what is known already is not read again. */
int replay_index_data(struct replay *p, uint64_t pack_id, uint64_t upto)
{
    struct data_walk w = {.replay = p, .pack_id = pack_id, .orphans = upto == UINT64_MAX};
    struct catalog_pack row = {.id = pack_id, .kind = PACK_DATA};
    struct error why = ERROR_INIT;
    struct pack *pack = NULL;
    uint64_t tail = 0;

    int rc = catalog_pack(p->catalog, pack_id, &row, p->e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    uint64_t end = replay_fence_of(p, pack_id);
    if (row.fence && row.fence < end)
        end = row.fence;
    if (upto < end)
        end = upto;
    if (row.len >= end || row.sealed || row.gone)
        return 0;
    rc = pack_open(p->repo->packs_fd, PACK_DATA, pack_id, p->repo->id, false, &pack, &why);
    if (rc < 0 && !replay_is_lost(rc)) {
        *p->e = why;
        return rc;
    }
    if (rc < 0) {
        tell_missing(p, pack_id, !w.orphans || row.len > 0, why.message);
        if (!w.orphans && row.len == 0 && replay_ensure_write(p) == 0)
            catalog_pack_put(p->catalog, &row, p->e); /* so that verify can name it */
        return 0;
    }
    if (row.len >= pack->len && row.len > 0) {
        pack_close(pack);
        return 0;
    }
    rc = walk_data(&w, pack, row.len, end, &tail);
    pack_close(pack);
    if (rc == 0)
        rc = replay_ensure_write(p);
    row.len = tail;
    row.sealed = w.sealed;
    if (w.sealed)
        row.sha256 = w.sha256;
    return rc == 0 ? catalog_pack_put(p->catalog, &row, p->e) : rc;
}

int replay_index_orphans(struct replay *p)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < p->repo->file_count; i++)
        if (p->repo->files[i].kind == PACK_DATA)
            rc = replay_index_data(p, p->repo->files[i].id, UINT64_MAX);
    return rc;
}
