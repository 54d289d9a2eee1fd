#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "keep/retention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/banned.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { ITEMS_MAX = 128, DAY = 86400 };

/* ---- golden tables ----
 *
 * policy RULE=N ...
 * now TIME
 * NUMBER TIME FLAGS [SIZE] | what becomes of it
 *
 * TIME is local with its offset from UTC. FLAGS: g good, u not verified yet, b neither; s suspect,
 * f safety, p pinned, n named. What is dropped begins with '-'. */

static const char *const goldens[] = {
    /* Nothing is there, or little: the floor takes all. */
    "policy\n"
    "now 2026-11-21 12:00 +0000\n",

    "policy\n"
    "now 2026-11-21 12:00 +0000\n"
    "1 2020-01-01 00:00 +0000 g | floor: one of the 3 newest good\n"
    "2 2020-01-01 00:01 +0000 g | floor: one of the 3 newest good\n",

    /* Three of one day do not make up for the days before. */
    "policy keep_last=1\n"
    "now 2026-11-21 12:00 +0000\n"
    "1 2026-11-16 10:00 +0000 g | -no rule keeps it\n"
    "2 2026-11-17 10:00 +0000 g | -no rule keeps it\n"
    "3 2026-11-18 10:00 +0000 g | -no rule keeps it\n"
    "4 2026-11-18 11:00 +0000 g | floor: last good of 2026-11-18\n"
    "5 2026-11-20 10:00 +0000 g | -no rule keeps it\n"
    "6 2026-11-20 11:00 +0000 g | floor: last good of 2026-11-20\n"
    "7 2026-11-21 09:00 +0000 g | floor: one of the 3 newest good\n"
    "8 2026-11-21 10:00 +0000 g | floor: one of the 3 newest good\n"
    "9 2026-11-21 11:00 +0000 g | one of the last 1\n",

    /* keep_days goes by 24 hours, both ends included. */
    "policy keep_days=7\n"
    "now 2026-11-21 12:00 +0000\n"
    "1 2026-11-14 11:59 +0000 g | -no rule keeps it\n"
    "2 2026-11-14 12:00 +0000 b | within 7 days\n"
    "3 2026-11-19 12:00 +0000 g | within 7 days\n"
    "4 2026-11-20 12:00 +0000 u | within 7 days\n"
    "5 2026-11-20 13:00 +0000 g | within 7 days\n"
    "6 2026-11-21 12:00 +0000 g | within 7 days\n",

    /* A day is the local one: these two lie on one day of UTC. */
    "policy keep_daily=30\n"
    "now 2026-11-21 12:00 +0000\n"
    "1 2026-11-01 10:00 +0100 g | -no rule keeps it\n"
    "2 2026-11-01 23:30 +0100 g | last good of 2026-11-01\n"
    "3 2026-11-02 00:30 +0100 g | last good of 2026-11-02\n"
    "4 2026-11-03 00:30 +0100 g | last good of 2026-11-03\n"
    "5 2026-11-04 00:30 +0100 g | last good of 2026-11-04\n",

    /* What is not good takes no good one's place; what is not verified yet stands beside it. */
    "policy keep_daily=3\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g | -no rule keeps it\n"
    "2 2026-11-11 10:00 +0000 g | last good of 2026-11-11\n"
    "3 2026-11-12 10:00 +0000 g | last good of 2026-11-12\n"
    "4 2026-11-12 11:00 +0000 b | -no rule keeps it\n"
    "5 2026-11-13 10:00 +0000 g | last good of 2026-11-13\n"
    "6 2026-11-13 11:00 +0000 u | last of 2026-11-13\n"
    "7 2026-11-14 10:00 +0000 gs | -no rule keeps it\n"
    "8 2026-11-15 10:00 +0000 u | last of 2026-11-15\n"
    "9 2026-11-16 10:00 +0000 u | last of 2026-11-16\n"
    "10 2026-11-17 10:00 +0000 b | floor: one of the 3 newest\n",

    /* The last N, and besides them the last N good ones. */
    "policy keep_last=4\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g | -no rule keeps it\n"
    "2 2026-11-11 10:00 +0000 g | one of the last 4\n"
    "3 2026-11-12 10:00 +0000 g | one of the last 4\n"
    "4 2026-11-13 10:00 +0000 g | one of the last 4\n"
    "5 2026-11-13 11:00 +0000 b | -no rule keeps it\n"
    "6 2026-11-14 10:00 +0000 b | one of the last 4\n"
    "7 2026-11-15 10:00 +0000 g | one of the last 4\n"
    "8 2026-11-16 10:00 +0000 b | one of the last 4\n"
    "9 2026-11-16 10:00 +0000 b | one of the last 4\n",

    /* Hours, also the doubled one. */
    "policy keep_hourly=4\n"
    "now 2026-10-25 12:00 +0000\n"
    "1 2026-10-25 00:10 +0200 g | -no rule keeps it\n"
    "2 2026-10-25 01:10 +0200 g | last good of 2026-10-25 01:00\n"
    "3 2026-10-25 02:10 +0200 g | -no rule keeps it\n"
    "4 2026-10-25 02:50 +0200 g | last good of 2026-10-25 02:00\n"
    "5 2026-10-25 02:10 +0100 g | last good of 2026-10-25 02:00\n"
    "6 2026-10-25 03:00 +0100 g | floor: one of the 3 newest good\n"
    "7 2026-10-25 03:10 +0100 g | last good of 2026-10-25 03:00\n",

    /* Weeks begin on Monday, also across the end of a year. */
    "policy keep_weekly=2 keep_monthly=3 keep_yearly=4\n"
    "now 2027-01-10 12:00 +0000\n"
    "1 2024-12-30 10:00 +0000 g | last good of 2024\n"
    "2 2025-06-01 10:00 +0000 g | -no rule keeps it\n"
    "3 2025-12-31 10:00 +0000 g | last good of 2025\n"
    "4 2026-11-30 10:00 +0000 g | last good of 2026-11\n"
    "5 2026-12-27 10:00 +0000 g | last good of the week of 2026-12-21\n"
    "6 2026-12-28 10:00 +0000 g | -no rule keeps it\n"
    "7 2026-12-31 10:00 +0000 g | last good of 2026-12\n"
    "8 2027-01-02 10:00 +0000 g | floor: one of the 3 newest good\n"
    "9 2027-01-03 10:00 +0000 g | last good of the week of 2026-12-28\n",

    /* Pins and names stay, whatever they are. */
    "policy keep_last=1\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2020-11-10 10:00 +0000 bp | pinned\n"
    "2 2020-11-10 10:00 +0000 gpn | pinned\n"
    "3 2020-11-11 10:00 +0000 un | named\n"
    "4 2020-11-12 10:00 +0000 bsn | named\n"
    "5 2020-11-12 10:00 +0000 u | -no rule keeps it\n"
    "6 2026-11-11 10:00 +0000 g | floor: one of the 3 newest good\n"
    "7 2026-11-11 11:00 +0000 g | floor: one of the 3 newest good\n"
    "8 2026-11-11 12:00 +0000 g | one of the last 1\n",

    /* Safety snapshots: the floor holds with them and without. */
    "policy keep_last=1\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-09 10:00 +0000 g | -no rule keeps it\n"
    "2 2026-11-10 10:00 +0000 g | floor: last good of 2026-11-10\n"
    "3 2026-11-11 10:00 +0000 g | floor: last good of 2026-11-11\n"
    "4 2026-11-12 09:00 +0000 gf | -no rule keeps it\n"
    "5 2026-11-12 10:00 +0000 g | floor: one of the 3 newest good\n"
    "6 2026-11-12 11:00 +0000 g | floor: one of the 3 newest good\n"
    "7 2026-11-12 12:00 +0000 gf | floor: one of the 3 newest good\n"
    "8 2026-11-13 13:00 +0000 gf | one of the last 1\n",

    /* No good one at all: the newest stay, so that there is something. */
    "policy keep_hourly=1\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 b | -no rule keeps it\n"
    "2 2026-11-11 10:00 +0000 b | floor: one of the 3 newest\n"
    "3 2026-11-12 10:00 +0000 u | last of 2026-11-12 10:00\n"
    "4 2026-11-12 11:00 +0000 b | floor: one of the 3 newest\n",

    /* keep_min makes the floor higher, never lower. */
    "policy keep_min=5\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g | -no rule keeps it\n"
    "2 2026-11-10 11:00 +0000 g | floor: one of the 5 newest good\n"
    "3 2026-11-10 12:00 +0000 g | floor: one of the 5 newest good\n"
    "4 2026-11-10 13:00 +0000 g | floor: one of the 5 newest good\n"
    "5 2026-11-10 14:00 +0000 g | floor: one of the 5 newest good\n"
    "6 2026-11-10 15:00 +0000 g | floor: one of the 5 newest good\n",

    "policy keep_min=1 max_size=1\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g 100 | -no rule keeps it\n"
    "2 2026-11-10 11:00 +0000 g 100 | floor: one of the 3 newest good\n"
    "3 2026-11-10 12:00 +0000 g 100 | floor: one of the 3 newest good\n"
    "4 2026-11-10 13:00 +0000 g 100 | floor: one of the 3 newest good\n",

    /* Size: known bad ones first, then the oldest, until it fits; never pins nor the floor. */
    "policy keep_days=30 max_size=600 size_besides=50\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g 100 | -beyond max_size\n"
    "2 2026-11-11 10:00 +0000 gp 100 | pinned\n"
    "3 2026-11-12 10:00 +0000 g 100 | -beyond max_size\n"
    "4 2026-11-13 10:00 +0000 g 100 | within 30 days\n"
    "5 2026-11-14 10:00 +0000 b 100 | -beyond max_size\n"
    "6 2026-11-15 10:00 +0000 u 10 | within 30 days\n"
    "7 2026-11-16 10:00 +0000 g 100 | within 30 days\n"
    "8 2026-11-17 10:00 +0000 g 100 | within 30 days\n"
    "9 2026-11-18 10:00 +0000 g 100 | within 30 days\n",

    "policy keep_days=30 max_size=100\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-12 10:00 +0000 g 100 | -beyond max_size\n"
    "2 2026-11-13 10:00 +0000 g 100 | floor: one of the 3 newest good\n"
    "3 2026-11-14 10:00 +0000 g 100 | floor: one of the 3 newest good\n"
    "4 2026-11-15 10:00 +0000 b 100 | -beyond max_size\n"
    "5 2026-11-16 10:00 +0000 b 100 | floor: one of the 3 newest\n"
    "6 2026-11-17 10:00 +0000 u 100 | floor: one of the 3 newest\n"
    "7 2026-11-18 10:00 +0000 g 100 | floor: one of the 3 newest good\n",

    /* Labels that are wrong: of 1970 (the machine had no clock), of 2040. The first is no older
     * than what was before it; the second ages with what comes after it. */
    "policy keep_days=7\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g | -no rule keeps it\n"
    "2 1970-01-01 00:10 +0000 g | -no rule keeps it\n"
    "3 2026-11-24 10:00 +0000 g | within 7 days\n"
    "4 1970-01-01 00:20 +0000 g | within 7 days\n"
    "5 2026-11-28 10:00 +0000 g | within 7 days\n"
    "6 2026-11-29 10:00 +0000 g | within 7 days\n"
    "7 2026-11-30 10:00 +0000 g | within 7 days\n",

    "policy keep_days=7\n"
    "now 2026-12-30 12:00 +0000\n"
    "1 2026-11-10 10:00 +0000 g | -no rule keeps it\n"
    "2 2040-01-01 00:10 +0000 g | -no rule keeps it\n"
    "3 2040-01-02 00:20 +0000 g | floor: last good of 2040-01-02\n"
    "4 2026-11-12 10:00 +0000 g | -no rule keeps it\n"
    "5 2026-12-28 10:00 +0000 g | within 7 days\n"
    "6 2026-12-29 10:00 +0000 g | within 7 days\n"
    "7 2026-12-30 10:00 +0000 g | within 7 days\n"
    "8 2040-01-01 10:00 +0000 g | within 7 days\n",

    /* The clock went back by two days: the latest days by number and by label. */
    "policy keep_last=1\n"
    "now 2026-11-30 12:00 +0000\n"
    "1 2026-11-14 10:00 +0000 g | floor: last good of 2026-11-14\n"
    "2 2026-11-15 10:00 +0000 g | floor: last good of 2026-11-15\n"
    "3 2026-11-16 10:00 +0000 g | floor: last good of 2026-11-16\n"
    "4 2026-11-10 10:00 +0000 g | floor: last good of 2026-11-10\n"
    "5 2026-11-11 10:00 +0000 g | -no rule keeps it\n"
    "6 2026-11-11 11:00 +0000 g | floor: one of the 3 newest good\n"
    "7 2026-11-11 12:00 +0000 g | floor: one of the 3 newest good\n"
    "8 2026-11-11 13:00 +0000 g | one of the last 1\n",
};

