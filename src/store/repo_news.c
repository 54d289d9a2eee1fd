/* Whether the packs hold anything that the catalog has not seen, and whether it is of these packs
 * at all: what a reader asks before it believes catalog.db, and a writer before it replays. */
#include "store/replay.h"

#include "base/banned.h"

static int visit_news(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                      const uint8_t *body)
{
    const struct replay *p = ctx;

    if (!h || h->type == RECORD_BLOCK || h->type == RECORD_FILE_LIST ||
        h->sequence <= p->position.sequence)
        return 0;
    return REPLAY_STOP;
}

/* The last commit that the catalog knows stands where it says. A record that cannot be read is no
 * proof of the contrary: what the catalog knows of it is then worth more. */
static int check_commit(struct replay *p)
{
    const struct catalog_position *at = &p->position;
    struct error ignored = ERROR_INIT;
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    struct pack *pack = NULL;
    struct hash hash;
    bool other = false;

    if (at->commit_pack == 0)
        return 0;
    int rc = repo_pack_get(p->repo, at->commit_pack, &pack, &ignored);
    if (rc == 0)
        rc = pack_read(pack, at->commit_offset, &h, &body, &ignored);
    if (rc == 0) {
        hash_sha256(body.data, body.len, &hash);
        other = h.type != RECORD_COMMIT || !hash_equal(&hash, &at->chain);
    }
    repo_pack_put(p->repo, pack);
    buffer_release(&body);
    return other ? error_set(p->e, ERR_CATALOG, "the catalog is not of these packs") : 0;
}

static bool is_there(const struct replay *p)
{
    struct pack_file f;

    return repo_file_known(p->repo, p->position.log_pack, &f) && f.size >= p->position.log_offset;
}

/* A writer may have been here since the folder was listed: what is listed after the position was
 * read is no older. */
static int check_position(struct replay *p)
{
    if (p->position.log_pack == 0)
        return 0;
    int rc = is_there(p) ? 0 : repo_files_scan(p->repo, p->e);
    if (rc < 0)
        return rc;
    if (!is_there(p))
        return error_set(p->e, ERR_CATALOG, "the packs are older than the catalog");
    return check_commit(p);
}

int repo_replay_needed(struct repo *r, struct catalog *c, struct error *e)
{
    struct replay p = {.repo = r, .catalog = c, .e = e};
    struct pack *pack;

    int rc = catalog_position(c, &p.position, e);
    if (rc == 0)
        rc = check_position(&p);
    if (rc == 0)
        rc = replay_find_fences(&p);
    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        const struct pack_file *f = &r->files[i];
        struct error why = ERROR_INIT;
        if (!replay_log_counts(&p, f))
            continue;
        rc = pack_open(r->packs_fd, PACK_LOG, f->id, r->id, false, &pack, &why);
        if (replay_is_lost(rc)) {
            rc = 0; /* told when it is walked */
            continue;
        }
        if (rc < 0) {
            *e = why;
            break;
        }
        uint64_t from = f->id == p.position.log_pack ? p.position.log_offset : 0;
        rc = pack_walk(pack, from, replay_fence_of(&p, f->id), visit_news, &p, NULL, e);
        pack_close(pack);
    }
    replay_release(&p);
    return rc;
}
