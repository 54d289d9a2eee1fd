#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "keep/calendar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/banned.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { MINUTE = 60, HOUR = 3600, DAY = 86400 };

/* ---- zones, spelled out so that no zone files are needed ---- */

struct change {
    const char *utc;
    int32_t east;
};

struct place {
    const char *name;
    const char *posix; /* of the C library, through TZ; or else: */
    struct change changes[6];
};

/* clang-format off */
static const struct place places[] = {
    {"UTC", "UTC0", {{0}}},
    {"Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", {{0}}},
    {"America/New_York", "EST5EDT,M3.2.0,M11.1.0", {{0}}},
    {"Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", {{0}}},
    {"Asia/Kolkata", "IST-5:30", {{0}}},
    /* At midnight, another Sunday each year, and given up in 2019. */
    {"America/Sao_Paulo", NULL, {{"2017-01-01 00:00:00", -7200}, {"2017-02-19 02:00:00", -10800},
                                 {"2017-10-15 03:00:00", -7200}, {"2018-02-18 02:00:00", -10800},
                                 {"2018-11-04 03:00:00", -7200}, {"2019-02-17 02:00:00", -10800}}},
    /* 30 December 2011 was left out. */
    {"Pacific/Apia", NULL, {{"2011-01-01 00:00:00", -36000}, {"2011-12-30 10:00:00", 50400}}},
    /* Made up: a day that comes twice. */
    {"Twice", NULL, {{"2026-01-01 00:00:00", 43200}, {"2026-06-10 12:00:00", -43200}}},
};
/* clang-format on */

static int64_t utc(const char *text)
{
    struct tm tm = {0};

    assert_int_equal(sscanf(text, "%d-%d-%d %d:%d:%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
                            &tm.tm_hour, &tm.tm_min, &tm.tm_sec),
                     6);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    return (int64_t)timegm(&tm);
}

struct table {
    int64_t at[6];
    int32_t east[6];
    size_t count;
};

static int32_t table_offset(void *context, int64_t s)
{
    const struct table *t = context;
    size_t i = 0;

    while (i + 1 < t->count && t->at[i + 1] <= s)
        i++;
    return t->east[i];
}

/* One place at a time. */
static struct zone zone_of(const char *name)
{
    static struct table t;
    const struct place *p = places;

    while (strcmp(p->name, name) != 0)
        p++;
    if (p->posix) {
        setenv("TZ", p->posix, 1);
        return zone_local;
    }
    for (t.count = 0; t.count < COUNT(p->changes) && p->changes[t.count].utc; t.count++) {
        t.at[t.count] = utc(p->changes[t.count].utc);
        t.east[t.count] = p->changes[t.count].east;
    }
    return (struct zone){.offset_at = table_offset, .context = &t};
}

static void parse(const char *rule, struct calendar *c)
{
    struct error e = ERROR_INIT;

    if (calendar_parse(rule, c, &e) != 0)
        fail_msg("%s", e.message);
}

static int64_t next_of(const struct calendar *c, const struct zone *z, int64_t after)
{
    struct error e = ERROR_INIT;
    int64_t next = 0;

    if (calendar_next(c, z, after, &next, &e) != 0)
        fail_msg("%s", e.message);
    return next;
}

/* ---- what is a rule ---- */

static void test_accepted(void **state)
{
    static const char *const rules[] = {"00:00",
                                        "23:59",
                                        "03:00:30",
                                        "Sun 01:00",
                                        "mon 01:00:59",
                                        "SAT  23:00",
                                        "* * * * *",
                                        "0 3 * * *",
                                        "*/15 * * * *",
                                        "0-30/10 8-18 * * 1-5",
                                        "0 0 1,15 * *",
                                        "0 0 29 2 *",
                                        "0 0 31 1,3,5 *",
                                        "30 2 * * mon-fri",
                                        "30 2 * jan-MAR,Dec sat-sun",
                                        "5/20 * * * 7",
                                        "0\t0  *   *  0",
                                        "0 0 30 2 mon",
                                        "6h",
                                        "90m",
                                        "1d",
                                        "60s",
                                        "366d",
                                        "2w"};
    struct calendar c;

    for (size_t i = 0; i < COUNT(rules); i++)
        parse(rules[i], &c);
}

