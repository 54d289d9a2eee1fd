/* repository.h - the store as the rooms above see it: open, read chunks, save, mark, rebuild.
 *
 * Order of writes (FORMAT.md): blocks -> flush -> file lists and commit -> flush = acknowledged ->
 * catalog. A small save is one write and one flush. A handle opened for writing holds the writer's
 * lock for its life. After a failed write or flush the next pack begins with a fence; if that
 * cannot be flushed the open saves fail (ERR_FAILED), and before the next one everything is read
 * from the disk again, as when opening.
 * Thread safety: a struct repo may be used by any threads, as each call says. */
#ifndef WK_STORE_REPOSITORY_H
#define WK_STORE_REPOSITORY_H

#include "base/error.h"
#include "store/block.h"
#include "store/catalog.h"
#include "store/codec.h"
#include "store/commit.h"
#include "store/pack.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SMALL_SAVE_MAX (1024 * 1024) /* stored bytes up to which a save lives in the log pack */

struct repo;

enum repo_mode { REPO_READ, REPO_WRITE };

struct repo_options {
    unsigned wait_ms;                            /* for the writer's lock */
    enum codec codec;                            /* of new blocks */
    bool reserve;                                /* writing: keep space back for a full disk */
    bool distrust;                               /* the catalog failed: made anew, or not used */
    bool past_unread;                            /* repo_rebuild follows: see there */
    void (*notice)(void *ctx, const char *text); /* "catalog made anew", ...; may be NULL */
    void *ctx;
};

/* Make a repository at path (folder made 0700). 0 = made, 1 = one was there already and is usable.
 * ERR_REFUSED when the folder holds something else. */
int repo_init(const char *path, struct error *e);
/* Whether path holds a repository (a `format` file); no error details. */
bool repo_exists(const char *path);

/* REPO_WRITE: waits for the lock (ERR_BUSY), finishes or discards what the last run left, brings
 * the catalog up to the packs' tail or makes it anew.
 * REPO_READ: takes no writer's lock and writes nothing; uses catalog.db, or a private copy brought
 * up to date in memory, or replays the packs into memory and says so by notice.
 * ERR_NOREPO: none there, not ours, or of a version or feature this program does not know. */
int repo_open(const char *path, enum repo_mode mode, const struct repo_options *opt,
              struct repo **out, struct error *e);
void repo_close(struct repo *r); /* checkpoints the catalog when writing */

const char *repo_path(const struct repo *r);
int repo_dirfd(const struct repo *r);
int repo_lock_fd(const struct repo *r);       /* of `lock`, or -1 (read-only medium) */
const uint8_t *repo_id(const struct repo *r); /* 16 bytes */
bool repo_in_memory(const struct repo *r);    /* the catalog in use is a private copy */

/* The handle's own catalog connection: for the thread that owns the handle. */
struct catalog *repo_catalog(struct repo *r);
/* A further reading connection for another thread (an in-memory one is shared under a lock). Close
 * with repo_catalog_close. All of a reader's are of one file: ERR_CATALOG when a writer beside it
 * has made catalog.db anew since the handle was opened. */
int repo_catalog_open(struct repo *r, struct catalog **out, struct error *e);
void repo_catalog_close(struct repo *r, struct catalog *c);

/* For an operation that ended with rc: whether that was the catalog's failure, and the catalog has
 * been replaced (made anew by a writer, should no other thread have done so since the operation
 * began; for a reader by the one that a writer beside it has made, or by the packs in memory), so
 * that it is to be run once more; it ends after a few. *t comes from repo_catalog_try, called
 * before the first time. No thread may hold anything of the handle's catalog, but for open
 * transactions of other saves. */
struct catalog_try {
    unsigned generation; /* of the catalog that the operation has met */
    bool done;           /* it is not replaced any more */
};
struct catalog_try repo_catalog_try(struct repo *r);
bool repo_catalog_replaced(struct repo *r, int rc, struct catalog_try *t);
/* A reader's: catalog.db is another file than the one that the handle reads. What is open goes on
 * with that one; a further connection cannot be had (ERR_CATALOG). */
bool repo_catalog_moved(const struct repo *r);
/* 0, or ERR_CATALOG: it has failed anybody since the handle was opened or, with all, does not read
 * whole. */
int repo_catalog_check(struct repo *r, bool all, struct error *e);

/* A shared lease on a snapshot: what it needs is not removed while it is held (it dies with the
 * process). No-op on a read-only medium. */
int repo_lease(struct repo *r, uint64_t snapshot, struct error *e);
void repo_lease_end(struct repo *r, uint64_t snapshot);

/* Whether a reader, of this handle or of another process, holds a lease on the snapshot. */
bool repo_leased(struct repo *r, uint64_t snapshot);

/* ---- reading ---- */

