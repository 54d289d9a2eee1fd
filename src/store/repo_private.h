/* repo_private.h - what the files of the repository share; nobody else includes it, but for tests
 * that move its bounds, look at its locks or take a step of it alone.
 *
 * repo_init.c    making a repository, the format file
 * repo_open.c    lock, opening and closing
 * repo_catalog.c connections to the catalog, making it anew
 * repo_packs.c   the packs folder: listing, descriptors for reading, fences read, audits
 * repo_replay.c  packs -> catalog: catching up, rebuilding
 * repo_index.c   the blocks of data packs, for that
 * repo_news.c    has the catalog seen all of the packs?
 * repo_recover.c what a crash left: flushed, fenced, taken over
 * repo_losses.c  what the catalog knew and the packs hold no more
 * repo_log.c     appending: log batches, data packs, fences, seals
 * repo_space.c   a full disk: the reserve, bytes that are given back
 * repo_read.c    chunk sources
 * repo_load.c    checkpoints, as a replay meets them
 * repo_upkeep.c  idle work: what is due, packs that are removed
 * repo_seal.c    packs get their seal
 * repo_checkpoint.c writing a checkpoint
 * repo_compact.c what lives moves out of mostly dead packs
 * txn.c          a save while it gathers; txn_commit.c its end; txn_delta.c what its deltas stand
 * on
 *
 * Locks, taken in this order: txn.lock, repo.write_lock, repo.pool_lock, repo.packs_lock. */
#ifndef WK_STORE_REPO_PRIVATE_H
#define WK_STORE_REPO_PRIVATE_H

#include "store/base_cache.h"
#include "store/catalog_write.h"
#include "store/id_map.h"
#include "store/repository.h"

#include <dirent.h>
#include <pthread.h>

#define PACKS_DIR "packs"
#define FORMAT_FILE "format"
#define LOCK_FILE "lock"
#define CATALOG_FILE "catalog.db"
#define RESERVE_FILE "reserve"

enum { POOL_MAX = 16, OPEN_PACKS_MAX = 12, BASES_LEN = 4 * 1024 * 1024 };

struct pack_file { /* as the folder lists it */
    uint64_t id;
    uint8_t kind;
    uint64_t size;
};

/* A block that stands in a data pack but not yet in the catalog. */
struct block_place {
    uint64_t pack_id, offset, end;
    uint32_t count;
    bool has_base;
    struct block_base base;
    struct block_chunk *chunks; /* malloc'ed */
};

struct pool_entry {
    struct catalog *catalog;
    unsigned generation;
    bool lent;
};

struct open_pack {
    struct pack *pack;
    unsigned users;
    uint64_t used;
};

struct loss { /* of a pack that was longer, or is missing */
    uint64_t pack_id;
    uint8_t kind;
    uint64_t was, is; /* bytes */
    bool missing;
    bool unlike; /* something else has its name */
};

struct lease {
    uint64_t snapshot;
    unsigned count;
};

struct repo {
    char *path;
    int dirfd, packs_fd, lock_fd;
    uint8_t id[16], host_id[16];
    enum repo_mode mode;
    enum codec codec;
    void (*notice)(void *ctx, const char *text);
    void *notice_ctx;

    struct catalog *catalog;            /* the handle's own; in memory: the private copy */
    struct chunk_source *memory_source; /* for its list chunks, while the packs are replayed */
    unsigned catalog_generation;
    dev_t catalog_dev;    /* a reader's: which file ... */
    ino_t catalog_ino;    /* ... all of its connections are of */
    bool catalog_changed; /* a reader's: it went over to another one */
    bool in_memory;
    uint64_t pack_full;    /* bytes at which a pack ends */
    bool past_unread;      /* `rebuild` was asked for: data packs are read past bad sectors, ... */
    uint64_t unread_bytes; /* ... so many bytes of them */
    bool distrust;         /* opened without a look at catalog.db */
    bool unsound;          /* a connection met damage; under pool_lock */
    pthread_mutex_t pool_lock;
    struct pool_entry pool[POOL_MAX];
    unsigned generation; /* of catalog.db: connections of an older one are not lent again */
    bool renewing;       /* it is being made anew, by whoever holds the write_lock */
    bool half_made;      /* and that failed on its way: nothing is lent before it is mended */
    pthread_cond_t renewed;
    struct lease *leases;
    size_t lease_count;
    struct loss *losses; /* found when the handle was opened; stands from then on */
    size_t loss_count;
    uint64_t *gone; /* snapshots that were lost with them, rising */
    size_t gone_count;

