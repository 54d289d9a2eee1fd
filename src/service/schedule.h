/* schedule.h - which timed job is to run when: the calendar's decisions, retries, what was done.
 *
 * No thread, no timer, no repository: clocks come in as functions and jobs go out as callbacks, so
 * that a test can let years pass. One thread. The owner calls schedule_tick at the moment that
 * schedule_due names, and whenever the wall clock or the zone was set.
 *
 * A job's `done` is the slot (UTC seconds) of its last run (calendar.h). It comes from where it
 * survives a restart (schedule_known) and goes there again: by the job itself when it has done its
 * work, by `moved` when the clock was found to have been wrong. Slots that nobody was there for are
 * made up by one run. A job that fails is
 * tried `attempts` times in all, `delay_ms` of the boot clock apart; then it rests until its next
 * slot, and a restart tries the one it owes again.
 *
 * So a daily job runs once for each local day of uptime: a date whose time for it the clock reaches
 * or passes, forward, while the service is up. Where several were passed at once (the machine was
 * off, the clock or the zone jumped forward) the newest counts. A local time that comes again,
 * because the clock was wrong or the zone moved west, is not run again while it is among the
 * TIMED_RAN last ones. Where the clock goes back by more than one slot, what lies before it is not
 * made up. */
#ifndef WK_SERVICE_SCHEDULE_H
#define WK_SERVICE_SCHEDULE_H

#include "base/error.h"
#include "keep/calendar.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum timed_kind { /* in the order in which they run when several are due */
                  TIMED_ARCHIVE,
                  TIMED_VERIFY,
                  TIMED_PRUNE,
                  TIMED_KINDS
};
const char *timed_word(enum timed_kind kind); /* "archive", ... */

enum { TIMED_RAN = 8 };

struct timed { /* one job; read it, change it by the calls below */
    LIST_ENTRY(timed) link;
    enum timed_kind kind;
    char *watch; /* or NULL: of all */
    char *text;  /* the rule as written */
    struct calendar rule;
    bool known; /* `done` is */
    bool gone;  /* configured no more; freed when its run ends */
    int64_t done;
    int64_t next;           /* the wall clock's second at which to look again */
    int64_t ran[TIMED_RAN]; /* local times of its last slots as if in UTC, oldest first, 0: none */
    bool running;
    int64_t slot, local; /* while it runs */
    unsigned attempt;    /* of that slot, from 1; 0: none begun */
    uint64_t retry_at;   /* boot clock, ms; while attempt > 0 and it does not run */
    bool failed;         /* its last run did, and it has not succeeded since */
    bool given_up;       /* so did the last try for some slot, and it has not succeeded since */
    int64_t failed_since;
    struct error failure;
};

struct schedule_clock {
    int64_t (*wall_s)(void *ctx);
    uint64_t (*boot_ms)(void *ctx); /* only goes forward, also while the machine sleeps */
    const struct zone *zone;
    void *ctx;
};

struct schedule_calls {
    /* Run t for t->slot: schedule_ended is to be called, before this returns or later. false: it
     * cannot run now and still owes the slot; asked again at the next tick. */
    bool (*begin)(void *ctx, struct timed *t);
    /* t->done has moved without a run. May be NULL. */
    void (*moved)(void *ctx, const struct timed *t);
    void *ctx;
};

struct schedule;
/* Both are copied. NULL on no memory. */
struct schedule *schedule_new(const struct schedule_clock *clock,
                              const struct schedule_calls *calls);
void schedule_free(struct schedule *s); /* no job may run; NULL is fine */
void schedule_retries(struct schedule *s, unsigned attempts, uint64_t delay_ms);

/* Have this job with this rule, or with NULL or "off" none. One whose rule changes starts from now:
 * slots of the new rule that have passed are not run. */
int schedule_set(struct schedule *s, enum timed_kind kind, const char *watch, const char *rule,
                 struct error *e);
struct timed *schedule_find(struct schedule *s, enum timed_kind kind, const char *watch);
/* Give back what timed_state said. Only the first call for a job counts; until then it does not
 * run. false: that is no state. */
bool schedule_known(struct schedule *s, struct timed *t, const char *state);
/* The same for a job that never ran: it could have since then. */
void schedule_known_since(struct schedule *s, struct timed *t, int64_t since);
/* What of t has to survive a restart: `done` and its last slots, as text. with_slot: as it will be
 * when the run under way has succeeded. */
#define TIMED_STATE_MAX 256
void timed_state(const struct timed *t, bool with_slot, char out[TIMED_STATE_MAX]);
struct timed *schedule_first(struct schedule *s);

/* Begin what is due. */
void schedule_tick(struct schedule *s);
/* A job that was begun has ended: 0, ERR_CANCELLED (as if not begun), or why it failed. true: it
 * will be tried again for this slot. */
bool schedule_ended(struct schedule *s, struct timed *t, int rc, const struct error *why);
/* Somebody has done t's work besides: where it has failed it is well again, and owes nothing. true:
 * it had, and timed_state has changed. */
bool schedule_settled(struct timed *t);
/* The wall clock's second of the next tick, INT64_MAX: none. */
int64_t schedule_due(const struct schedule *s);
/* When t runs next; false: it is not known. */
bool schedule_next(const struct schedule *s, const struct timed *t, int64_t *at);
/* Whether a failure of the run under way would be the last one tried. */
bool schedule_last_attempt(const struct schedule *s, const struct timed *t);

#endif
