/* catalog_write.h - the writing side of the catalog, for the repository alone.
 *
 * Live saves and rebuild use the same calls with the same bytes that stand in the packs, so that
 * both give the same rows. Everything between begin and commit is one SQLite transaction. */
#ifndef WK_STORE_CATALOG_WRITE_H
#define WK_STORE_CATALOG_WRITE_H

#include "store/block.h"
#include "store/catalog.h"

enum catalog_mode {
    CATALOG_WRITE,
    CATALOG_READ,
    CATALOG_MEMORY,
    CATALOG_READ_STATIC, /* nobody changes the file: no lock, no -shm, nothing is made beside it */
};

/* Open dir/catalog.db. CATALOG_WRITE makes it when missing (WAL, synchronous NORMAL, autocheckpoint
 * off). ERR_CATALOG: not ours, of another repository, another schema, corrupt. CATALOG_MEMORY: an
 * empty private one; with `copy_from_file` the file's content is copied in first. */
int catalog_open(const char *repo_path, enum catalog_mode mode, bool copy_from_file,
                 const uint8_t repo_id[16], struct catalog **out, struct error *e);
void catalog_close(struct catalog *c);
/* A copy in memory of what c reads, to be written to. */
int catalog_copy(struct catalog *c, struct catalog **out, struct error *e);
/* A further reading connection to what c reads, for another thread. Any thread, while c is idle or
 * reading. */
int catalog_clone(const struct catalog *c, struct catalog **out, struct error *e);
/* Open the file at the same path again in the same handle (it was made anew). */
int catalog_reopen(struct catalog *c, struct error *e);
/* Read all of it: 0, or ERR_CATALOG. */
int catalog_check(struct catalog *c, struct error *e);
/* Whether it ever answered ERR_CATALOG since it was opened. */
bool catalog_failed(const struct catalog *c);
/* When closing, do not bring the WAL back into the file (somebody reads the file without locks). */
void catalog_keep_wal(struct catalog *c);

int catalog_begin(struct catalog *c, struct error *e);
int catalog_commit(struct catalog *c, struct error *e);
void catalog_rollback(struct catalog *c);
/* WAL back into the file, when idle; cached pages are let go. goes_on: more will be written, and
 * the flush that a new WAL begins with is made now. */
int catalog_checkpoint(struct catalog *c, bool goes_on, struct error *e);

/* How far into the packs the catalog reaches. */
struct catalog_position {
    uint64_t log_pack, log_offset; /* replay begins here: the next log record, or an older list of
                                      a save that was open then */
    uint64_t sequence;             /* of the last record folded in; up to it only lists count */
    uint64_t next_number;          /* next snapshot number */
    struct hash chain;             /* of the last commit */
    uint64_t commit_pack, commit_offset; /* where that commit stands, 0 = none yet, or removed */
    uint64_t next_pack;                  /* no pack ever had this id, nor a higher one */
    uint64_t folded_pack;  /* the newest checkpoint covers all log packs below it, 0 = none */
    uint64_t folded_bytes; /* its size, once */
};
int catalog_position(struct catalog *c, struct catalog_position *p, struct error *e);
int catalog_set_position(struct catalog *c, const struct catalog_position *p, struct error *e);

/* Chunks of one block record. A chunk that is known already keeps its place unless `replace`. */
int catalog_add_block(struct catalog *c, uint64_t pack_id, uint64_t offset,
                      const struct block_chunk *chunks, uint32_t count,
                      const struct block_base *base, bool replace, struct error *e);
/* The base of the delta block that stands there. ERR_NOTFOUND: it is no delta. Reading too. */
int catalog_delta_base(struct catalog *c, uint64_t pack_id, uint64_t offset,
                       struct block_base *base, struct error *e);
/* Take up to 40 MB to put chunks in order before they become rows, instead of 10. */
void catalog_gather_many(struct catalog *c, bool many);
/* The chunk has no place any more (lost); its references stay. */
int catalog_chunk_lost(struct catalog *c, const struct hash *id, struct error *e);
/* How the catalog gets at a list chunk's references when the first one to it comes or the last one
 * goes: a malloc'ed array. Not readable: its children stay uncounted, which is noted. */
typedef int (*catalog_list_reader)(void *ctx, const struct hash *id, struct chunk_ref **refs,
                                   uint32_t *count, struct error *e);
void catalog_set_list_reader(struct catalog *c, catalog_list_reader read, void *ctx);
/* Count every reference anew and compare with what stands in the rows; *wrong gets the number of
 * chunks that differ, visit (may be NULL) each. Needs the list reader. Reading too. */
typedef int (*audit_visit)(void *ctx, const struct hash *id, uint64_t stored, uint64_t counted);
int catalog_audit_refs(struct catalog *c, uint64_t *wrong, audit_visit visit, void *ctx,
                       struct error *e);
/* Children of a list chunk gain (sign 1) or lose (-1) a reference each. */
int catalog_ref_list(struct catalog *c, const struct hash *id, const struct chunk_ref *refs,
                     uint32_t count, int sign, struct error *e);

/* Apply one commit in steps, so that the operations of its file lists need not be in memory at
 * once: begin, operations in order, end. The state sum after the operations is known before end,
 * hence before the commit is written; end compares it with the commit's, and a difference clears
 * `whole` and is no error. */
