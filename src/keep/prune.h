/* prune.h - drop what no rule keeps: plan, check the floor once more, drop, give the space back.
 *
 * For each watch: guards first (guard.h), then what the floor relies on is verified where it never
 * was, then retention decides (retention.h), then what it dropped goes in batches, oldest first.
 * Right before each batch everything is looked at anew: who is pinned by now, who is being read,
 * whether the floor would hold. Then, where the repository is larger than max_size or its file
 * system too full, further ones go, oldest first, until it is not or only the floor is left.
 *
 * Broken off anywhere, it is done by the next one. It goes beside saves, restores and
 * verifications; one prune at a time. */
#ifndef WK_KEEP_PRUNE_H
#define WK_KEEP_PRUNE_H

#include "base/error.h"
#include "keep/age.h"
#include "keep/retention.h"
#include "store/repository.h"

#include <stdatomic.h>

enum { PRUNE_NAME_MAX = 256 };

struct prune_policy {
    struct keep_policy snapshots, archives;
    uint64_t max_size; /* of the repository; 0: off */
};

struct prune_archive {
    void *item;        /* of who listed it */
    uint64_t snapshot; /* it was made of */
    bool foreign;      /* which another repository had: a former one, or somebody else's */
    bool other_host;   /* made on another */
    char *root;        /* of the watch, then; or NULL */
    char name[PRUNE_NAME_MAX];
    int64_t time;
    int32_t utc_offset;
    bool verified, manual;
    uint64_t size;
};

/* The archives of a watch. */
struct prune_archives {
    /* Oldest first. What an error leaves in *list is released too. */
    int (*list)(void *ctx, const char *watch, struct prune_archive **list, size_t *count,
                struct error *e);
    /* One that is not there is none to remove, and no error. */
    int (*remove)(void *ctx, const struct prune_archive *archive, struct error *e);
    void (*release)(void *ctx, struct prune_archive *list, size_t count);
    void *ctx;
};

struct prune_line {
    const char *watch, *archive; /* archive NULL: a snapshot */
    uint64_t snapshot;
    int64_t time; /* its label, seconds */
    bool keep;
    const char *reason;
};

struct prune_request {
    struct repo *repo;   /* the writer's; with dry_run any */
    struct repo *reader; /* what is verified is read by it; NULL: repo */
    const char *watch;   /* only this one; NULL: all */
    bool dry_run;        /* decide and tell, change nothing */
    bool thaw;           /* lift the freezes first */
    bool pressed;        /* give space back at once, moving what lives out of half-dead packs */
    uint64_t room;       /* bytes to make free besides, whatever the rules keep */
    /* 0, or ERR_NOTFOUND (no details): not configured, so all is kept. */
    int (*policy)(void *ctx, const char *watch, struct prune_policy *out, struct error *e);
    const struct prune_archives *archives;                  /* or NULL */
    void (*tell)(void *ctx, const struct prune_line *line); /* or NULL; each decision */
    void *ctx;                                              /* of policy and tell */
    const struct age_reading *clocks;                       /* NULL: the machine's */
    const atomic_bool *cancel;
};

struct prune_frozen {
    char watch[80];
    char reason[512];
};

struct prune_result {
    uint64_t kept, dropped, archives_kept, archives_dropped, verified;
    uint64_t bytes_before, bytes_after; /* of the repository on disk */
    uint64_t bytes_moved;               /* that compaction wrote anew to empty packs */
    uint64_t too_large;                 /* bytes beyond max_size that only the floor holds */
    struct prune_frozen *frozen;        /* watches of which nothing was pruned */
    size_t frozen_count;
};

/* 0 also when watches were frozen; that is for the caller to make ERR_REFUSED of. After an error
 * the result says what was done. ERR_NOTFOUND: no such watch. The thread must not be in a
 * transaction. Release the result in every case. */
int prune_run(const struct prune_request *q, struct prune_result *result, struct error *e);
void prune_result_release(struct prune_result *r);

/* The machine's clocks now. */
struct age_reading prune_clocks(void);

#endif