/* Reads chunks, with a few expanded blocks kept. One per thread. */
struct chunk_source;
int chunk_source_open(struct repo *r, struct chunk_source **out, struct error *e);
void chunk_source_close(struct chunk_source *s);
/* The chunk's raw bytes (borrowed until the next call on this source), hash checked.
 * ERR_NOTFOUND: not in the repository; ERR_DAMAGED: there, but not what it was; ERR_FAILED: the
 * disk did not answer; ERR_CATALOG: the index failed, the chunk may be sound. */
int chunk_source_get(struct chunk_source *s, const struct hash *id, const uint8_t **p, size_t *len,
                     struct error *e);
/* Where it is stored: pack and block, and where in the block. Those who read many chunks read them
 * fastest in this order. All zero where that cannot be told. */
struct storage_order {
    uint64_t pack_id, offset;
    uint32_t raw_off;
};
void chunk_source_order(struct chunk_source *s, const struct hash *id, struct storage_order *at);
/* Walk a node's content in order: data chunks only, list chunks resolved on the way. visit gets
 * the stream offset. Non-zero from visit stops. */
typedef int (*content_visit)(void *ctx, uint64_t off, const struct chunk_ref *ref, struct error *e);
int content_walk(struct chunk_source *s, const struct node *n, content_visit visit, void *ctx,
                 struct error *e);
/* The same, and `list` gets each list chunk before what is in it; level: how far above the data. */
typedef int (*list_visit)(void *ctx, unsigned level, uint64_t off, const struct chunk_ref *ref,
                          struct error *e);
int content_walk_lists(struct chunk_source *s, const struct node *n, list_visit list,
                       content_visit visit, void *ctx, struct error *e);
/* The same of the chunks that begin at from <= offset < to; other lists are not read. */
int content_walk_range(struct chunk_source *s, const struct node *n, uint64_t from, uint64_t to,
                       content_visit visit, void *ctx, struct error *e);

/* ---- saving: one transaction, committed or aborted ----
 * txn_claim and txn_put_block: any thread. Everything else: the thread that began it. Several
 * transactions (of different watches) may be open at once. */
struct txn;
struct txn_watch { /* which watch; looked up by name, made when new */
    const char *name, *root, *rules;
    bool moved; /* the root may differ from the one on record (else ERR_REFUSED) */
};
int txn_begin(struct repo *r, const struct txn_watch *w, struct txn **out, struct error *e);
/* As the watch stands before this save; next_node and serial are valid also for a new watch. */
const struct watch_row *txn_watch_row(const struct txn *t);
/* Catalog connection of the transaction: the state before it, one read transaction. */
struct catalog *txn_catalog(struct txn *t);

/* 1: the chunk is unknown and now this caller's to put; 0: known, or claimed by somebody. */
int txn_claim(struct txn *t, const struct hash *id, struct error *e);
/* Compress chunks that were claimed (in the calling thread), and store them as one block. is_list:
 * these are list chunks (their children are referenced). link and base, of an earlier version of a
 * single chunk, may be NULL. */
int txn_put_block(struct txn *t, const struct block_chunk *chunks, uint32_t count, const void *raw,
                  uint32_t raw_len, bool is_list, const struct block_base *link, const void *base,
                  size_t base_len, struct error *e);
/* Store one claimed chunk as a block of its own: where that pays, as a delta on `old`, the chunk
 * that it replaces, or on one that old goes back to. Bases are read through *s, opened when the
 * first one is (*s NULL before); one that cannot be had is done without. read false: only a base
 * that is in memory is used. Returns 1 when it became a delta, 0 when not. Any thread. */
int txn_put_version(struct txn *t, struct chunk_source **s, const struct block_chunk *chunk,
                    const void *raw, bool is_list, const struct hash *old, bool read,
                    struct error *e);
uint64_t txn_bytes_stored(const struct txn *t); /* so far, any thread */

uint64_t txn_new_node(struct txn *t);
int txn_name_put(struct txn *t, uint64_t parent, const char *name, size_t len, uint64_t node,
                 struct error *e);
int txn_name_remove(struct txn *t, uint64_t parent, const char *name, size_t len, struct error *e);
/* A new version of a node. */
int txn_node_put(struct txn *t, uint64_t node, const struct node *n, struct error *e);
int txn_node_remove(struct txn *t, uint64_t node, struct error *e);
/* The signature goes to the catalog's cache at the end, whether or not there is a snapshot. */
int txn_cache_put(struct txn *t, uint64_t node, const struct cache_key *key, const void *signature,
                  size_t len, struct error *e);
bool txn_changed(const struct txn *t); /* an operation so far, or another root */

/* Write file lists and commit, flush, then bring the catalog up. In: kind, flags, counts, name,
 * note, gap, time, duration_ns of *c; out: number, parent, chain, sums, bytes_stored. A name that
 * is taken within the watch: ERR_REFUSED before anything is written. After 0 the snapshot is
 * durable; a catalog that failed then is made anew and is no error. t is freed in every case. */