int catalog_apply_begin(struct catalog *c, const uint8_t *watch_id, uint64_t number,
                        struct error *e);
int catalog_apply_ops(struct catalog *c, const void *ops, size_t len, struct error *e);
/* The operations that ride in the commit itself; what does not parse is left to the sum. */
int catalog_apply_list(struct catalog *c, const struct commit *commit, struct error *e);
const struct state_sum *catalog_apply_sum(const struct catalog *c);
int64_t catalog_apply_serial(const struct catalog *c); /* of the watch, also a new one */
int catalog_apply_end(struct catalog *c, const struct commit *commit, struct error *e);
int catalog_apply_mark(struct catalog *c, uint64_t sequence, const struct mark *m, struct error *e);
/* Forget a snapshot: its row goes, versions that no kept snapshot needs go, references fall. */
int catalog_drop(struct catalog *c, uint64_t number, struct error *e);

/* ---- checkpoints ----
 * Every row of a checkpoint, in its order; a non-zero return of visit stops and is returned. What
 * the row points to is valid until visit returns. ERR_DAMAGED: a state sum is not that of the rows.
 * Reading too. */
typedef int (*row_visit)(void *ctx, const struct row *r);
int catalog_rows(struct catalog *c, row_visit visit, void *ctx, struct error *e);
/* Take rows in, in that order and in one transaction, into a catalog that holds nothing but the
 * places of chunks; load_end compares the state sums. */
int catalog_load_row(struct catalog *c, const struct row *r, struct error *e);
int catalog_load_end(struct catalog *c, struct error *e);
/* Number of the watch's snapshot with that name, 0 = none. Reading too. */
int catalog_name_taken(struct catalog *c, int64_t watch, const char *name, uint64_t *number,
                       struct error *e);

/* ---- packs, as far as the catalog has seen them ---- */
struct catalog_pack {
    uint64_t id;
    uint8_t kind;
    uint64_t len; /* data: blocks up to here are known; log: bytes that count, once it has ended */
    uint64_t fence; /* nothing behind it exists, 0 = none */
    bool sealed;
    struct hash sha256; /* of the bytes before the seal, zeros: not computed */
    int64_t gone; /* when a compaction took its place, 0: it lives. The file may still be there */
};
/* How many of its bytes count. Of a data pack less may be left than its fence says: what nothing
 * needs is cut off for room, also where a fence told of it before. */
uint64_t catalog_pack_end(const struct catalog_pack *p);
int catalog_pack_put(struct catalog *c, const struct catalog_pack *p, struct error *e);
int catalog_pack(struct catalog *c, uint64_t id, struct catalog_pack *p,
                 struct error *e); /* ERR_NOTFOUND. Reading too */
/* All by id; *rows malloc'ed. Reading too. */
int catalog_packs(struct catalog *c, struct catalog_pack **rows, size_t *count, struct error *e);
/* The last block of that pack, 0: of each pack, in which a chunk is referenced. ERR_FAILED: not
 * known, since a list of chunks could not be read. A non-zero return of visit stops and is
 * returned. Reading too. */
typedef int (*block_visit)(void *ctx, uint64_t pack_id, uint64_t offset);
int catalog_last_blocks(struct catalog *c, uint64_t pack_id, block_visit visit, void *ctx,
                        struct error *e);
/* The pack ends at `end` now: chunks behind it that nothing references are forgotten, and the notes
 * of bytes that were verified tell of none behind it; while other chunks stand there its row is
 * left, since that is damage. */
int catalog_pack_cut(struct catalog *c, const struct catalog_pack *row, uint64_t end,
                     struct error *e);
/* A compaction took the pack's place at that time: its deltas, and chunks that nothing needs, go;
 * others that still stand there are lost. */
int catalog_pack_gone(struct catalog *c, uint64_t id, int64_t time, struct error *e);
/* The same when the caller forgets the chunks one by one; cheaper. */
int catalog_pack_emptied(struct catalog *c, uint64_t id, int64_t time, struct error *e);
/* The chunk, if it stands in that pack and nothing needs it. */
int catalog_chunk_forget(struct catalog *c, const struct hash *id, uint64_t pack_id,
                         struct error *e);
/* The file of a pack that was gone has been removed. */
int catalog_pack_forget(struct catalog *c, uint64_t id, struct error *e);
/* How much lives in the packs: for each with chunks, bytes of those that are referenced (and how
 * many they are) and of all, before compression. *list malloc'ed, by pack id. Reading too. */
struct pack_use {
    uint64_t pack_id, live, live_count, all;
};
int catalog_pack_uses(struct catalog *c, struct pack_use **list, size_t *count, struct error *e);

int catalog_cache_put(struct catalog *c, int64_t watch, uint64_t node, const struct cache_key *key,
                      const void *signature, size_t len, struct error *e);
/* Many of them: the fewer calls the better. */
struct cache_row {
    uint64_t node;
    struct cache_key key;
    const uint8_t *signature;
    uint32_t len;
};
int catalog_cache_put_rows(struct catalog *c, int64_t watch, const struct cache_row *rows,
                           size_t count, struct error *e);
int catalog_note_put(struct catalog *c, const char *key, const void *value, size_t len,
                     struct error *e);

#endif
