/* retention.h - which of the snapshots, or of the archives, of ONE watch stay, and why. Pure.
 *
 * A policy only adds reasons to keep. Whatever it says, the floor stays:
 * - the keep_min newest good ones (never fewer than KEEP_FLOOR, where so many exist);
 * - the newest good one of each of the KEEP_FLOOR latest local days that have one, the latest by
 *   number and, should a jump of the clock make a difference, the latest by their label too;
 * - both again without the safety snapshots of in-place restores;
 * - where fewer are good, the keep_min newest of all.
 * What has a pin or a name stays too. What is not good never takes the place of a good one: a rule
 * for N of something gives N of the good ones, and besides them what the same rule gives with those
 * that were not verified yet. Size pressure takes known bad ones first.
 *
 * Order is by number. Age is counted from a `now` that the caller trusts. An item is as old as the
 * youngest label among it and those before it, so that a label of 1970 ages nothing; a label that
 * lies after now is not believed: that item is as old as the next one. A day is a local day, by the
 * UTC offset the item was made with. */
#ifndef WK_KEEP_RETENTION_H
#define WK_KEEP_RETENTION_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEEP_FLOOR = 3 };

struct keep_item {
    uint64_t number;    /* strictly ascending */
    int64_t time;       /* seconds, as the clock said */
    int32_t utc_offset; /* seconds east, then */
    bool good;          /* proven: counts for the floor */
    bool unproven;      /* not verified yet, nothing speaks against it; never with good */
    bool pinned, named;
    bool suspect; /* never good, whatever `good` says */
    bool safety;  /* made before an in-place restore; its pin is a pin like others */
    uint64_t size;
};

/* 0 is off. */
struct keep_policy {
    uint32_t keep_min;  /* less than KEEP_FLOOR counts as KEEP_FLOOR */
    uint32_t keep_days; /* all of the last N days of 24 hours */
    uint32_t keep_last;
    uint32_t keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly;
    uint64_t max_size; /* sum of the sizes and of size_besides: beyond it the oldest go */
    uint64_t size_besides;
};

enum keep_reason {
    KEEP_BY_NONE, /* dropped: no rule keeps it */
    KEEP_BY_SIZE, /* dropped: a rule would keep it, but max_size is exceeded */
    KEEP_BY_PINNED,
    KEEP_BY_NAMED,
    KEEP_BY_DAYS,
    KEEP_BY_LAST,
    KEEP_BY_HOURLY,
    KEEP_BY_DAILY,
    KEEP_BY_WEEKLY,
    KEEP_BY_MONTHLY,
    KEEP_BY_YEARLY,
    KEEP_BY_FLOOR_NEWEST, /* one of the keep_min newest good ones */
    KEEP_BY_FLOOR_DAY,    /* the newest good one of one of the latest days */
    KEEP_BY_FLOOR_ANY,    /* one of the keep_min newest, good or not */
};

struct keep_decision {
    bool keep;
    enum keep_reason reason; /* the first that applies; of the floor where nothing else does */
    enum keep_reason floor_reason; /* of the floor, or KEEP_BY_NONE: no policy can drop it */
};

/* Decide for each item; out has room for count decisions. ERR_FAILED: no memory. */
int retention_plan(const struct keep_item *items, size_t count, const struct keep_policy *p,
                   int64_t now, struct keep_decision *out, struct error *e);

enum { KEEP_TEXT_MAX = 64 };
/* "within 7 days", "last good of 2026-11-20", "floor: one of the 3 newest good", ... */
void retention_text(const struct keep_item *item, const struct keep_policy *p,
                    const struct keep_decision *d, char out[KEEP_TEXT_MAX]);

/* Whether, with those of `drop` gone, at least KEEP_FLOOR good ones are left (or all there are),
 * and the newest good one of each of the KEEP_FLOOR latest local days that have one. Computed anew,
 * by other means than the plan: whoever executes a plan asks again, on a fresh list. */
bool retention_floor_holds(const struct keep_item *items, size_t count, const bool *drop);

#endif
