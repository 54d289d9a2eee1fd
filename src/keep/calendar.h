/* calendar.h - a rule of base/calendar_rule.h in time: the instants it names, and what is due.
 *
 * Pure: what is known of a time zone comes through struct zone. An instant is in UTC seconds.
 *
 * A local time falls on the first instant whose local time is that one or a later one. So one that
 * a day does not have (a clock put forward) runs right after the gap, once, whatever else falls
 * into it; one that a day has twice (a clock put back) runs the first time only. */
#ifndef WK_KEEP_CALENDAR_H
#define WK_KEEP_CALENDAR_H

#include "base/calendar_rule.h"

#include <stdbool.h>
#include <stdint.h>

/* A zone is one question: how many seconds east of UTC is it then, -57600..57600? The machine's
 * own comes from the C library (base/clock.h), under its lock, which is safe in any thread and
 * follows a change of /etc/localtime; another one is a function more. */
struct zone {
    int32_t (*offset_at)(void *context, int64_t s);
    void *context;
};

extern const struct zone zone_local, zone_utc;

/* The first instant of the rule strictly after `after`. ERR_USAGE outside of the years 1 to 9999.
 * A few microseconds; some ten milliseconds for a rule that a year seldom fulfils. */
int calendar_next(const struct calendar *c, const struct zone *z, int64_t after, int64_t *next,
                  struct error *e);

struct calendar_decision {
    bool due;     /* run it now, for `slot` */
    int64_t slot; /* what `done` is from now on: at once when not due, after the run when due */
    int64_t next; /* the first instant after now at which to ask again */
};

/* What is due at `now`? `done` is the slot of the last run, of this decision or of the first look
 * (for a job that never ran: the instant it was set up, so that it waits for its first slot).
 * - Slots that passed since `done` are made up by one run, for the newest of them: after the
 *   machine was off or asleep, or the clock jumped forward.
 * - Where the clock went back over the last slot, that slot is not run again when it comes anew.
 * - Where the clock went back over several slots, it had been wrong: the slots it now comes to run,
 *   however long the wrong time had been. */
int calendar_decide(const struct calendar *c, const struct zone *z, int64_t done, int64_t now,
                    struct calendar_decision *out, struct error *e);

#endif
