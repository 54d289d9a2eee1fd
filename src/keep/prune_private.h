/* prune_private.h - the state of one prune, shared by prune*.c; nobody else includes it. */
#ifndef WK_KEEP_PRUNE_PRIVATE_H
#define WK_KEEP_PRUNE_PRIVATE_H

#include "keep/prune.h"

struct prune_watch {
    struct watch_row row;
    struct prune_policy policy;
    bool configured; /* else all is kept */
    bool frozen;     /* and told so */
};

struct pruning {
    const struct prune_request *q;
    struct prune_result *result;
    struct prune_watch *watches;
    size_t watch_count;
    int64_t now;           /* the trusted time */
    uint64_t unshared;     /* a dry run's guess: bytes that go with no snapshot */
    struct error archives; /* the first failure at archives, which holds up no snapshots */
};

struct prune_items {
    struct keep_item *items; /* rising by number */
    struct keep_decision *decisions;
    size_t count, cap;
};
void prune_items_release(struct prune_items *l);

typedef void (*prune_teller)(struct pruning *p, const struct prune_watch *w,
                             const struct keep_item *item, const char *archive, bool keep,
                             const char *reason);

/* prune_archives.c */
int prune_archives_of(struct pruning *p, struct prune_watch *w, prune_teller tell, struct error *e);

/* prune_time.c: set p->now, and remember (but for a dry run) what it rests on. */
int prune_time(struct pruning *p, struct error *e);

int prune_no_memory(struct error *e);

#endif
