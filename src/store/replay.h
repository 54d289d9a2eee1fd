/* replay.h - the state of one replay, shared by repo_replay.c and repo_recover.c; nobody else
 * includes it. */
#ifndef WK_STORE_REPLAY_H
#define WK_STORE_REPLAY_H

#include "store/repo_private.h"

struct held_list {
    uint64_t number, sequence, pack_id, offset;
};

struct replay {
    struct repo *repo;
    struct catalog *catalog;
    struct error *e;
    struct catalog_position position;
    bool recovering_writer;
    bool full;     /* from the beginning */
    bool in_write; /* a transaction of the catalog is open */
    bool began;
    uint64_t first_sequence, max_sequence;
    bool damage, newest;
    struct pack *pack;   /* being walked */
    uint64_t newest_log; /* the one the log ends in, 0 = none */
    uint64_t spare_log;  /* an empty one behind it, 0 = none */
    bool followed;       /* there are packs behind it: it takes no more */
    bool has_records;
    uint64_t newest_end;       /* of its last record that counts */
    uint64_t gap_from, gap_to; /* damage since the last record that ended a write, 0 = none */
    bool torn;                 /* the newest log pack has bytes behind its end */
    uint64_t cut;              /* where a torn commit's write has its first hole, 0 = none */
    struct fence *fences;
    size_t fence_count;
    struct held_list *held;
    size_t held_count, held_cap;
    unsigned commits;
    uint64_t op_bytes;
    struct buffer checkpoint;
    uint64_t checkpoint_id;
    uint32_t checkpoint_parts;
    uint64_t told_missing;
};

enum { REPLAY_STOP = 1 }; /* from a visit: enough was seen */

/* All fences of the log, found before anything is believed. */
int replay_find_fences(struct replay *p);
/* Where the pack's bytes end to count (UINT64_MAX: no fence). */
uint64_t replay_fence_of(const struct replay *p, uint64_t pack_id);
/* A log pack at or behind the catalog's position. */
bool replay_log_counts(const struct replay *p, const struct pack_file *f);
void replay_saw_number(struct replay *p, uint64_t number); /* of a snapshot: it is used up */
/* Numbers of records from an offset of p->pack to the end of the file, whole or not. */
int replay_burn(struct replay *p, uint64_t from);
void replay_release(struct replay *p);

/* What the replay is about to believe is flushed and will be read from the disk. */
int replay_secure_tail(struct replay *p);
/* After the replay: the handle goes on where the log ends; what was torn is fenced off. */
int replay_take_over(struct replay *p);

#endif
