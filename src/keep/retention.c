#include "keep/retention.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

enum { HOUR = 3600, DAY = 86400 };

enum unit { UNIT_HOUR, UNIT_DAY, UNIT_WEEK, UNIT_MONTH, UNIT_YEAR };

/* Who counts for a rule. */
enum who { WHO_GOOD, WHO_GOOD_NO_SAFETY, WHO_NOT_BAD, WHO_ALL };

/* The newest of one hour, day, ... */
struct bucket {
    int64_t key;
    size_t index; /* of the item that stands for it */
};

struct plan {
    const struct keep_item *items;
    size_t count;
    const struct keep_policy *policy;
    struct keep_decision *out;
    int64_t *when;          /* the time by which each is aged */
    struct bucket *buckets; /* scratch for count of them */
};

static bool is_good(const struct keep_item *i)
{
    return i->good && !i->suspect;
}

static bool counts(const struct keep_item *i, enum who who)
{
    switch (who) {
    case WHO_GOOD:
        return is_good(i);
    case WHO_GOOD_NO_SAFETY:
        return is_good(i) && !i->safety;
    case WHO_NOT_BAD:
        return is_good(i) || (i->unproven && !i->suspect);
    case WHO_ALL:
        break;
    }
    return true;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Times beyond the years of a calendar are kept within, so that sums stay in 64 bits. */
static int64_t bounded(int64_t s)
{
    const int64_t first = -62135596800, last = 253402300799;

    return s < first ? first : s > last ? last : s;
}

static int64_t local_seconds(const struct keep_item *i)
{
    return bounded(i->time) + i->utc_offset;
}

static int64_t local_day(const struct keep_item *i)
{
    return floor_div(local_seconds(i), DAY);
}

/* The months since the year 0 of a day since 1970-01-01. */
static int64_t month_of(int64_t day)
{
    int64_t z = day + 719468, era = floor_div(z, 146097), of_era = z - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t from_march = (5 * of_year + 2) / 153;

    return (era * 400 + year) * 12 + from_march + 2;
}

static int64_t key_of(const struct keep_item *i, enum unit unit)
{
    switch (unit) {
    case UNIT_HOUR: /* the two of a doubled hour are two */
        return floor_div(local_seconds(i), HOUR) * HOUR - i->utc_offset;
    case UNIT_DAY:
        break;
    case UNIT_WEEK: /* from Monday; 1970-01-01 was a Thursday */
        return floor_div(local_day(i) + 3, 7);
    case UNIT_MONTH:
        return month_of(local_day(i));
    case UNIT_YEAR:
        return floor_div(month_of(local_day(i)), 12);
    }
    return local_day(i);
}

/* ---- reasons ---- */

static void keep(struct plan *p, size_t i, enum keep_reason reason)
{
    struct keep_decision *d = &p->out[i];

    if (reason >= KEEP_BY_FLOOR_NEWEST && d->floor_reason == KEEP_BY_NONE)
        d->floor_reason = reason;
    if (!d->keep)
        *d = (struct keep_decision){true, reason, d->floor_reason};
}

static void keep_newest(struct plan *p, enum who who, uint32_t n, enum keep_reason reason)
{
    for (size_t i = p->count; i > 0 && n > 0; i--) {
        if (counts(&p->items[i - 1], who)) {
            keep(p, i - 1, reason);
            n--;
        }
    }
}

/* The latest key first; of one key the newest. */
static int by_key(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? 1 : -1;
    return x->index < y->index ? 1 : -1;
}

static int newest_first(const void *a, const void *b)
{
    const struct bucket *x = a, *y = b;

    return x->index < y->index ? 1 : x->index > y->index ? -1 : 0;
}

/* One for each hour, day, ... that has one; those with the latest labels first. */
static size_t find_buckets(struct plan *p, enum who who, enum unit unit)
{
    size_t n = 0, kept = 0;

    for (size_t i = 0; i < p->count; i++) {
        const struct keep_item *item = &p->items[i];
        if (counts(item, who))
            p->buckets[n++] = (struct bucket){key_of(item, unit), i};
    }
    qsort(p->buckets, n, sizeof(*p->buckets), by_key);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || p->buckets[kept - 1].key != p->buckets[i].key)
            p->buckets[kept++] = p->buckets[i];
    }
    return kept;
}

static void keep_first(struct plan *p, size_t found, uint32_t n, enum keep_reason reason)
{
    for (size_t i = 0; i < found && i < n; i++)
        keep(p, p->buckets[i].index, reason);
}

static void keep_each(struct plan *p, enum who who, enum unit unit, uint32_t n,
                      enum keep_reason reason)
{
    if (n == 0)
        return;
    size_t found = find_buckets(p, who, unit);
    qsort(p->buckets, found, sizeof(*p->buckets), newest_first);
    keep_first(p, found, n, reason);
}

