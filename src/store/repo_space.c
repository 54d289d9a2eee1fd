/* Space on a full disk: the reserve, and bytes of data packs that nothing needs.
 *
 * The reserve is a file that saves never touch. Work that makes room or that must not fail for want
 * of a little of it (dropping snapshots, the catalog) removes it, and the writer makes it again
 * when there is room.
 *
 * A save that was given up leaves blocks in data packs. They serve the next try, but when space is
 * short they go: each data pack is cut behind the last byte that a commit or a compaction names and
 * the last block that something references. The file is cut before the catalog forgets, which needs
 * space; a crash in between is found by the next writer, as a pack that is shorter than its row
 * says. */
#include "store/repo_private.h"

#include "base/text.h"
#include "io/fileops.h"
#include "io/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/banned.h"

enum {
    RESERVE_MAX = 16 * 1024 * 1024,
    RESERVE_SHARE = 64,
    RESERVE_ROOM = 2,
    FREE_SLACK = 4,
    UPKEEP_SHARE = 4,
    PACK_SHARE = 64, /* of the file system, a pack's at most */
    PAGE = 4096
};

/* ---- the reserve ---- */

/* Bytes that are free to us, and what the reserve should have here. */
static bool look_at_space(const struct repo *r, uint64_t *available, uint64_t *wanted)
{
    struct statvfs fs;

    if (fstatvfs(r->dirfd, &fs) < 0 || fs.f_blocks == 0)
        return false;
    uint64_t share = (uint64_t)fs.f_blocks * fs.f_frsize / RESERVE_SHARE;
    *available = (uint64_t)fs.f_bavail * fs.f_frsize;
    *wanted = (share < RESERVE_MAX ? share : RESERVE_MAX) / PAGE * PAGE;
    return true;
}