struct scene {
    struct keep_policy policy;
    int64_t now;
    struct keep_item items[ITEMS_MAX];
    char expected[ITEMS_MAX][KEEP_TEXT_MAX];
    struct keep_decision out[ITEMS_MAX];
    size_t count;
};

static int64_t take_time(const char *text, int32_t *east)
{
    struct tm tm = {0};
    char sign;
    int hours, minutes;

    if (sscanf(text, "%d-%d-%d %d:%d %c%2d%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
               &tm.tm_min, &sign, &hours, &minutes) != 8)
        fail_msg("no time: '%s'", text);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    *east = (sign == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
    return (int64_t)timegm(&tm) - *east;
}

static void take_rule(struct keep_policy *p, const char *word)
{
    const char *value = strchr(word, '=');
    size_t len = (size_t)(value - word);
    unsigned long n = strtoul(value + 1, NULL, 10);
    const struct {
        const char *name;
        uint32_t *value;
    } rules[] = {{"keep_min", &p->keep_min},         {"keep_days", &p->keep_days},
                 {"keep_last", &p->keep_last},       {"keep_hourly", &p->keep_hourly},
                 {"keep_daily", &p->keep_daily},     {"keep_weekly", &p->keep_weekly},
                 {"keep_monthly", &p->keep_monthly}, {"keep_yearly", &p->keep_yearly}};

    for (size_t i = 0; i < COUNT(rules); i++) {
        if (strncmp(rules[i].name, word, len) == 0 && !rules[i].name[len])
            *rules[i].value = (uint32_t)n;
    }
    if (strncmp(word, "max_size", len) == 0)
        p->max_size = n;
    if (strncmp(word, "size_besides", len) == 0)
        p->size_besides = n;
}

static void take_item(struct scene *s, const char *line)
{
    struct keep_item *item = &s->items[s->count];
    char flags[16] = "";
    unsigned long long number, size = 0;
    int at = 0;
    const char *bar = strchr(line, '|');

    assert_int_equal(sscanf(line, "%llu %n", &number, &at), 1);
    item->time = take_time(line + at, &item->utc_offset);
    assert_true(sscanf(line + at, "%*s %*s %*s %15s %llu", flags, &size) >= 1);
    item->number = number;
    item->size = size;
    item->good = strchr(flags, 'g') != NULL;
    item->unproven = strchr(flags, 'u') != NULL;
    item->suspect = strchr(flags, 's') != NULL;
    item->safety = strchr(flags, 'f') != NULL;
    item->pinned = strchr(flags, 'p') != NULL;
    item->named = strchr(flags, 'n') != NULL;
    snprintf(s->expected[s->count], KEEP_TEXT_MAX, "%s", bar + 2);
    s->count++;
}

static void read_scene(const char *text, struct scene *s)
{
    char *copy = strdup(text), *rest = copy, *line, *word;
    int32_t east;

    *s = (struct scene){.count = 0};
    while ((line = strsep(&rest, "\n")) != NULL && *line) {
        if (strncmp(line, "now ", 4) == 0) {
            s->now = take_time(line + 4, &east);
        } else if (strncmp(line, "policy", 6) == 0) {
            strsep(&line, " ");
            while ((word = strsep(&line, " ")) != NULL)
                take_rule(&s->policy, word);
        } else {
            take_item(s, line);
        }
    }
    free(copy);
}

static void plan(struct scene *s)
{
    struct error e = ERROR_INIT;

    if (retention_plan(s->items, s->count, &s->policy, s->now, s->out, &e) != 0)
        fail_msg("%s", e.message);
}

static bool floor_holds(const struct scene *s)
{
    bool drop[ITEMS_MAX];

    for (size_t i = 0; i < s->count; i++)
        drop[i] = !s->out[i].keep;
    return retention_floor_holds(s->items, s->count, drop);
}

static void test_golden(void **state)
{
    for (size_t i = 0; i < COUNT(goldens); i++) {
        struct scene s;
        read_scene(goldens[i], &s);
        plan(&s);
        for (size_t j = 0; j < s.count; j++) {
            char text[KEEP_TEXT_MAX + 1] = "-";
            bool keep = s.out[j].keep;
            retention_text(&s.items[j], &s.policy, &s.out[j], text + !keep);
            if (strcmp(text, s.expected[j]) != 0)
                fail_msg("%s\nitem %zu: '%s'", goldens[i], j + 1, text);
        }
        assert_true(floor_holds(&s));
    }
}

/* ---- random ones ---- */

static bool one_in(unsigned *seed, int n)
{
    return rand_r(seed) % n == 0;
}

static uint32_t some(unsigned *seed, int most)
{
    return one_in(seed, 2) ? 0 : (uint32_t)(rand_r(seed) % (most + 1));
}

static void random_scene(struct scene *s, unsigned *seed, bool odd_clock)
{
    static const int32_t offsets[] = {0, 3600, 7200, -18000, 37800, -43200, 50400};
    int64_t t = 1790000000;
    int step = 1 + rand_r(seed) % (3 * DAY);

    *s = (struct scene){.count = (size_t)(rand_r(seed) % ITEMS_MAX)};
    for (size_t i = 0; i < s->count; i++) {
        int kind = rand_r(seed) % 8;
        t += rand_r(seed) % step;
        s->items[i] = (struct keep_item){
            .number = i * 2 + 7,
            .time = t,
            .utc_offset = offsets[one_in(seed, 10) ? rand_r(seed) % 7 : 1],
            .good = kind < 4,
            .unproven = kind == 4,
            .pinned = one_in(seed, 20),
            .named = one_in(seed, 20),
            .suspect = one_in(seed, 15),
            .safety = one_in(seed, 8),
            .size = (uint64_t)(rand_r(seed) % 1000),
        };
        if (odd_clock && one_in(seed, 10))
            s->items[i].time =
                one_in(seed, 2) ? INT64_MIN : t + rand_r(seed) % (400 * DAY) - 200 * DAY;
        if (odd_clock && one_in(seed, 60))
            s->items[i].time = INT64_MAX;
    }
    s->now = odd_clock && one_in(seed, 4) ? INT64_MAX : t + rand_r(seed) % (20 * DAY);
    s->policy = (struct keep_policy){
        .keep_min = some(seed, 8),
        .keep_days = some(seed, 20),
        .keep_last = some(seed, 20),
        .keep_hourly = some(seed, 20),
        .keep_daily = some(seed, 20),
        .keep_weekly = some(seed, 8),
        .keep_monthly = some(seed, 5),
        .keep_yearly = some(seed, 3),
        .max_size = some(seed, 30000),
        .size_besides = some(seed, 3000),
    };
}

static int64_t day_of(const struct keep_item *i)
{
    int64_t s = i->time + i->utc_offset;

    return s / DAY - (s % DAY < 0);
}

/* Said again in the plainest way: a good one that is dropped has another good one of its day after
 * it, or good ones of three other days; and three good ones are left. */
static void check_floor(const struct scene *s, bool safety_too)
{
    size_t good = 0, kept = 0;

    for (size_t i = 0; i < s->count; i++) {
        const struct keep_item *item = &s->items[i];
        if (!item->good || item->suspect || (item->safety && !safety_too))
            continue;
        good++;
        kept += s->out[i].keep;
        if (s->out[i].keep)
            continue;
        bool newest_of_day = true;
        size_t later_days = 0;
        for (size_t j = i + 1; j < s->count; j++) {
            const struct keep_item *other = &s->items[j];
            if (!other->good || other->suspect || (other->safety && !safety_too))
                continue;
            if (day_of(other) == day_of(item))
                newest_of_day = false;
            bool first = true; /* of its day, among those after i */
            for (size_t k = i + 1; k < j; k++) {
                const struct keep_item *between = &s->items[k];
                bool good_too =
                    between->good && !between->suspect && (!between->safety || safety_too);
                first = first && !(good_too && day_of(between) == day_of(other));
            }
            later_days += first && day_of(other) != day_of(item);
        }
        assert_true(!newest_of_day || later_days >= KEEP_FLOOR);
    }
    assert_true(kept >= KEEP_FLOOR || kept == good);
}

static void test_floor_always_holds(void **state)
{
    unsigned seed = 17;
    struct scene s;

    for (int round = 0; round < 4000; round++) {
        random_scene(&s, &seed, round % 2 != 0);
        plan(&s);
        assert_true(floor_holds(&s));
        if (round % 2 == 0) {
            check_floor(&s, true);
            check_floor(&s, false);
        }
        for (size_t i = 0; i < s.count; i++) {
            bool marked = s.items[i].pinned || s.items[i].named;
            assert_true(s.out[i].keep || !marked);
            bool reason = s.out[i].reason != KEEP_BY_NONE && s.out[i].reason != KEEP_BY_SIZE;
            assert_int_equal(reason, s.out[i].keep);
        }
    }
}

/* What is left is left again. */
static void test_idempotent(void **state)
{
    unsigned seed = 23;
    struct scene s;

    for (int round = 0; round < 4000; round++) {
        size_t left = 0;
        random_scene(&s, &seed, round % 2 != 0);
        if (round % 2 != 0)
            s.policy.max_size = 0;
        plan(&s);
        for (size_t i = 0; i < s.count; i++) {
            if (s.out[i].keep)
                s.items[left++] = s.items[i];
        }
        s.count = left;
        plan(&s);
        for (size_t i = 0; i < s.count; i++)
            assert_true(s.out[i].keep);
    }
}

/* One rule more, or one size limit less, never drops anything that stayed without. */
static void test_rules_only_add(void **state)
{
    unsigned seed = 29;
    struct scene a, b;

    for (int round = 0; round < 2000; round++) {
        random_scene(&a, &seed, round % 2 != 0);
        a.policy.max_size = 0;
        b = a;
        b.policy.keep_daily += 3;
        b.policy.keep_days += 1;
        b.policy.keep_last += 1;
        plan(&a);
        plan(&b);
        for (size_t i = 0; i < a.count; i++)
            assert_true(!a.out[i].keep || b.out[i].keep);
    }
}

/* What is not good changes nothing for the good ones, size limits aside. */
static void test_bad_ones_push_nothing_out(void **state)
{
    unsigned seed = 31;
    struct scene a, b;

    for (int round = 0; round < 2000; round++) {
        random_scene(&a, &seed, false);
        a.policy.max_size = 0;
        b = a;
        b.count = 0;
        for (size_t i = 0; i < a.count; i++) {
            if (a.items[i].good && !a.items[i].suspect)
                b.items[b.count++] = a.items[i];
        }
        plan(&a);
        plan(&b);
        for (size_t i = 0, j = 0; i < a.count; i++) {
            if (a.items[i].good && !a.items[i].suspect) {
                assert_true(a.out[i].keep || !b.out[j].keep);
                j++;
            }
        }
    }
}

static void test_floor_check_says_no(void **state)
{
    struct scene s;
    bool drop[8] = {false};

    read_scene("policy\n"
               "now 2026-11-21 12:00 +0000\n"
               "1 2026-11-16 10:00 +0000 g | \n"
               "2 2026-11-17 10:00 +0000 g | \n"
               "3 2026-11-18 10:00 +0000 g | \n"
               "4 2026-11-18 11:00 +0000 g | \n"
               "5 2026-11-18 12:00 +0000 g | \n"
               "6 2026-11-18 13:00 +0000 b | \n"
               "7 2026-11-18 14:00 +0000 gs | \n",
               &s);
    assert_true(retention_floor_holds(s.items, s.count, drop));
    drop[3] = drop[2] = drop[5] = drop[6] = true;
    assert_true(retention_floor_holds(s.items, s.count, drop));
    drop[1] = true; /* the newest of the second latest day */
    assert_false(retention_floor_holds(s.items, s.count, drop));
    drop[1] = false;
    drop[4] = true; /* the newest of the latest day */
    assert_false(retention_floor_holds(s.items, s.count, drop));
    s.count = 3;
    drop[2] = false;
    assert_true(retention_floor_holds(s.items, s.count, drop));
    drop[0] = true; /* two are left of three */
    assert_false(retention_floor_holds(s.items, s.count, drop));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_floor_always_holds),
        cmocka_unit_test(test_idempotent),
        cmocka_unit_test(test_rules_only_add),
        cmocka_unit_test(test_bad_ones_push_nothing_out),
        cmocka_unit_test(test_floor_check_says_no),
    };

    return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
