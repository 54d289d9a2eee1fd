/* verify_job.h - what the files of verify share; nobody else includes it.
 *
 * verify.c         the order of the whole, results, marks
 * verify_packs.c   walking the packs, expanding blocks on worker threads
 * verify_log.c     the log's records: order, chain of commits, all that the catalog knows of
 * verify_some.c    only what some snapshots need
 * verify_marks.c   how far each pack was verified before
 * verify_part.c    what is new, or a share of all, in a service that goes on for years
 * verify_audit.c   catalog against packs, nodes against chunks: which files and snapshots a fault
 *                  touches
 *
 * A *fault* is a place in a pack that is not what it was (or a pack that is not there). A *bad
 * chunk* is one that cannot be had because of a fault, or (content false) stands in a record that
 * has one elsewhere. */
#ifndef WK_SNAPSHOT_VERIFY_JOB_H
#define WK_SNAPSHOT_VERIFY_JOB_H

#include "base/buffer.h"
#include "snapshot/number_set.h"
#include "snapshot/pair_map.h"
#include "snapshot/verify.h"
#include "store/commit.h"
#include "store/id_map.h"

#include <pthread.h>

struct verify_snapshot {
    uint64_t number;
    int64_t watch;
    uint64_t list_first, list_count;
    bool known_damaged, whole;
    bool wanted; /* is checked in this run */
    bool there;  /* it was when the leases had been taken */
    bool hit;    /* needs something that is not there */
    bool unsure; /* needs something that could not be read */
};

struct verify_fault {
    uint64_t pack_id;  /* 0: in no pack */
    uint64_t from, to; /* of the record; from == to: the pack as a whole */
    bool content;      /* what stands there cannot be had */
    bool log;          /* it may have been a commit or a file list */
    bool unread;       /* the disk gave no answer; this is neither damage nor loss */
    char *reason;
    bool told;           /* some damage entry names it */
    uint64_t *snapshots; /* that have something there, while no file is damaged; rising */
    size_t snapshot_count;
};
#define NO_FAULT SIZE_MAX

struct verify_bad {
    struct hash id;
    size_t fault;
    bool content;
};

struct verify_job {
    const struct verify_request *req;
    struct verify_result *result;
    struct verify_snapshot *snapshots; /* rising */
    size_t snapshot_count;
    uint64_t newest; /* number of the newest one when the run began */
    struct pack_row *packs;
    size_t pack_count;
    struct buffer marks;     /* verify_marks.c; empty: everything is read */
    struct pack_need *needs; /* what the commits say must be there, each pack once */
    size_t need_count;
    struct id_map bad;      /* struct verify_bad */
    struct number_set good; /* keys of chunks in the catalog that stand in the packs */

    pthread_mutex_t lock;   /* of what follows */
    struct number_set seen; /* prints of chunks (or, quick, records) found sound */
    struct verify_fault *faults;
    size_t fault_count, fault_cap;
    bool has_absent;
    size_t absent; /* the fault of chunks that no pack holds */
    uint64_t chunks;
    int code; /* 0, or why everything stops */
    struct error why;
};

/* ---- verify.c ---- */

void verify_job_init(struct verify_job *j, const struct verify_request *req,
                     struct verify_result *result);
void verify_job_release(struct verify_job *j);
/* A run ended with rc: whether it is to be begun anew, because the catalog had failed. record_in
 * may be NULL. */
bool verify_replaced(struct repo *r, struct repo *record_in, int rc, struct catalog_try *tried);
void verify_pack_problem(void *job, uint64_t pack_id, const char *text); /* for repo_packs */

/* Returns its index, or NO_FAULT on no memory (the job then fails). Any thread. */
size_t verify_fault(struct verify_job *j, uint64_t pack_id, uint64_t from, uint64_t to,
                    bool content, const char *reason);
/* The same, with what a read said: damage, absence, or that it could not be done. */
size_t verify_fault_of(struct verify_job *j, uint64_t pack_id, uint64_t from, uint64_t to,
                       bool content, const struct error *why);
static inline bool verify_unread(const struct error *why)
{
    return why->code != ERR_DAMAGED && why->code != ERR_NOTFOUND;
}
int verify_fail(struct verify_job *j, const struct error *why); /* everything stops; any thread */
int verify_stopped(struct verify_job *j, struct error *e);      /* 0 or why; any thread */
void verify_progress(struct verify_job *j, uint64_t bytes);     /* any thread */
/* A damage entry over snapshots[count] (copied, rising). path may be NULL. */
int verify_damage(struct verify_job *j, size_t fault, const char *path, const uint64_t *snapshots,
                  size_t count, struct error *e);