static uint64_t reserve_size(const struct repo *r)
{
    struct stat st;

    return fstatat(r->dirfd, RESERVE_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_size
                                                                          : 0;
}

/* Where space cannot be set apart, zeros are written. */
static int fill_reserve(int fd, uint64_t len, struct error *e)
{
    static const uint8_t zeros[65536];
    int rc = 0;

    if (fileops->fallocate(fd, 0, (off_t)len) == 0)
        return 0;
    if (errno != EOPNOTSUPP)
        return error_sys(e, errno, "cannot set space apart");
    for (uint64_t at = 0; rc == 0 && at < len; at += sizeof(zeros)) {
        size_t n = len - at < sizeof(zeros) ? (size_t)(len - at) : sizeof(zeros);
        rc = file_write_all(fd, zeros, n, at, e);
    }
    return rc;
}

void repo_reserve_keep(struct repo *r)
{
    struct error ignored = ERROR_INIT;
    uint64_t available, wanted;

    if (!r->keeps_reserve || !look_at_space(r, &available, &wanted) || reserve_size(r) >= wanted)
        return;
    if (available < RESERVE_ROOM * wanted && !r->reserve_given)
        return;
    r->reserve_given = false;
    if (wanted > available)
        wanted = available / PAGE * PAGE;
    if (wanted == 0)
        return;
    fileops->unlinkat(r->dirfd, RESERVE_FILE, 0);
    int fd = fileops->openat(r->dirfd, RESERVE_FILE,
                             O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    int rc = fill_reserve(fd, wanted, &ignored);
    fileops->close(fd);
    if (rc < 0)
        fileops->unlinkat(r->dirfd, RESERVE_FILE, 0);
}

bool repo_reserve_give(struct repo *r)
{
    if (r->mode != REPO_WRITE || reserve_size(r) == 0 ||
        fileops->unlinkat(r->dirfd, RESERVE_FILE, 0) < 0)
        return false;
    r->reserve_given = true;
    return true;
}

bool repo_space_is_short(const struct repo *r)
{
    uint64_t available, wanted;

    return look_at_space(r, &available, &wanted) && available < wanted;
}

/* ---- what is left to others ---- */

void repo_min_free(struct repo *r, uint64_t bytes, unsigned percent)
{
    atomic_store(&r->min_free, bytes);
    atomic_store(&r->min_free_percent, percent);
}

uint64_t repo_pack_full(const struct repo *r)
{
    const uint64_t least = PACK_SEAL_LEN / 64;
    struct statvfs fs;

    if (fstatvfs(r->dirfd, &fs) < 0 || fs.f_blocks == 0)
        return PACK_SEAL_LEN;
    uint64_t share = (uint64_t)fs.f_blocks * fs.f_frsize / PACK_SHARE;
    return share > PACK_SEAL_LEN ? PACK_SEAL_LEN : share < least ? least : share;
}

/* 0 where nothing is asked for, or it cannot be told. */
static uint64_t wanted_free(struct repo *r, uint64_t *available)
{
    uint64_t bytes = atomic_load(&r->min_free);
    unsigned percent = atomic_load(&r->min_free_percent);
    struct statvfs fs;

    if ((bytes == 0 && percent == 0) || fstatvfs(r->dirfd, &fs) < 0 || fs.f_blocks == 0)
        return 0;
    *available = (uint64_t)fs.f_bavail * fs.f_frsize;
    return bytes ? bytes : (uint64_t)fs.f_blocks * fs.f_frsize / 100 * percent;
}

uint64_t repo_free_missing(struct repo *r)
{
    uint64_t available = 0;
    uint64_t wanted = wanted_free(r, &available);

    wanted += wanted / FREE_SLACK;
    return available < wanted ? wanted - available : 0;
}

/* A quarter of what is left to others, who may be writing while it is taken for a moment; below
 * that still a pack's worth, down to the last quarter. */
uint64_t repo_upkeep_room(struct repo *r)
{
    uint64_t available = 0;
    uint64_t wanted = wanted_free(r, &available);
    uint64_t share = wanted / UPKEEP_SHARE;

    if (wanted == 0)
        return UINT64_MAX;
    if (available >= wanted)
        return share > r->pack_full ? share : r->pack_full;
    if (available + share >= wanted + r->pack_full)
        return available + share - wanted;
    return available >= share + r->pack_full ? r->pack_full : 0;
}

int repo_room_for(struct repo *r, uint64_t bytes, bool upkeep, struct error *e)
{
    uint64_t available = 0;
    uint64_t wanted = wanted_free(r, &available);
    char left[24], kept[24];

    if (wanted == 0 || available >= (upkeep ? wanted / UPKEEP_SHARE : wanted) + bytes)
        return 0;
    text_size(available, left, sizeof(left));
    text_size(wanted, kept, sizeof(kept));
    return error_set(e, ERR_NOSPACE,
                     "only %s are free on the repository's file system; %s are left to others "
                     "(min_free)",
                     left, kept);
}

/* ---- what is needed of each data pack ---- */

struct keep {
    uint64_t id, end;
};

struct keeps {
    struct repo *repo;
    struct keep *list; /* by id: one for each data pack there is */
    size_t count;
    struct error *e;
};

static struct keep *keep_of(struct keeps *k, uint64_t id)
{
    for (size_t i = 0; i < k->count; i++)
        if (k->list[i].id == id)
            return &k->list[i];
    return NULL;
}

static void keep_up_to(struct keeps *k, uint64_t id, uint64_t end)
{
    struct keep *p = keep_of(k, id);

    if (p && p->end < end)
        p->end = end;
}

static int list_packs(struct keeps *k)
{
    struct repo *r = k->repo;

    k->list = calloc(r->file_count + 1, sizeof(*k->list));
    if (!k->list)
        return repo_no_memory(k->e);
    for (size_t i = 0; i < r->file_count; i++)
        if (r->files[i].kind == PACK_DATA)
            k->list[k->count++] = (struct keep){r->files[i].id, PACK_HEADER_LEN};
    return 0;
}

static void keep_needs(struct keeps *k, const struct pack_need *needs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        keep_up_to(k, needs[i].pack_id, needs[i].len);
}

/* Of commits, and of compactions: the catalog may not know yet of either. Those behind a fence
 * count too: more is kept than need be. */
static int visit_record(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                        const uint8_t *body)
{
    struct keeps *k = ctx;
    struct error why = ERROR_INIT;
    struct compaction c;
    struct commit m;
    int rc = 0;

    if (h && h->type == RECORD_COMMIT && (rc = commit_decode(body, h->body_len, &m, &why)) == 0) {
        keep_needs(k, m.needs, m.need_count);
        commit_release(&m);
    } else if (h && h->type == RECORD_COMPACTION &&
               (rc = compaction_decode(body, h->body_len, &c, &why)) == 0) {
        keep_needs(k, c.needs, c.need_count);
        compaction_release(&c);
    }
    if (rc == 0 || rc == ERR_DAMAGED)
        return 0;
    *k->e = why; /* nobody knows what it needs */
    return rc;
}

static int keep_what_the_log_names(struct keeps *k)
{
    struct repo *r = k->repo;
    struct pack *p;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        if (r->files[i].kind != PACK_LOG)
            continue;
        rc = pack_open(r->packs_fd, PACK_LOG, r->files[i].id, r->id, false, &p, k->e);
        if (rc == 0) {
            rc = pack_walk(p, 0, UINT64_MAX, visit_record, k, NULL, k->e);
            pack_close(p);
        }
    }
    return rc;
}

/* A checkpoint may stand for the commit. */
static int visit_snapshot(void *ctx, const struct snapshot_row *s)
{
    keep_needs(ctx, s->commit.needs, s->commit.need_count);
    return 0;
}

/* Where the block ends; where it cannot be read, behind all there is. */
static uint64_t block_end(struct repo *r, uint64_t pack_id, uint64_t offset)
{
    struct error ignored = ERROR_INIT;
    struct buffer body = BUFFER_INIT;
    struct record_header h;
    struct pack *p = NULL;

    int rc = repo_pack_get(r, pack_id, &p, &ignored);
    if (rc == 0)
        rc = pack_read(p, offset, &h, &body, &ignored);
    repo_pack_put(r, p);
    buffer_release(&body);
    return rc == 0 ? offset + record_span(h.body_len) : UINT64_MAX;
}

/* A block that is referenced is kept, whoever put it there. */
static int keep_block(void *ctx, uint64_t pack_id, uint64_t offset)
{
    struct keeps *k = ctx;

    if (keep_of(k, pack_id))
        keep_up_to(k, pack_id, block_end(k->repo, pack_id, offset));
    return 0;
}

struct lack {
    struct repo *repo;
    bool found;
};

static int look_for_lack(void *ctx, uint64_t pack_id, uint64_t offset)
{
    struct lack *l = ctx;

    l->found = block_end(l->repo, pack_id, offset) == UINT64_MAX;
    return 0;
}

bool repo_needs_more(struct repo *r, struct catalog *c, uint64_t pack_id)
{
    struct error ignored = ERROR_INIT;
    struct lack l = {.repo = r};

    return catalog_last_blocks(c, pack_id, look_for_lack, &l, &ignored) < 0 || l.found;
}

/* ---- cutting ---- */

static int cut_file(struct repo *r, const struct pack_file *f, uint64_t end, struct error *e)
{
    char name[40];
    int rc = 0;

    pack_file_name(f->kind, f->id, name);
    int fd = fileops->openat(r->packs_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return error_sys(e, errno, "cannot open pack '%s'", name);
    if (fileops->ftruncate(fd, (off_t)end) < 0 || fileops->fsync(fd) < 0)
        rc = error_sys(e, errno, "cannot cut pack '%s'", name);
    fileops->close(fd);
    return rc;
}

/* The data pack being written, and all that is known of blocks that no commit names, is let go; so
 * is what was read in places that others may take. */
static void let_go(struct repo *r)
{
    for (size_t i = 0; i < r->unindexed_count; i++)
        free(r->unindexed[i].chunks);
    r->unindexed_count = 0;
    r->grown_count = 0;
    pack_close(r->data);
    r->data = NULL;
    repo_rows_let_go(r);
    if (r->writer_source)
        chunk_source_forget(r->writer_source);
}

static int cut_files(struct keeps *k, bool *any)
{
    struct repo *r = k->repo;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->file_count; i++) {
        const struct pack_file *f = &r->files[i];
        const struct keep *p = f->kind == PACK_DATA ? keep_of(k, f->id) : NULL;
        if (!p || p->end >= f->size)
            continue;
        *any = true;
        repo_pack_forget(r, f->id);
        rc = cut_file(r, f, p->end, k->e);
        if (rc == 0)
            repo_fence_lower(r, f->id, p->end);
    }
    return rc;
}

/* A cut pack that somebody still looks at would seem damaged to them. */
static bool somebody_reads(struct repo *r)
{
    pthread_mutex_lock(&r->pool_lock);
    bool leased = r->lease_count > 0;
    pthread_mutex_unlock(&r->pool_lock);
    return leased || (r->lock_fd >= 0 && (lock_held(r->lock_fd, LOCK_LEASE_BASE, 0, true) ||
                                          lock_held(r->lock_fd, LOCK_PACKS, 1, true)));
}

static int give_back(struct keeps *k, bool *any)
{
    struct repo *r = k->repo;

    int rc = repo_files_scan(r, k->e);
    if (rc == 0)
        rc = list_packs(k);
    if (rc == 0)
        rc = catalog_last_blocks(r->writer, 0, keep_block, k, k->e);
    if (rc == 0)
        rc = catalog_snapshots(r->writer, 0, 1, UINT64_MAX, false, visit_snapshot, k, k->e);
    if (rc == 0)
        rc = keep_what_the_log_names(k);
    if (rc < 0)
        return rc;
    let_go(r);
    rc = cut_files(k, any);
    int scanned = repo_files_scan(r, k->e);
    return rc < 0 ? rc : scanned;
}

int repo_give_back(struct repo *r, struct error *e)
{
    struct keeps k = {.repo = r, .e = e};
    bool any = false;

    if (r->txns || r->upkeeping || r->ending_count > 0 || !r->writer || r->refuse ||
        r->catalog_stale || somebody_reads(r))
        return 0;
    int rc = give_back(&k, &any);
    free(k.list);
    if (any) {
        int forgot = repo_forget_cut(r, e);
        if (forgot < 0) /* never again believed: it names places that are gone */
            repo_catalog_failed(r, ERR_CATALOG, true);
        rc = rc < 0 ? rc : forgot;
    }
    r->short_of_space = rc < 0;
    return rc;
}

/* ---- and forgetting what was cut ---- */

static int forget_rows(struct repo *r, const struct catalog_pack *rows, size_t count,
                       struct error *e)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct catalog_pack *row = &rows[i];
        struct pack_file f;
        /* A pack that is missing, or another one, was not cut: its row stays, so that verify
         * misses it. */
        if (row->kind != PACK_DATA || !repo_file_known(r, row->id, &f) || row->len <= f.size ||
            !repo_file_is_itself(r, &f))
            continue;
        rc = catalog_begin(r->writer, e);
        if (rc < 0)
            return rc;
        rc = catalog_pack_cut(r->writer, row, f.size, e);
        if (rc == 0)
            rc = catalog_commit(r->writer, e);
        else
            catalog_rollback(r->writer);
    }
    return rc;
}

int repo_forget_cut(struct repo *r, struct error *e)
{
    struct catalog_pack *rows = NULL;
    size_t count = 0;

    int rc = catalog_packs(r->writer, &rows, &count, e);
    if (rc == 0)
        rc = forget_rows(r, rows, count, e);
    free(rows);
    return rc;
}