static void test_refused(void **state)
{
    static const char *const rules[] = {"",
                                        " ",
                                        "3:00",
                                        "03:0",
                                        "24:00",
                                        "03:60",
                                        "03:00:60",
                                        "03:00:",
                                        "03:00 ",
                                        "003:00",
                                        "Sun",
                                        "Sunday 01:00",
                                        "Sun01:00",
                                        "Sun 1:00",
                                        "0 01:00",
                                        "Son 01:00",
                                        "* * * *",
                                        "* * * * * *",
                                        "60 * * * *",
                                        "* 24 * * *",
                                        "* * 0 * *",
                                        "* * 32 * *",
                                        "* * * 0 *",
                                        "* * * 13 *",
                                        "* * * * 8",
                                        "*/0 * * * *",
                                        "*/60 * * * *",
                                        "5-3 * * * *",
                                        "1, * * * *",
                                        "a * * * *",
                                        "1- * * * *",
                                        "* * * Foo *",
                                        "1 2 3 4 Mo",
                                        "0 0 30 2 *",
                                        "0 0 31 4,6,9,11 *",
                                        "-1 * * * *",
                                        "1000000000000 * * * *",
                                        "6",
                                        "0h",
                                        "59s",
                                        "200ms",
                                        "367d",
                                        "61001ms",
                                        "-6h",
                                        "off",
                                        "@daily",
                                        "every day"};
    struct calendar c = {.second = 77};
    char huge[600];

    for (size_t i = 0; i < COUNT(rules); i++) {
        struct error e = ERROR_INIT;
        if (calendar_parse(rules[i], &c, &e) != ERR_USAGE)
            fail_msg("'%s' was taken", rules[i]);
        assert_non_null(strstr(e.message, rules[i]));
    }
    memset(huge, '1', sizeof(huge));
    huge[sizeof(huge) - 1] = 0;
    struct error e = ERROR_INIT;
    assert_int_equal(calendar_parse(huge, &c, &e), ERR_USAGE);
    assert_int_equal(c.second, 77);
}

/* ---- golden: where, rule, after (UTC), the next four in local time ---- */

struct golden {
    const char *place, *rule, *after;
    const char *next[4];
};