    atomic_uint_least64_t min_free; /* bytes, or 0 */
    atomic_uint min_free_percent;

    /* Everything below is the writer's, under write_lock. */
    pthread_mutex_t write_lock;
    pthread_cond_t flushed; /* `ending` got shorter */
    struct catalog *writer; /* the one writing connection */
    struct chunk_source *writer_source;
    bool catalog_stale;  /* a durable record is not in it */
    bool catalog_broken; /* it failed us: that file is not used again */
    bool refuse;         /* a fence could not be flushed */
    bool keeps_reserve, reserve_given;
    bool short_of_space; /* something failed for it, or the open found little: what nothing needs
                            is given back */
    struct pack *log, *data;
    struct fence *ending; /* full data packs on their way to the disk; how much of each is there */
    size_t ending_count;
    uint64_t sealing; /* the data pack that gets its seal just now; 0 = none */
    uint64_t next_pack, next_sequence, next_number;
    struct hash chain;
    struct fence *fences; /* to be written before anything is acknowledged */
    size_t fence_count;
    struct fence *lost; /* ends of packs that broke while this handle was open */
    size_t lost_count;
    struct catalog_pack *rows; /* news about packs for the catalog's next transaction */
    size_t row_count;
    struct pack_need *grown; /* data packs flushed since the last commit that named them */
    size_t grown_count;
    struct block_place *unindexed;
    size_t unindexed_count, unindexed_cap;
    bool upkeeping; /* one at a time */
    bool compacted; /* nothing has died since compaction looked last */

    struct txn *txns;       /* open ones */
    struct txn *committing; /* whose list chunks the catalog may ask for */

    struct base_cache *bases; /* of deltas; any thread */

    /* Reading packs; any thread. */
    pthread_mutex_t packs_lock;
    struct open_pack open_packs[OPEN_PACKS_MAX];
    uint64_t use_clock;
    struct pack_file *files; /* by id; renewed at open, grows with new packs */
    size_t file_count;
    uint64_t *doomed; /* packs being or been emptied: no place for a new reference */
    size_t doomed_count;
    struct pack_use *settled; /* log packs that compaction looked at and left; the upkeep's */
    size_t settled_count;
};