static void apply_rules(struct plan *p, enum who who)
{
    const struct keep_policy *r = p->policy;

    keep_each(p, who, UNIT_HOUR, r->keep_hourly, KEEP_BY_HOURLY);
    keep_each(p, who, UNIT_DAY, r->keep_daily, KEEP_BY_DAILY);
    keep_each(p, who, UNIT_WEEK, r->keep_weekly, KEEP_BY_WEEKLY);
    keep_each(p, who, UNIT_MONTH, r->keep_monthly, KEEP_BY_MONTHLY);
    keep_each(p, who, UNIT_YEAR, r->keep_yearly, KEEP_BY_YEARLY);
}

static uint32_t keep_min(const struct keep_policy *p)
{
    return p->keep_min > KEEP_FLOOR ? p->keep_min : KEEP_FLOOR;
}

static void apply_floor(struct plan *p, enum who who)
{
    keep_newest(p, who, keep_min(p->policy), KEEP_BY_FLOOR_NEWEST);
    keep_each(p, who, UNIT_DAY, KEEP_FLOOR, KEEP_BY_FLOOR_DAY);
    keep_first(p, find_buckets(p, who, UNIT_DAY), KEEP_FLOOR, KEEP_BY_FLOOR_DAY);
}

/* ---- age ---- */

static void find_ages(struct plan *p, int64_t now)
{
    int64_t youngest = INT64_MIN;

    for (size_t i = 0; i < p->count; i++) {
        int64_t t = bounded(p->items[i].time);
        if (t <= now && t > youngest)
            youngest = t;
        p->when[i] = t <= now ? youngest : INT64_MAX;
    }
    int64_t next = now;
    for (size_t i = p->count; i > 0; i--) {
        if (p->when[i - 1] == INT64_MAX)
            p->when[i - 1] = next;
        next = p->when[i - 1];
    }
}

static void keep_young(struct plan *p, int64_t now)
{
    int64_t oldest = now - (int64_t)p->policy->keep_days * DAY;

    for (size_t i = 0; i < p->count && p->policy->keep_days > 0; i++) {
        if (p->when[i] >= oldest)
            keep(p, i, KEEP_BY_DAYS);
    }
}

/* ---- size ---- */

