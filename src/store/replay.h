/* replay.h - the state of one replay, shared by repo_replay.c and the files named here; nobody else
 * includes it. */
#ifndef WK_STORE_REPLAY_H
#define WK_STORE_REPLAY_H

#include "store/repo_private.h"

struct held_list {
    uint64_t number, sequence, pack_id, offset;
};

struct part_place {
    uint64_t pack_id, offset;
};

/* A checkpoint whose parts are all there. */
struct found_checkpoint {
    struct checkpoint_part head; /* of its last part; id 0: none */
    struct part_place *places;
    size_t count;
    uint64_t bytes; /* of its records */
};

enum { BAD_CHECKPOINTS_MAX = 8 };

struct replay {
    struct repo *repo;
    struct catalog *catalog;
    struct error *e;
    struct catalog_position position;
    bool recovering_writer;
    bool full;              /* from the beginning */
    bool in_write;          /* a transaction of the catalog is open */
    uint64_t max_sequence;  /* that is used up */
    uint64_t last_sequence; /* of what the log holds up to its end */
    bool newest;
    struct pack *pack;   /* being walked */
    uint64_t newest_log; /* the one the log ends in, 0 = none */
    uint64_t spare_log;  /* an empty one behind it, 0 = none */
    bool followed;       /* there are packs behind it: it takes no more */
    bool has_records;
    uint64_t newest_end;       /* of its last record that counts */
    uint64_t gap_from, gap_to; /* damage since the last record that ended a write, 0 = none */
    bool torn;                 /* the newest log pack has bytes behind its end */
    uint64_t cut;              /* where what was torn has its first hole, 0 = none */
    struct fence *fences;
    size_t fence_count;
    struct held_list *held;
    size_t held_count, held_cap;
    unsigned commits;
    uint64_t op_bytes;
    struct found_checkpoint parts;    /* coming in */
    struct found_checkpoint complete; /* the last that came in whole */
    bool to_load;                     /* `complete` stands for what comes before */
    uint64_t *gone; /* packs that it says are gone: what stands in them does not count */
    size_t gone_count;
    uint64_t bad[BAD_CHECKPOINTS_MAX]; /* ids of those that proved not to be usable */
    unsigned bad_count;
    uint64_t told_missing;
    struct buffer raw; /* of a block */
};

enum { REPLAY_STOP = 1 }; /* from a visit: enough was seen */

/* Whether that is what a read of the packs tells. Else they were not read, and no answer is neither
 * damage nor the end of the log. */
static inline bool replay_is_lost(int rc)
{
    return rc == ERR_DAMAGED || rc == ERR_NOTFOUND;
}

/* All fences that log packs begin with, found before anything is believed. */
int replay_find_fences(struct replay *p);
/* One more, that a record or a checkpoint tells. */
int replay_add_fence(struct replay *p, const struct fence *f);
/* Where the pack's bytes end to count (UINT64_MAX: no fence). */
uint64_t replay_fence_of(const struct replay *p, uint64_t pack_id);
/* A log pack at or behind the catalog's position. */
bool replay_log_counts(const struct replay *p, const struct pack_file *f);
void replay_saw_number(struct replay *p, uint64_t number); /* of a snapshot: it is used up */
void replay_release(struct replay *p);

int replay_ensure_write(struct replay *p);

/* ---- repo_index.c ---- */
/* The catalog learns of the block in a record at offset. */
int replay_add_block(struct replay *p, uint64_t pack_id, uint64_t offset, const uint8_t *body,
                     size_t len);
/* The hash that a seal tells. Always true: one that does not parse is a seal still. */
bool replay_seal_hash(const uint8_t *body, size_t len, struct hash *sha256);
/* Index blocks of a data pack up to a length; UINT64_MAX: all that there are. */
int replay_index_data(struct replay *p, uint64_t pack_id, uint64_t upto);
/* All that there are in every data pack. */
int replay_index_orphans(struct replay *p);

/* ---- repo_load.c ---- */
/* Look for the newest checkpoint that is all there; then to_load is set. */
int replay_find_checkpoint(struct replay *p);
bool replay_is_gone(const struct replay *p, uint64_t pack_id);
/* Its rows become those of the catalog. ERR_DAMAGED: it is not what it should be, and was added to
 * `bad`. */
int replay_load(struct replay *p);
/* A part that is met on the way: the catalog learns how far the log is covered. */
int replay_fold_part(struct replay *p, uint64_t offset, const struct record_header *h,
                     const uint8_t *body);
/* All packs that a compaction relies on are there, as long as they have to be. */
bool replay_needs_met(struct replay *p, const struct pack_need *needs, uint32_t count);

/* ---- repo_recover.c ---- */
/* Numbers of records from an offset of p->pack to the end of the file, whole or not. */
int replay_burn(struct replay *p, uint64_t from);
/* What the replay is about to believe is flushed and will be read from the disk. */
int replay_secure_tail(struct replay *p);
/* 1: the record that ends at `end` is the last that was to be flushed, and what was to come to the
 * disk with it has holes: power went before that. */
int replay_write_is_torn(struct replay *p, uint64_t end);
/* After the replay: the handle goes on where the log ends; what was torn is fenced off. */
int replay_take_over(struct replay *p);

#endif