/* clang-format off */
static const struct golden goldens[] = {
    {"UTC", "03:00", "2026-11-21 02:59:59", {"2026-11-21 03:00:00 +0000", "2026-11-22 03:00:00 +0000",
                                             "2026-11-23 03:00:00 +0000", "2026-11-24 03:00:00 +0000"}},
    {"UTC", "03:00", "2026-11-21 03:00:00", {"2026-11-22 03:00:00 +0000"}},
    {"UTC", "03:00:30", "2026-11-21 03:00:00", {"2026-11-21 03:00:30 +0000", "2026-11-22 03:00:30 +0000"}},
    {"UTC", "00:00", "1969-12-30 12:00:00", {"1969-12-31 00:00:00 +0000", "1970-01-01 00:00:00 +0000"}},
    {"UTC", "Sun 01:00", "2026-11-21 12:00:00", {"2026-11-22 01:00:00 +0000", "2026-11-29 01:00:00 +0000"}},
    {"UTC", "0 0 29 2 *", "2026-11-21 00:00:00", {"2028-02-29 00:00:00 +0000", "2032-02-29 00:00:00 +0000"}},
    {"UTC", "0 0 29 2 *", "2096-03-01 00:00:00", {"2104-02-29 00:00:00 +0000"}},
    {"UTC", "0 0 31 * *", "2026-01-31 00:00:00", {"2026-03-31 00:00:00 +0000", "2026-05-31 00:00:00 +0000",
                                                  "2026-07-31 00:00:00 +0000", "2026-08-31 00:00:00 +0000"}},
    /* One of the two day fields is enough where both are given ... */
    {"UTC", "0 12 13 * fri", "2026-11-10 00:00:00", {"2026-11-13 12:00:00 +0000", "2026-11-20 12:00:00 +0000",
                                                     "2026-11-27 12:00:00 +0000", "2026-12-04 12:00:00 +0000"}},
    {"UTC", "0 12 25 * fri", "2026-11-21 00:00:00", {"2026-11-25 12:00:00 +0000", "2026-11-27 12:00:00 +0000"}},
    /* ... and both count where one begins with a star. */
    {"UTC", "0 0 */2 * mon", "2026-11-01 00:00:00", {"2026-11-09 00:00:00 +0000", "2026-11-23 00:00:00 +0000",
                                                     "2026-12-07 00:00:00 +0000", "2026-12-21 00:00:00 +0000"}},
    {"UTC", "*/20 8-9 * * mon-fri", "2026-11-20 09:21:00", {"2026-11-20 09:40:00 +0000", "2026-11-23 08:00:00 +0000",
                                                            "2026-11-23 08:20:00 +0000", "2026-11-23 08:40:00 +0000"}},
    {"UTC", "0 0 1 jan,jul *", "2026-11-21 00:00:00", {"2027-01-01 00:00:00 +0000", "2027-07-01 00:00:00 +0000"}},
    {"UTC", "0 1 * * sat-sun", "2026-11-21 12:00:00", {"2026-11-22 01:00:00 +0000", "2026-11-28 01:00:00 +0000"}},
    {"UTC", "0 1 * * 7", "2026-11-21 12:00:00", {"2026-11-22 01:00:00 +0000", "2026-11-29 01:00:00 +0000"}},
    {"UTC", "6h", "2026-11-21 12:00:00", {"2026-11-21 18:00:00 +0000", "2026-11-22 00:00:00 +0000"}},
    {"UTC", "90m", "1969-12-31 23:00:00", {"1970-01-01 00:00:00 +0000", "1970-01-01 01:30:00 +0000"}},

    {"Europe/Berlin", "02:30", "2026-03-27 12:00:00", {"2026-03-28 02:30:00 +0100", "2026-03-29 03:00:00 +0200",
                                                       "2026-03-30 02:30:00 +0200", "2026-03-31 02:30:00 +0200"}},
    {"Europe/Berlin", "02:30", "2026-10-23 12:00:00", {"2026-10-24 02:30:00 +0200", "2026-10-25 02:30:00 +0200",
                                                       "2026-10-26 02:30:00 +0100", "2026-10-27 02:30:00 +0100"}},
    /* Asked between the two: it has run. */
    {"Europe/Berlin", "02:30", "2026-10-25 01:15:00", {"2026-10-26 02:30:00 +0100"}},
    {"Europe/Berlin", "03:00", "2026-10-25 00:00:00", {"2026-10-25 03:00:00 +0100", "2026-10-26 03:00:00 +0100"}},
    {"Europe/Berlin", "*/20 2-3 * * *", "2026-03-29 00:30:00", {"2026-03-29 03:00:00 +0200", "2026-03-29 03:20:00 +0200",
                                                                "2026-03-29 03:40:00 +0200", "2026-03-30 02:00:00 +0200"}},
    {"Europe/Berlin", "30 * * * *", "2026-10-24 23:31:00", {"2026-10-25 02:30:00 +0200", "2026-10-25 03:30:00 +0100",
                                                            "2026-10-25 04:30:00 +0100"}},
    {"Europe/Berlin", "1h", "2026-10-25 00:00:00", {"2026-10-25 02:00:00 +0100", "2026-10-25 03:00:00 +0100"}},
    {"Europe/Berlin", "Sun 02:59:59", "2026-03-28 00:00:00", {"2026-03-29 03:00:00 +0200", "2026-04-05 02:59:59 +0200"}},

    {"America/New_York", "02:15", "2026-03-07 12:00:00", {"2026-03-08 03:00:00 -0400", "2026-03-09 02:15:00 -0400"}},
    {"America/New_York", "01:30", "2026-11-01 00:00:00", {"2026-11-01 01:30:00 -0400", "2026-11-02 01:30:00 -0500"}},
    {"America/New_York", "Sun 01:00", "2026-10-31 12:00:00", {"2026-11-01 01:00:00 -0400", "2026-11-08 01:00:00 -0500"}},

    /* Half an hour of summer time. */
    {"Australia/Lord_Howe", "02:15", "2026-10-02 20:00:00", {"2026-10-04 02:30:00 +1100", "2026-10-05 02:15:00 +1100"}},
    {"Australia/Lord_Howe", "02:30", "2026-10-03 00:00:00", {"2026-10-04 02:30:00 +1100", "2026-10-05 02:30:00 +1100"}},
    {"Australia/Lord_Howe", "01:45", "2026-04-04 00:00:00", {"2026-04-05 01:45:00 +1100", "2026-04-06 01:45:00 +1030"}},

    {"Asia/Kolkata", "00:10", "2026-11-20 18:40:00", {"2026-11-22 00:10:00 +0530", "2026-11-23 00:10:00 +0530"}},
    {"Asia/Kolkata", "1d", "2026-11-20 18:40:00", {"2026-11-21 05:30:00 +0530"}},

    /* Midnight itself is what is missing, or comes twice. */
    {"America/Sao_Paulo", "00:00", "2017-10-14 12:00:00", {"2017-10-15 01:00:00 -0200", "2017-10-16 00:00:00 -0200"}},
    {"America/Sao_Paulo", "00:30", "2018-11-03 12:00:00", {"2018-11-04 01:00:00 -0200", "2018-11-05 00:30:00 -0200"}},
    {"America/Sao_Paulo", "23:30", "2018-02-17 12:00:00", {"2018-02-17 23:30:00 -0200", "2018-02-18 23:30:00 -0300"}},
    {"America/Sao_Paulo", "00:00", "2018-02-18 01:59:00", {"2018-02-18 00:00:00 -0300", "2018-02-19 00:00:00 -0300"}},
    {"America/Sao_Paulo", "00:00", "2019-11-02 12:00:00", {"2019-11-03 00:00:00 -0300", "2019-11-04 00:00:00 -0300"}},

    /* A day left out is made up for at its end; a day that comes twice runs once. */
    {"Pacific/Apia", "12:00", "2011-12-29 00:00:00", {"2011-12-29 12:00:00 -1000", "2011-12-31 00:00:00 +1400",
                                                      "2011-12-31 12:00:00 +1400", "2012-01-01 12:00:00 +1400"}},
    {"Twice", "12:00", "2026-06-09 12:00:00", {"2026-06-10 12:00:00 +1200", "2026-06-11 12:00:00 -1200"}},
};
/* clang-format on */

