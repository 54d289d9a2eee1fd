#include "keep/calendar.h"

#include "base/clock.h"

#include "base/banned.h"

enum { DAY = 86400, OFFSET_MAX = 57600, STRIDE = 6 * 3600 };
/* The years 1 to 9999, and how many days a rule may need: 29 February on a given day of the week
 * comes within 40 years. */
static const int64_t first_instant = -62135596800 + DAY, last_instant = 253402300799 - DAY;
enum { DAYS_MAX = 41 * 366 };

static int32_t local_offset(void *context, int64_t s)
{
    return clock_utc_offset(s);
}

static int32_t no_offset(void *context, int64_t s)
{
    return 0;
}

const struct zone zone_local = {.offset_at = local_offset};
const struct zone zone_utc = {.offset_at = no_offset};

static int32_t offset_at(const struct zone *z, int64_t s)
{
    int32_t east = z->offset_at(z->context, s);

    return east < -OFFSET_MAX ? -OFFSET_MAX : east > OFFSET_MAX ? OFFSET_MAX : east;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* The first instant in (lo, hi] that has another offset than lo; hi has one. */
static int64_t change_between(const struct zone *z, int64_t lo, int64_t hi)
{
    int32_t before = offset_at(z, lo);

    while (hi - lo > 1) {
        int64_t middle = lo + (hi - lo) / 2;
        if (offset_at(z, middle) == before)
            lo = middle;
        else
            hi = middle;
    }
    return hi;
}

/* The first instant whose local time is `wall` (counted as if it were UTC) or later. */
static int64_t instant_of(const struct zone *z, int64_t wall)
{
    int64_t s = wall - OFFSET_MAX; /* no zone is there yet */
    int32_t east = offset_at(z, s);

    while (s + east < wall) {
        int64_t step = wall - (s + east);
        int64_t to = s + (step < STRIDE ? step : STRIDE);
        if (offset_at(z, to) != east)
            to = change_between(z, s, to);
        s = to;
        east = offset_at(z, s);
    }
    return s;
}

struct day {
    int64_t number; /* days since 1970-01-01, local */
    unsigned of_month, month, weekday;
};

/* The civil calendar of Gregory, in eras of 400 years that begin in March. */
static struct day day_of(int64_t number)
{
    int64_t z = number + 719468, era = floor_div(z, 146097);
    unsigned of_era = (unsigned)(z - era * 146097);
    unsigned year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year + year / 4 - year / 100);
    unsigned from_march = (5 * of_year + 2) / 153;

    return (struct day){
        .number = number,
        .of_month = of_year - (153 * from_march + 2) / 5 + 1,
        .month = from_march < 10 ? from_march + 3 : from_march - 9,
        .weekday = (unsigned)(number + 4 - 7 * floor_div(number + 4, 7)),
    };
}

static bool day_matches(const struct calendar *c, int64_t number)
{
    struct day d = day_of(number);
    bool of_month = c->days >> d.of_month & 1, of_week = c->weekdays >> d.weekday & 1;

    return (c->months >> d.month & 1) &&
           (c->either_day ? of_month || of_week : of_month && of_week);
}

/* The first slot of the sets at or after the second `from` of a day; false when none is left. */
static bool slot_of_day(const struct calendar *c, int64_t from, int64_t *second)
{
    int64_t minute = from <= c->second ? 0 : (from - c->second + 59) / 60;

    for (; minute < DAY / 60; minute++) {
        if ((c->hours >> (minute / 60) & 1) == 0) {
            minute += 59 - minute % 60;
        } else if (c->minutes >> (minute % 60) & 1) {
            *second = minute * 60 + c->second;
            return true;
        }
    }
    return false;
}

/* The first slot of the sets at or after a local time. */
static bool slot_from(const struct calendar *c, int64_t wall, int64_t *slot)
{
    int64_t day = floor_div(wall, DAY), from = wall - day * DAY, second;

    for (int i = 0; i < DAYS_MAX; i++, day++, from = 0) {
        if (day_matches(c, day) && slot_of_day(c, from, &second)) {
            *slot = day * DAY + second;
            return true;
        }
    }
    return false;
}

int calendar_next(const struct calendar *c, const struct zone *z, int64_t after, int64_t *next,
                  struct error *e)
{
    int64_t slot, s = after;

    if (after < first_instant || after > last_instant)
        return error_set(e, ERR_USAGE, "the clock shows a year that is out of bounds");
    if (c->interval > 0) {
        *next = (floor_div(after, c->interval) + 1) * c->interval;
        return 0;
    }
    /* Local times that have come again are slots of before: their instant is not after. */
    for (int64_t wall = after + offset_at(z, after) + 1; s <= after; wall = slot + 1) {
        if (!slot_from(c, wall, &slot))
            return error_set(e, ERR_USAGE, "the rule names a day that no year has");
        s = instant_of(z, slot);
    }
    *next = s;
    return 0;
}

/* The newest slot in (done, now], which has one. Looked for from near now, so that a rule of every
 * minute is not walked through the years. */
static int newest_slot(const struct calendar *c, const struct zone *z, int64_t done, int64_t now,
                       int64_t *slot, struct error *e)
{
    int64_t back = 3600, at, found = now + 1;
    int rc = 0;

    for (; found > now && rc == 0; back *= 8) {
        at = now - done > back ? now - back : done;
        rc = calendar_next(c, z, at, &found, e);
    }
    while (rc == 0 && found <= now) {
        *slot = found;
        rc = calendar_next(c, z, found, &found, e);
    }
    return rc;
}

int calendar_decide(const struct calendar *c, const struct zone *z, int64_t done, int64_t now,
                    struct calendar_decision *out, struct error *e)
{
    int64_t first, next;
    int rc = calendar_next(c, z, now, &next, e);

    if (rc != 0)
        return rc;
    *out = (struct calendar_decision){.slot = done, .next = next};
    if (done > now) {
        if (done < next)
            return 0; /* back, but over no slot */
        rc = calendar_next(c, z, next, &first, e);
        if (rc == 0 && done >= first)
            out->slot = now; /* the clock had been wrong */
        else
            out->next = first; /* that one has run */
        return rc;
    }
    rc = calendar_next(c, z, done, &first, e);
    if (rc != 0 || first > now)
        return rc;
    out->due = true;
    return newest_slot(c, z, done, now, &out->slot, e);
}