int repo_no_memory(struct error *e);
void repo_notice(struct repo *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int repo_no_writer(const struct repo *r, struct error *e); /* ERR_DENIED unless REPO_WRITE */

/* ---- repo_packs.c ---- */
int repo_files_scan(struct repo *r, struct error *e); /* fills files; next_pack above them */
bool repo_file_known(struct repo *r, uint64_t id, struct pack_file *f); /* any thread */
/* Whether its header says that it is this pack of this repository. */
bool repo_file_is_itself(struct repo *r, const struct pack_file *f);
bool repo_file_is_another(struct repo *r, const struct pack_file *f); /* it says something else */
int repo_file_add(struct repo *r, uint8_t kind, uint64_t id, struct error *e);
/* Borrow a descriptor for reading, its length not bounded. Any thread. */
int repo_pack_get(struct repo *r, uint64_t id, struct pack **out, struct error *e);
void repo_pack_put(struct repo *r, struct pack *p);
void repo_packs_close(struct repo *r);
void repo_pack_forget(struct repo *r, uint64_t id); /* its descriptor, unless it is in use */
void repo_leases_free(struct repo *r);

/* ---- repo_open.c ---- */
/* Open the repository's folder; an fd, or a negative code. */
int repo_folder_open(const char *path, struct error *e);
/* Read and check `format`. */
int repo_format_read(int dirfd, bool writing, uint8_t id[16], struct error *e);
DIR *repo_dir_open(int dirfd, const char *name, struct error *e); /* NULL on error */

/* What the handle knows of the packs' ends is not to be trusted (`refuse`): read them again from
 * the disk, as an open does, the lock being kept. Not while a save is open. write_lock is held. */
int repo_begin_anew(struct repo *r, struct error *e);

int repo_catalog_open_writer(struct repo *r, struct error *e); /* catalog.db, for writing */
/* catalog.db as it lies, or a private copy in memory; packs were listed before. */
int repo_catalog_open_reader(struct repo *r, struct error *e);
void repo_catalog_remember(struct repo *r); /* which file catalog.db is now */
void repo_pool_drop(struct pool_entry *p);
int repo_catalog_lend(struct repo *r, struct catalog **out, struct error *e); /* from the pool */
void repo_catalog_return(struct repo *r, struct catalog *c);
/* Put catalog.db and what stands beside it out of the way; keep: under a name of its own. */
int repo_catalog_set_aside(struct repo *r, bool keep, struct error *e);
/* The file shows all of the packs again. */
void repo_catalog_is_whole(struct repo *r);
/* Bring writer and catalog to a file made anew from the packs. write_lock is held. */
int repo_catalog_renew(struct repo *r, bool keep, struct error *e);
/* The catalog failed with *e: made anew, so that what was asked of it can be asked once more. *e is
 * as it was, or says why that failed. write_lock is held. */
int repo_catalog_again(struct repo *r, struct error *e);
/* A reader's: replay the packs into memory, and say why. */
int repo_read_packs(struct repo *r, const char *why, struct error *e);
/* After a failure of the catalog: caught up, or made anew. write_lock is held. */
int repo_catalog_mend(struct repo *r, struct error *e);
/* A change of the catalog ended with rc < 0. behind: a durable record was to go into it. */
void repo_catalog_failed(struct repo *r, int rc, bool behind);
void repo_catalog_checkpoint(struct repo *r, bool goes_on);

/* ---- repo_replay.c ---- */
/* Fold everything behind c's position into it. recovering: this is the writer, and what is read is
 * first made sure to be on the disk; r's counters, log and data packs are then set. */
int repo_replay(struct repo *r, struct catalog *c, bool recovering, struct error *e);
/* 1: the packs hold records behind c's position; 0: none; ERR_CATALOG: c's position is not of
 * these packs. */
int repo_replay_needed(struct repo *r, struct catalog *c, struct error *e);

/* ---- repo_space.c; write_lock is held, or the repository is being opened ---- */
void repo_reserve_keep(struct repo *r); /* make it where there is room, and what was not used up
                                           of one that was given */
bool repo_reserve_give(struct repo *r); /* true: there was one, and its space is free now */
bool repo_space_is_short(const struct repo *r);
/* 0, or ERR_NOSPACE: with these bytes taken less than min_free (upkeep: a quarter) were left. */
int repo_room_for(struct repo *r, uint64_t bytes, bool upkeep, struct error *e);
/* Bytes that upkeep may take; UINT64_MAX: there is no bound. */
uint64_t repo_upkeep_room(struct repo *r);
/* Bytes at which a pack ends: on a small file system earlier, so that one that is mostly dead can
 * be emptied into what little room there is. */
uint64_t repo_pack_full(const struct repo *r);
/* Cut data packs behind what is needed of them. Does nothing while a save, upkeep or a reader is
 * under way, a lease is held, or the catalog is behind the packs. */
int repo_give_back(struct repo *r, struct error *e);
/* Whether the last block in that data pack of which something is referenced cannot be read whole,
 * or that is not known. Readers too. */
bool repo_needs_more(struct repo *r, struct catalog *c, uint64_t pack_id);
/* Places in data packs that are shorter than the catalog believes are forgotten. */
int repo_forget_cut(struct repo *r, struct error *e);

/* ---- repo_losses.c; while the handle is being opened ---- */
/* Before the catalog is made anew: what it knows that the packs do not hold. */
void repo_losses_note(struct repo *r);
/* Afterwards: what is really gone, and an event about it in the log. */
void repo_losses_settle(struct repo *r);
void repo_losses_tell(struct repo *r, void (*tell)(void *ctx, uint64_t pack_id, const char *text),
                      void *ctx);
bool repo_loss_known(const struct repo *r, uint64_t pack_id);
void repo_losses_free(struct repo *r);

/* ---- repo_log.c; write_lock is held ---- */
struct log_batch {
    struct buffer bytes;
    uint64_t base; /* offset of the first byte in the log pack */
    size_t fences; /* that it begins with: the first of those that wait */
};
int repo_log_ready(struct repo *r, struct error *e); /* a log pack that takes writes */
int repo_batch_begin(struct repo *r, struct log_batch *b, struct error *e);
/* Returns the offset of the record; *sequence (may be NULL) gets its number. */
uint64_t repo_batch_add(struct repo *r, struct log_batch *b, uint8_t type, const void *body,
                        size_t len, uint64_t *sequence);
/* One write; flush: and one flush. */
int repo_batch_write(struct repo *r, struct log_batch *b, bool flush, struct error *e);
void repo_batch_release(struct log_batch *b);
/* End the log pack by a seal, with the hash of its bytes or NULL, and begin the next. */
int repo_log_seal(struct repo *r, const struct hash *sha256, struct error *e);
/* Fences that wait are written now, if the disk takes them; else the next write tries again. */
void repo_fences_flush(struct repo *r);
bool repo_log_full(const struct repo *r);
bool repo_log_overfull(const struct repo *r); /* idle time did not come */
/* The data pack takes no more; its blocks are flushed. */
int repo_data_end(struct repo *r, struct error *e);

/* Append a block to the data pack; takes p->chunks on success. */
int repo_data_put(struct repo *r, struct buffer *record, struct block_place *p, struct error *e);
int repo_data_settle(struct repo *r, struct error *e); /* all of them flushed; `grown` tells */
bool repo_data_lost(const struct repo *r, uint64_t pack_id, uint64_t end);
struct index_cursor {
    size_t next;     /* unindexed block */
    uint64_t chunks; /* in those before it */
};
uint64_t repo_data_unindexed(const struct repo *r); /* chunks in the unindexed blocks */
/* It has ended, and another thread flushes or seals it just now. */
bool repo_data_is_ending(const struct repo *r, uint64_t pack_id);
/* Durable unindexed blocks -> catalog, in its open transaction, until upto chunks are done. */
int repo_data_index(struct repo *r, struct index_cursor *at, uint64_t upto, struct error *e);
void repo_data_indexed(struct repo *r); /* that transaction was committed: forget them */
int repo_data_index_now(struct repo *r, struct error *e); /* settle and index, by itself */
int repo_fence_add(struct repo *r, uint64_t pack_id, uint64_t len, struct error *e);
void repo_fence_lower(struct repo *r, uint64_t pack_id, uint64_t len); /* the pack was cut there */
/* Note for the catalog; a later note about the same pack replaces it. */
int repo_row_note(struct repo *r, const struct catalog_pack *row, struct error *e);
/* In the catalog's open transaction, and after its commit; data: also those of data packs, together
 * with repo_data_index. */
int repo_rows_put(struct repo *r, bool data, struct error *e);
void repo_rows_done(struct repo *r, bool data);
void repo_rows_let_go(struct repo *r); /* what they say of blocks of data packs */
void repo_writing_release(struct repo *r);
void repo_packs_let_go(struct repo *r); /* the packs being written, and notes about them */
/* Where replay has to begin: not behind the lists of an open save, but for the one just done. */
void repo_safe_position(const struct repo *r, const struct txn *done, struct catalog_position *p);

/* ---- txn_commit.c; write_lock is held ---- */
typedef int (*apply_record)(struct catalog *c, uint64_t sequence, const void *what,
                            struct error *e);
/* Append one record, flush, apply it to the catalog (apply NULL: it only moves on). */
int repo_record_put(struct repo *r, uint8_t type, const struct buffer *body, apply_record apply,
                    const void *what, uint64_t *offset, struct error *e);
/* The catalog's position moves to the end of the log, and notes about packs go in. In a transaction
 * that is open; follow: in one of its own. */
int repo_position_move(struct repo *r, struct error *e);
int repo_catalog_follow(struct repo *r, struct error *e);

/* ---- repo_seal.c, repo_checkpoint.c, repo_compact.c: write_lock is not held ---- */
bool repo_upkeep_stopped(const struct upkeep *u, struct error *e); /* e: ERR_CANCELLED */
int repo_log_switch(struct repo *r, const struct upkeep *u, struct error *e);
int repo_seal_ended(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                    struct error *e);
int repo_checkpoint(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                    struct error *e);
int repo_compact(struct repo *r, const struct upkeep *u, struct upkeep_result *done,
                 struct error *e);
/* From now on none may: it is being emptied, or was. Any thread. */
int repo_doom(struct repo *r, uint64_t pack_id, struct error *e);
/* A place in that pack may be given a new reference: the file is there, and is not being emptied.
 * Any thread. */
bool repo_place_holds(struct repo *r, uint64_t pack_id);
void repo_file_gone(struct repo *r, uint64_t id); /* unlinked: known no more */
/* What was written is read from the disk, not from the page cache. */
void repo_pack_cold(struct repo *r, uint64_t id);

/* ---- repo_read.c ---- */
struct chunk_source *chunk_source_over(struct repo *r, struct catalog *c); /* borrows c */
void chunk_source_forget(struct chunk_source *s); /* drop what is kept expanded */
int repo_read_list(void *ctx, const struct hash *id, struct chunk_ref **refs, uint32_t *count,
                   struct error *e); /* ctx: struct chunk_source */

/* ---- txn.c ---- */
struct spilled_list {
    uint64_t pack_id, offset, sequence;
};

struct small_block {
    struct buffer record;     /* room for the header, then the body */
    struct block_place place; /* chunks and base; place is decided at commit */
};

struct txn {
    struct repo *repo;
    struct txn *next;
    struct watch_row watch;
    bool is_new, root_changed, rules_changed;
    struct catalog *catalog;
    uint64_t number; /* 0 = none yet */
    bool changed;

    struct buffer ops; /* not yet in a list */
    struct buffer scratch;
    struct spilled_list *spilled;
    size_t spilled_count;
    uint64_t list_bytes;
    struct buffer cache;  /* {u64 node, u64 ino, u8 pending, u32 len, bytes} each */
    int cache_fd;         /* full ones before it, in a file without a name; -1 = none */
    bool cache_in_memory; /* such a file cannot be had */
    uint64_t *cache_lens; /* of each, end to end in the file */
    size_t cache_count;

    pthread_mutex_t lock;           /* for the rest */
    struct catalog *claims_catalog; /* to look chunks up in */
    bool none_known;                /* it has none: the repository's first save */
    struct id_map claims;
    struct id_map lists; /* list chunks of this save: struct list_chunk */
    struct buffer list_raw;
    struct small_block *small;
    size_t small_count;
    uint64_t small_bytes;
    bool big, failed;
    struct error failure;
    uint64_t bytes_stored;
    struct pack_need *touched; /* data packs that hold blocks of it; under write_lock */
    size_t touched_count;
    uint64_t *reused; /* data packs with blocks of saves that came to nothing, which it needs */
    size_t reused_count;
};

struct list_chunk {
    struct hash id;
    uint64_t offset;
    uint32_t len;
};

void txn_free(struct txn *t);
int txn_spill_ops(struct txn *t, struct error *e);      /* write_lock is held */
int txn_claims_catalog(struct txn *t, struct error *e); /* t->lock is held */
/* Take an encoded block, behind RECORD_HEADER_LEN bytes for its record's header; may be emptied. */
int txn_store(struct txn *t, const struct block_chunk *chunks, uint32_t count, const void *raw,
              bool is_list, struct buffer *record, struct error *e);
bool txn_find_list(struct txn *t, const struct hash *id, const uint8_t **p, size_t *len);

#endif
