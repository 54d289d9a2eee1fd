/* verify.h - read back what is stored and name what is damaged. */
#ifndef WK_SNAPSHOT_VERIFY_H
#define WK_SNAPSHOT_VERIFY_H

#include "base/error.h"
#include "store/repository.h"

#include <stdatomic.h>

enum verify_level { VERIFY_QUICK, VERIFY_FULL };

struct verify_progress {
    atomic_uint_least64_t bytes_total, bytes_done;
};

struct verify_request {
    struct repo *repo;
    enum verify_level level;
    const uint64_t *snapshots; /* only what these need; NULL = everything stored */
    size_t count;
    bool if_there; /* those of `snapshots` that were dropped meanwhile are left out: no error */
    bool again;    /* of `snapshots` also what an earlier run has read since it was written */
    bool record;   /* write verified/damaged marks (needs a writer's handle) */
    struct repo *record_in; /* that handle, where `repo` is another; NULL: `repo` */
    unsigned workers;
    struct verify_progress *progress;
    const atomic_bool *cancel;
};

struct verify_damage {
    uint64_t snapshot; /* newest of them */
    char *path;        /* of the file, or NULL when the damage is in no file (log, list) */
    char *pack;        /* file name of the pack, or NULL */
    char *reason;
    uint64_t *snapshots; /* all that need it, rising */
    size_t snapshot_count;
    bool unread; /* the disk gave no answer: nobody knows whether it is damaged */
};
struct verify_result {
    uint64_t snapshots, chunks, errors;
    uint64_t bytes; /* of packs; with snapshots given: of content that was read */
    double seconds;
    struct verify_damage *damaged; /* at most 10,000 */
    size_t damaged_count;
    bool recorded;
};

/* QUICK: every pack is there with its length, framing of all records, the chain of commits, state
 * sums, catalog against packs. FULL: also every stored byte is read from the disk past the page
 * cache, expanded, and each chunk's SHA-256 compared; references audited. A QUICK run that finds
 * chunks missing goes on as a FULL one: only that tells what they cost. 0 also when damage was
 * found (see errors); ERR_DAMAGED is for the caller to give (exit 4). Memory: some 50 bytes a
 * stored chunk. With snapshots given, marks of damage still go to all that share it. */
int verify_run(const struct verify_request *req, struct verify_result *result, struct error *e);
void verify_result_release(struct verify_result *r);

/* ---- in parts, for a service that goes on for years ---- */

struct verify_part {
    struct repo *repo;      /* to read with */
    struct repo *record_in; /* the writer's handle */
    struct verify_progress *progress;
    const atomic_bool *cancel;
};

/* Read what no verification has read since it was written, some `max` bytes of it at least. When
 * nothing of that is left, *all is set, and snapshots that were not verified are marked. Damage: a
 * full verify_run follows, which names and records it all. */
int verify_new(const struct verify_part *part, uint64_t max, struct verify_result *result,
               bool *all, struct error *e);

/* Read the next `percent` of all stored bytes, from where the last call stopped (a note in the
 * catalog; without it a round begins anew). A round reads every byte that stood in the packs when
 * it began, in at most 100/percent calls; *round is set by the last one, and all snapshots that
 * were verified before are marked as of its beginning. Damage as above. */
int verify_sample(const struct verify_part *part, unsigned percent, struct verify_result *result,
                  bool *round, struct error *e);

#endif