static void local_text(const struct zone *z, int64_t s, char *out, size_t cap)
{
    int32_t east = z->offset_at(z->context, s);
    time_t wall = (time_t)(s + east);
    unsigned minutes = (unsigned)labs((long)east) / MINUTE;
    struct tm tm;

    gmtime_r(&wall, &tm);
    snprintf(out, cap, "%04d-%02d-%02d %02d:%02d:%02d %c%02u%02u", tm.tm_year + 1900, tm.tm_mon + 1,
             tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, east < 0 ? '-' : '+', minutes / 60,
             minutes % 60);
}

static void test_golden(void **state)
{
    for (size_t i = 0; i < COUNT(goldens); i++) {
        const struct golden *g = &goldens[i];
        struct zone z = zone_of(g->place);
        struct calendar c;
        int64_t s = utc(g->after);
        parse(g->rule, &c);
        for (size_t j = 0; j < COUNT(g->next) && g->next[j]; j++) {
            char text[64];
            s = next_of(&c, &z, s);
            local_text(&z, s, text, sizeof(text));
            if (strcmp(text, g->next[j]) != 0)
                fail_msg("%s, '%s' after %s: %s, not %s", g->place, g->rule, g->after, text,
                         g->next[j]);
        }
    }
}

static void test_bounds(void **state)
{
    static const int64_t far[] = {INT64_MIN, INT64_MAX, -62135596800, 253402300799};
    struct error e = ERROR_INIT;
    struct calendar c;
    int64_t next;

    parse("03:00", &c);
    for (size_t i = 0; i < COUNT(far); i++)
        assert_int_equal(calendar_next(&c, &zone_utc, far[i], &next, &e), ERR_USAGE);
    struct calendar never = c;
    never.days = 0;
    assert_int_equal(calendar_next(&never, &zone_utc, 0, &next, &e), ERR_USAGE);
}