int txn_commit(struct txn *t, struct commit *c, struct error *e);
/* Nothing changed: keep only cached signatures. t is freed. */
void txn_end_unchanged(struct txn *t);
/* Give up: nothing of it will be listed. t is freed. */
void txn_abort(struct txn *t);

/* Append a mark and flush; applied to the catalog. Writer only. */
int repo_mark(struct repo *r, const struct mark *m, struct error *e);

/* Append a prune record that forgets these snapshots (those that are not there are passed over) and
 * flush; applied to the catalog. The caller has checked the floor, pins and leases. Writer only. */
int repo_drop(struct repo *r, const uint64_t *snapshots, uint32_t count, struct error *e);

/* Keep a small named value in the catalog, a cache only (catalog_note_get reads it). Writer only.
 */
int repo_note_put(struct repo *r, const char *key, const void *value, size_t len, struct error *e);

/* Idle work of the writer that takes no time: catch up, end a pack that is full, bring the
 * catalog's WAL back. */
int repo_idle(struct repo *r, struct error *e);

/* ---- upkeep: what keeps the packs small and sound ----
 * Seals packs that have ended; writes a checkpoint when the log has grown by half of the last one,
 * the first when the log is two and a half times as long as one would be;
 * moves what lives out of log packs that a checkpoint covers (but for those that are mostly living
 * blocks) and out of data packs that are mostly dead, recompressed; removes packs that were emptied
 * so, when nobody needs them any more. Saves go on meanwhile: the store is locked for one record or
 * a few at a time. What is broken off, by a failure or a crash, is begun again the next time and
 * loses nothing. */
struct upkeep {
    uint64_t keep_s; /* how long an emptied pack stays, for copies of the folder under way */
    bool all;        /* also what does not pay yet */
    bool pressed;    /* space is short: also out of the data pack in use, as far as there is room */
    const atomic_bool *cancel;
};
#define UPKEEP_KEEP_S 86400
struct upkeep_result {
    uint64_t packs_sealed, checkpoint_bytes, bytes_moved, packs_emptied, packs_removed,
        bytes_removed;
    bool waiting; /* something was due that open saves or readers are in the way of */
};
/* Writer only, any thread; ERR_BUSY while another one is at it. done may be NULL. */
int repo_upkeep(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                struct error *e);
/* Whether a checkpoint is due: what a caller asks that has no idle time. Writer only. */
bool repo_upkeep_due(struct repo *r);

/* Make the catalog anew from the packs. Writer only. Where the disk refuses to read a part of a
 * data pack it is made without what stands there: ERR_DAMAGED. Where there is none yet, opening
 * makes one first: with past_unread under the same terms. */
int repo_rebuild(struct repo *r, struct error *e);

/* How much of its file system saves leave free: bytes or, where they are 0, hundredths of it; both
 * 0 (so it is at first): nothing. A save that would take more is ERR_NOSPACE and gives back what it
 * took; upkeep, which gives back more than it takes, may go on down to a quarter; what drops or
 * marks is not held up. Any thread. */
void repo_min_free(struct repo *r, uint64_t bytes, unsigned percent);
/* Bytes that are missing for that and a quarter more, so that saves can go on; 0: enough is free.
 */
uint64_t repo_free_missing(struct repo *r);

/* ---- for verify and status ---- */
struct pack_row {
    uint64_t id;
    uint8_t kind;
    uint64_t bytes; /* that count: up to the fence or the last whole record */
    bool sealed;
    bool
        blank; /* as a crash leaves it while it is made: not even a header, nor known to have one */
};
/* Packs there are, logs first, by id. *rows malloc'ed. Problems (missing, foreign, doubled files)
 * are told to `problem` one line each. */
int repo_packs(struct repo *r, struct pack_row **rows, size_t *count,
               void (*problem)(void *ctx, uint64_t pack_id, const char *text), void *ctx,
               struct error *e);
/* Open a pack for reading (caller closes), its end bounded as in pack_row. */
int repo_pack_open(struct repo *r, const struct pack_row *row, struct pack **out, struct error *e);
/* Count all references anew; *wrong: chunks whose count in the catalog differs. */
int repo_audit_refs(struct repo *r, uint64_t *wrong, struct error *e);
uint64_t repo_bytes(struct repo *r); /* on disk, packs and catalog */
/* About how many of these would be left if all that is dead were gone. Reads a row for each chunk.
 */
int repo_live_bytes(struct repo *r, uint64_t *bytes, struct error *e);
/* Forget that a chunk is stored (it was found lost or damaged), so that the next save that reads it
 * from its source stores it again. Writer only. */
int repo_chunk_lost(struct repo *r, const struct hash *id, struct error *e);

#endif