static uint64_t add(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static void drop_oldest(struct plan *p, bool bad_ones, uint64_t *used)
{
    for (size_t i = 0; i<p->count && * used> p->policy->max_size; i++) {
        const struct keep_item *item = &p->items[i];
        struct keep_decision *d = &p->out[i];
        if (!d->keep || d->reason == KEEP_BY_PINNED || d->reason == KEEP_BY_NAMED ||
            counts(item, WHO_NOT_BAD) == bad_ones)
            continue;
        if (d->floor_reason != KEEP_BY_NONE) {
            d->reason = d->floor_reason;
            continue;
        }
        d->keep = false;
        d->reason = KEEP_BY_SIZE;
        *used = *used > item->size ? *used - item->size : 0;
    }
}

static void apply_size(struct plan *p)
{
    uint64_t used = p->policy->size_besides;

    for (size_t i = 0; i < p->count; i++)
        used = p->out[i].keep ? add(used, p->items[i].size) : used;
    if (p->policy->max_size > 0) {
        drop_oldest(p, true, &used);
        drop_oldest(p, false, &used);
    }
}

int retention_plan(const struct keep_item *items, size_t count, const struct keep_policy *policy,
                   int64_t now, struct keep_decision *out, struct error *e)
{
    struct plan p = {.items = items, .count = count, .policy = policy, .out = out};
    int rc = 0;

    p.when = calloc(count + 1, sizeof(*p.when));
    p.buckets = calloc(count + 1, sizeof(*p.buckets));
    if (!p.when || !p.buckets) {
        rc = error_sys(e, ENOMEM, "cannot plan what to keep");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = (struct keep_decision){.keep = false};
        if (items[i].pinned || items[i].named)
            keep(&p, i, items[i].pinned ? KEEP_BY_PINNED : KEEP_BY_NAMED);
    }
    now = bounded(now);
    find_ages(&p, now);
    keep_young(&p, now);
    keep_newest(&p, WHO_GOOD, policy->keep_last, KEEP_BY_LAST);
    keep_newest(&p, WHO_ALL, policy->keep_last, KEEP_BY_LAST);
    apply_rules(&p, WHO_GOOD);
    apply_rules(&p, WHO_NOT_BAD);
    apply_floor(&p, WHO_GOOD);
    apply_floor(&p, WHO_GOOD_NO_SAFETY);
    keep_newest(&p, WHO_ALL, keep_min(policy), KEEP_BY_FLOOR_ANY);
    apply_size(&p);
out:
    free(p.when);
    free(p.buckets);
    return rc;
}

/* ---- as text ---- */

/* The hour, day, week (by its Monday), month or year of an item. */
static void period_text(const struct keep_item *item, enum unit unit, char *out, size_t cap)
{
    static const int lengths[] = {
        [UNIT_HOUR] = 16, [UNIT_DAY] = 10, [UNIT_WEEK] = 10, [UNIT_MONTH] = 7, [UNIT_YEAR] = 4};
    int64_t local = floor_div(local_seconds(item), HOUR) * HOUR;
    char text[32];

    if (unit == UNIT_WEEK)
        local = (key_of(item, UNIT_WEEK) * 7 - 3) * DAY;
    time_rfc3339((struct wall_time){.s = local}, text, sizeof(text));
    if (text[10] == 'T')
        text[10] = ' ';
    snprintf(out, cap, "%.*s", lengths[unit], text);
}

static void last_of(const struct keep_item *item, enum unit unit, const char *before, char *out)
{
    char period[32];

    period_text(item, unit, period, sizeof(period));
    snprintf(out, KEEP_TEXT_MAX, "%slast %sof %s%s", before, is_good(item) ? "good " : "",
             unit == UNIT_WEEK ? "the week of " : "", period);
}

void retention_text(const struct keep_item *item, const struct keep_policy *p,
                    const struct keep_decision *d, char out[KEEP_TEXT_MAX])
{
    switch (d->reason) {
    case KEEP_BY_NONE:
        snprintf(out, KEEP_TEXT_MAX, "no rule keeps it");
        break;
    case KEEP_BY_SIZE:
        snprintf(out, KEEP_TEXT_MAX, "beyond max_size");
        break;
    case KEEP_BY_PINNED:
        snprintf(out, KEEP_TEXT_MAX, "pinned");
        break;
    case KEEP_BY_NAMED:
        snprintf(out, KEEP_TEXT_MAX, "named");
        break;
    case KEEP_BY_DAYS:
        snprintf(out, KEEP_TEXT_MAX, "within %" PRIu32 " day%s", p->keep_days,
                 p->keep_days == 1 ? "" : "s");
        break;
    case KEEP_BY_LAST:
        snprintf(out, KEEP_TEXT_MAX, "one of the last %" PRIu32, p->keep_last);
        break;
    case KEEP_BY_HOURLY:
    case KEEP_BY_DAILY:
    case KEEP_BY_WEEKLY:
    case KEEP_BY_MONTHLY:
    case KEEP_BY_YEARLY:
        last_of(item, (enum unit)(d->reason - KEEP_BY_HOURLY), "", out);
        break;
    case KEEP_BY_FLOOR_NEWEST:
        snprintf(out, KEEP_TEXT_MAX, "floor: one of the %" PRIu32 " newest good", keep_min(p));
        break;
    case KEEP_BY_FLOOR_DAY:
        last_of(item, UNIT_DAY, "floor: ", out);
        break;
    case KEEP_BY_FLOOR_ANY:
        snprintf(out, KEEP_TEXT_MAX, "floor: one of the %" PRIu32 " newest", keep_min(p));
        break;
    }
}

/* ---- the floor, once more ---- */

struct latest {
    int64_t day[KEEP_FLOOR];
    size_t newest[KEEP_FLOOR]; /* the newest good item of that day */
    size_t count;
};

static size_t find_day(const struct latest *l, int64_t day)
{
    size_t i = 0;

    while (i < l->count && l->day[i] != day)
        i++;
    return i;
}

/* The days of the items seen so far, newest item first: of each its first item. */
static void see_by_number(struct latest *l, int64_t day, size_t index)
{
    if (l->count == KEEP_FLOOR || find_day(l, day) < l->count)
        return;
    l->day[l->count] = day;
    l->newest[l->count++] = index;
}

/* The same, but of all days those with the latest labels, in descending order. */
static void see_by_label(struct latest *l, int64_t day, size_t index)
{
    size_t at = 0;

    if (find_day(l, day) < l->count)
        return;
    while (at < l->count && l->day[at] > day)
        at++;
    if (at == KEEP_FLOOR)
        return;
    l->count += l->count < KEEP_FLOOR;
    for (size_t i = l->count - 1; i > at; i--) {
        l->day[i] = l->day[i - 1];
        l->newest[i] = l->newest[i - 1];
    }
    l->day[at] = day;
    l->newest[at] = index;
}

static bool any_dropped(const struct latest *l, const bool *drop)
{
    for (size_t i = 0; i < l->count; i++) {
        if (drop[l->newest[i]])
            return true;
    }
    return false;
}

static bool holds_for(const struct keep_item *items, size_t count, const bool *drop, enum who who)
{
    struct latest by_number = {.count = 0}, by_label = {.count = 0};
    size_t all = 0, left = 0;

    for (size_t i = count; i > 0; i--) {
        const struct keep_item *item = &items[i - 1];
        if (!counts(item, who))
            continue;
        all++;
        left += !drop[i - 1];
        see_by_number(&by_number, local_day(item), i - 1);
        see_by_label(&by_label, local_day(item), i - 1);
    }
    return (left >= KEEP_FLOOR || left == all) && !any_dropped(&by_number, drop) &&
           !any_dropped(&by_label, drop);
}

bool retention_floor_holds(const struct keep_item *items, size_t count, const bool *drop)
{
    return holds_for(items, count, drop, WHO_GOOD) &&
           holds_for(items, count, drop, WHO_GOOD_NO_SAFETY);
}