/* ---- walked minute by minute ---- */

static bool matches(const struct calendar *c, int64_t wall)
{
    time_t t = (time_t)wall;
    struct tm tm;

    gmtime_r(&t, &tm);
    bool day = c->days >> tm.tm_mday & 1, weekday = c->weekdays >> tm.tm_wday & 1;
    return (c->minutes >> tm.tm_min & 1) && (c->hours >> tm.tm_hour & 1) &&
           (c->months >> (tm.tm_mon + 1) & 1) && (c->either_day ? day || weekday : day && weekday);
}

/* A minute of local time runs at the first instant at which the clock on the wall has reached it.
 */
static void walk(const char *place, const char *rule, int64_t from, int64_t to)
{
    struct zone z = zone_of(place);
    struct calendar c;
    int64_t next, reached = from + z.offset_at(z.context, from);

    parse(rule, &c);
    next = next_of(&c, &z, from);
    for (int64_t s = from + MINUTE; s <= to; s += MINUTE) {
        bool runs = false;
        for (int64_t wall = s + z.offset_at(z.context, s); reached < wall;) {
            reached += MINUTE;
            runs = runs || matches(&c, reached);
        }
        if (runs != (next == s))
            fail_msg("%s, '%s': at %lld %s", place, rule, (long long)s, runs ? "missed" : "wrong");
        if (runs)
            next = next_of(&c, &z, s);
    }
}

static void test_walk_years(void **state)
{
    static const char *const rules[] = {"02:30",         "00:00",         "Sun 01:30",
                                        "*/7 1-3 * * *", "17 2 13 * fri", "59 23 29-31 2-12/2 *"};

    for (size_t i = 0; i < COUNT(places); i++) {
        const struct place *p = &places[i];
        bool table = p->posix == NULL;
        int64_t from = utc(table ? p->changes[0].utc : "2027-07-01 00:00:00");
        for (size_t j = 0; j < COUNT(rules); j++)
            walk(p->name, rules[j], from, from + (table ? 800 : 400) * DAY);
    }
}

/* ---- what is due ---- */

static struct calendar_decision decide(const struct calendar *c, const struct zone *z, int64_t done,
                                       int64_t now)
{
    struct calendar_decision d;
    struct error e = ERROR_INIT;

    if (calendar_decide(c, z, done, now, &d, &e) != 0)
        fail_msg("%s", e.message);
    return d;
}

struct due {
    const char *what, *rule, *done, *now;
    bool due;
    const char *slot, *next;
};