/* A fault that costs no content: the snapshots are gathered, one entry tells them at the end. Those
 * that are not there any more are left out. */
int verify_touch(struct verify_job *j, size_t fault, const uint64_t *snapshots, size_t count,
                 struct error *e);
unsigned verify_workers(const struct verify_request *req);

/* What a chunk's row in the catalog says, as one number; and the same of a record alone. */
uint64_t verify_print(const struct hash *id, uint64_t pack_id, uint64_t offset, uint32_t raw_off,
                      uint32_t raw_len);
uint64_t verify_record_print(uint64_t pack_id, uint64_t offset);
uint64_t verify_key(const struct hash *id);

/* ---- verify_packs.c ---- */

int verify_packs(struct verify_job *j, struct error *e);
/* The pack alone, from a record's beginning on (0: all of it); what the log's records say is not
 * held against the catalog. Faults go to j->faults. */
struct verify_span {
    const struct pack_row *row;
    uint64_t from;
};
int verify_spans(struct verify_job *j, const struct verify_span *spans, size_t count,
                 struct error *e);
void verify_drop_cache(struct verify_job *j); /* of all packs, so that reads come from the disk */

/* ---- verify_log.c ---- */

struct verify_place { /* of a record */
    uint64_t pack_id, from, to;
};
struct verify_jump { /* a pack's first commit, which does not follow on the last one before it */
    struct verify_place at;
    uint64_t sequence;
    uint64_t blank; /* a pack without a header between the two, 0 = none */
    struct hash chain;
    bool first; /* there is none before it */
};
struct verify_log { /* of the order of all log packs; zeros to begin with */
    uint64_t sequence;
    struct hash chain;  /* of the last commit */
    uint64_t last_pack; /* where it stands, 0 = there was none */
    bool broken;        /* something is missing: neither order nor chain can be told any more */
    uint64_t blank;     /* a pack without a header, since the last commit */
    struct number_set commits;
    struct pair_map lists;       /* (snapshot, 0) -> how many file lists with its number were met */
    struct checkpoint_part part; /* the last one met */
    struct checkpoint_part folded; /* the last one that ended a whole checkpoint */
    struct verify_jump *jumps;
    size_t jump_count;
};
/* A sound record of the log; its faults go to the job. *number: the snapshot it belongs to, unless
 * it is neither a commit nor a file list. */
int verify_log_record(struct verify_job *j, struct verify_log *log, const struct verify_place *at,
                      const struct record_header *h, const uint8_t *body, uint64_t *number,
                      struct error *e);
/* Of what a fault hides some may have been commits and lists. */
void verify_log_breaks(struct verify_job *j, struct verify_log *log, size_t fault);
/* A pack that cannot be opened; any kind. */
int verify_log_lost(struct verify_job *j, struct verify_log *log, const struct pack_row *row,
                    const struct error *why, struct error *e);
/* All packs were walked: what is missing of the log, and the snapshots that need it. */
int verify_log_end(struct verify_job *j, struct verify_log *log, struct error *e);
void verify_log_release(struct verify_log *log);

/* ---- verify_some.c ---- */

int verify_some(struct verify_job *j, struct error *e);

/* ---- verify_marks.c ---- */

/* From the handle that they are stored by: a reader's catalog may be of a moment long past. */
int verify_marks_load(struct verify_job *j, struct error *e);
/* Up to which byte the pack was found sound, 0 = nothing is known. */
uint64_t verify_mark_of(const struct verify_job *j, uint64_t pack_id);
/* After all packs were read in full. Sorts j->packs by id. */
int verify_marks_store(struct verify_job *j, struct repo *r, struct error *e);
/* Packs with `whole[i]` were read up to their ends; of the others what was known before stays, but
 * for those with a fault. */
int verify_marks_raise(struct verify_job *j, struct repo *r, const bool *whole, struct error *e);

/* ---- verify_audit.c ---- */

/* Chunks of the catalog against what was seen in the packs: fills `good` and `bad`. */
struct verify_rows { /* prints and keys of all rows, read while the packs are walked */
    uint64_t *prints, *keys;
    size_t count, cap;
};
int verify_rows_read(struct verify_job *j, struct verify_rows *rows, struct error *e);
void verify_rows_release(struct verify_rows *rows);
int verify_audit_chunks(struct verify_job *j, const struct verify_rows *rows, struct error *e);
/* Nodes of all watches against chunks; every file touched becomes a damage entry. all: a reference
 * to a chunk that is in neither set is damage too. */
int verify_audit_nodes(struct verify_job *j, bool all, struct error *e);
/* Every count of references in the catalog against the nodes. */
int verify_audit_counts(struct verify_job *j, struct error *e);

#endif