/* clang-format off */
static const struct due dues[] = {
    {"set up today", "03:00", "2026-11-21 10:00:00", "2026-11-21 10:00:00",
     false, "2026-11-21 10:00:00", "2026-11-22 03:00:00"},
    {"not yet", "03:00", "2026-11-20 03:00:00", "2026-11-21 02:59:59",
     false, "2026-11-20 03:00:00", "2026-11-21 03:00:00"},
    {"on time", "03:00", "2026-11-20 03:00:00", "2026-11-21 03:00:00",
     true, "2026-11-21 03:00:00", "2026-11-22 03:00:00"},
    {"it has run", "03:00", "2026-11-21 03:00:00", "2026-11-21 03:00:00",
     false, "2026-11-21 03:00:00", "2026-11-22 03:00:00"},
    {"off for a week, or asleep, or the clock jumped", "03:00", "2026-11-14 03:00:00", "2026-11-21 10:00:00",
     true, "2026-11-21 03:00:00", "2026-11-22 03:00:00"},
    {"off for ten years", "* * * * *", "2016-11-14 03:00:00", "2026-11-21 10:00:30",
     true, "2026-11-21 10:00:00", "2026-11-21 10:01:00"},
    {"back by two seconds", "03:00", "2026-11-21 03:00:00", "2026-11-21 02:59:58",
     false, "2026-11-21 03:00:00", "2026-11-22 03:00:00"},
    {"back by two seconds since the first look", "03:00", "2026-11-21 10:00:00", "2026-11-21 09:59:58",
     false, "2026-11-21 10:00:00", "2026-11-22 03:00:00"},
    {"back by a day", "03:00", "2026-11-21 03:00:00", "2026-11-20 03:00:01",
     false, "2026-11-21 03:00:00", "2026-11-22 03:00:00"},
    {"back from a wrong year", "03:00", "2040-01-01 03:00:00", "2026-11-21 10:00:00",
     false, "2026-11-21 10:00:00", "2026-11-22 03:00:00"},
    {"29 February, made up on a later day", "0 0 29 2 *", "2024-02-29 00:00:00", "2028-05-01 00:00:00",
     true, "2028-02-29 00:00:00", "2032-02-29 00:00:00"},
    {"an interval missed", "6h", "2026-11-20 06:00:00", "2026-11-21 07:00:00",
     true, "2026-11-21 06:00:00", "2026-11-21 12:00:00"},
};
/* clang-format on */

static void test_due(void **state)
{
    for (size_t i = 0; i < COUNT(dues); i++) {
        const struct due *t = &dues[i];
        struct calendar c;
        parse(t->rule, &c);
        struct calendar_decision d = decide(&c, &zone_utc, utc(t->done), utc(t->now));
        if (d.due != t->due || d.slot != utc(t->slot) || d.next != utc(t->next))
            fail_msg("%s: due %d, slot %lld, next %lld", t->what, d.due, (long long)d.slot,
                     (long long)d.next);
    }
}

/* Time passes in odd steps, with stops of weeks and small steps back: every slot that passed is
 * made up, none runs twice. */
static void test_never_doubled_never_skipped(void **state)
{
    static const char *const rules[] = {"02:30", "*/30 * * * *", "Sun 01:00", "5h"};
    struct zone z = zone_of("Europe/Berlin");
    unsigned seed = 4;

    for (size_t i = 0; i < COUNT(rules); i++) {
        struct calendar c;
        int64_t now = utc("2026-01-01 00:00:00"), done = now, latest = now, last_run = 0;
        parse(rules[i], &c);
        for (int step = 0; step < 20000; step++) {
            int kind = rand_r(&seed) % 100;
            if (kind == 0)
                now += rand_r(&seed) % (20 * DAY);
            else if (kind < 10)
                now -= rand_r(&seed) % 120;
            else
                now += rand_r(&seed) % (2 * HOUR);
            latest = now > latest ? now : latest;
            struct calendar_decision d = decide(&c, &z, done, now);
            assert_true(d.next > now);
            if (d.due) {
                assert_true(d.slot > last_run && d.slot <= now);
                last_run = d.slot;
            }
            done = d.slot;
            assert_true(next_of(&c, &z, done) > latest);
        }
    }
}

/* A clock that is wrong for a while, by years: afterwards each day has its run again. */
static void test_clock_was_wrong(void **state)
{
    struct zone z = zone_of("Europe/Berlin");
    struct calendar c;
    int64_t start = utc("2026-11-01 12:00:00"), done = start;
    int runs = 0;

    parse("03:00", &c);
    for (int hour = 0; hour < 20 * 24; hour++) {
        bool wrong = hour >= 24 * 5 && hour < 24 * 5 + 2;
        struct calendar_decision d =
            decide(&c, &z, done, start + (int64_t)hour * HOUR + (wrong ? 3000 * (int64_t)DAY : 0));
        runs += d.due;
        done = d.slot;
    }
    assert_int_equal(runs, 20 + 1); /* one of them in the wrong time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_walk_years),
        cmocka_unit_test(test_due),
        cmocka_unit_test(test_never_doubled_never_skipped),
        cmocka_unit_test(test_clock_was_wrong),
    };

    return cmocka_run_group_tests_name("calendar", tests, NULL, NULL);
}
