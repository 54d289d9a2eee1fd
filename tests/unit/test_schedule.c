/* Timed jobs over simulated time: years pass without a timer, a thread or a repository. */
#include "service/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/banned.h"

enum { HOUR = 3600, DAY = 86400, RUNS_MAX = 4000 };

/* 2026-01-01T00:00:00Z, a Thursday. */
static const int64_t new_year = 1767225600;

struct run {
    enum timed_kind kind;
    char watch[8];
    int64_t slot, at; /* at: true time */
    unsigned attempt;
};

/* A machine: what the time really is, what its clocks show, and what ran on it. */
struct world {
    int64_t now;    /* true time */
    int64_t wrong;  /* how far the wall clock is off */
    int64_t asleep; /* seconds the machine was switched off; the boot clock begins anew */
    int32_t east;   /* INT32_MIN: New York with its summer time */
    struct zone zone;
    struct schedule *s;
    struct run *runs;
    size_t count;
    int fail;   /* so many runs to come fail */
    bool held;  /* nothing can run */
    bool later; /* a run does not end at once */
    struct timed *open;
    char kept[TIMED_KINDS][TIMED_STATE_MAX]; /* what survives a restart, of "a" or of all */
    int moved;
};

static int32_t offset_at(void *ctx, int64_t s)
{
    const struct world *w = ctx;

    if (w->east != INT32_MIN)
        return w->east;
    /* 8 March 07:00Z to 1 November 06:00Z of 2026 */
    return s >= 1772953200 && s < 1793512800 ? -4 * HOUR : -5 * HOUR;
}

static int64_t wall_s(void *ctx)
{
    const struct world *w = ctx;

    return w->now + w->wrong;
}

static uint64_t boot_ms(void *ctx)
{
    const struct world *w = ctx;

    return (uint64_t)(w->now - w->asleep - new_year + DAY) * 1000;
}

static void end_run(struct world *w, struct timed *t)
{
    struct error e = ERROR_INIT;
    int rc = 0;

    if (w->fail > 0) {
        w->fail--;
        rc = error_set(&e, ERR_FAILED, "the folder cannot be written");
    } else if (!t->watch || strcmp(t->watch, "a") == 0) {
        timed_state(t, true, w->kept[t->kind]);
    }
    schedule_ended(w->s, t, rc, &e);
}

static bool begin(void *ctx, struct timed *t)
{
    struct world *w = ctx;
    struct run *r = &w->runs[w->count];

    if (w->held)
        return false;
    assert_true(w->count < RUNS_MAX);
    w->count++;
    *r = (struct run){.kind = t->kind, .slot = t->slot, .at = w->now, .attempt = t->attempt};
    snprintf(r->watch, sizeof(r->watch), "%s", t->watch ? t->watch : "");
    w->open = t;
    if (!w->later)
        end_run(w, t);
    return true;
}

static void moved(void *ctx, const struct timed *t)
{
    struct world *w = ctx;

    w->moved++;
    if (!t->watch || strcmp(t->watch, "a") == 0)
        timed_state(t, false, w->kept[t->kind]);
}

static void have(struct world *w, enum timed_kind kind, const char *watch, const char *rule)
{
    struct error e = ERROR_INIT;

    assert_int_equal(schedule_set(w->s, kind, watch, rule, &e), 0);
    struct timed *t = schedule_find(w->s, kind, watch);
    assert_non_null(t);
    assert_true(schedule_known(w->s, t, w->kept[kind]));
}

static void start(struct world *w)
{
    const struct schedule_clock clock = {
        .wall_s = wall_s, .boot_ms = boot_ms, .zone = &w->zone, .ctx = w};
    const struct schedule_calls calls = {.begin = begin, .moved = moved, .ctx = w};

    schedule_free(w->s);
    w->s = schedule_new(&clock, &calls);
    assert_non_null(w->s);
    schedule_retries(w->s, 3, 60000);
}

static void set_up(struct world *w, int64_t now)
{
    *w = (struct world){.now = now, .zone = {.offset_at = offset_at}, .east = INT32_MIN};
    w->zone.context = w;
    w->runs = calloc(RUNS_MAX, sizeof(*w->runs));
    assert_non_null(w->runs);
    for (int i = 0; i < TIMED_KINDS; i++)
        snprintf(w->kept[i], TIMED_STATE_MAX, "%lld", (long long)now);
    start(w);
}

static void tear_down(struct world *w)
{
    schedule_free(w->s);
    free(w->runs);
}

/* As the service: woken at the moment that is due, and not in between. */
static void pass_until(struct world *w, int64_t end)
{
    while (w->now < end) {
        int64_t due = schedule_due(w->s);
        int64_t at = due == INT64_MAX ? end : due - w->wrong;
        if (due != INT64_MIN && at > w->now)
            w->now = at < end ? at : end;
        if (w->now < end || at <= end)
            schedule_tick(w->s);
        assert_true(schedule_due(w->s) > w->now + w->wrong || w->held);
    }
}

/* ---- a year ---- */

/* The instant of a local time of day on a local day of 2026. */
static int64_t instant(struct world *w, int day, int seconds)
{
    int64_t wall = new_year + (int64_t)day * DAY + seconds;
    int64_t s = wall - offset_at(w, wall + 5 * HOUR);

    /* the hour that the spring does not have */
    return day == 66 && seconds >= 2 * HOUR && seconds < 3 * HOUR ? 1772953200 : s;
}

static size_t runs_of(const struct world *w, const char *watch, int64_t from, int64_t to)
{
    size_t n = 0;

    for (size_t i = 0; i < w->count; i++)
        n +=
            strcmp(w->runs[i].watch, watch) == 0 && w->runs[i].slot >= from && w->runs[i].slot < to;
    return n;
}

static void one_run_each_day(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    have(&w, TIMED_ARCHIVE, "b", "03:00");
    have(&w, TIMED_ARCHIVE, "doubled", "01:30");
    have(&w, TIMED_ARCHIVE, "skipped", "02:30");
    pass_until(&w, instant(&w, 365, 0));
    for (int day = 0; day < 365; day++) {
        int64_t from = instant(&w, day, 0), to = instant(&w, day + 1, 0);
        assert_int_equal(runs_of(&w, "a", from, to), 1);
        assert_int_equal(runs_of(&w, "b", from, to), 1);
        assert_int_equal(runs_of(&w, "doubled", from, to), 1);
        assert_int_equal(runs_of(&w, "skipped", from, to), 1);
    }
    for (size_t i = 0; i < w.count; i++)
        assert_int_equal(w.runs[i].slot, w.runs[i].at); /* to the second */
    assert_int_equal(w.count, 4 * 365);
    tear_down(&w);
}

/* Off, asleep, restarted: a day on which the machine was up at or after the time has its run; days
 * through which it was not are made up by one. */
static void off_and_asleep(void **state)
{
    struct world w;
    int64_t expected = 0, last = 0;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    srand(7);
    while (w.now < instant(&w, 365, 0)) {
        int64_t up_until = w.now + rand() % (4 * DAY);
        pass_until(&w, up_until);
        int64_t away = rand() % (rand() % 3 == 0 ? 6 * DAY : DAY / 2);
        w.now += away;
        if (rand() % 2) { /* off: another process, what it knows is what was kept */
            w.asleep += away;
            start(&w);
            have(&w, TIMED_ARCHIVE, "a", "03:00");
        }
        schedule_tick(w.s);
    }
    for (size_t i = 0; i < w.count; i++) {
        assert_true(w.runs[i].slot > last); /* none twice, in order */
        last = w.runs[i].slot;
        int64_t next = instant(&w, (int)((last - 5 * HOUR - new_year) / DAY) + 1, 3 * HOUR);
        assert_true(w.runs[i].at < next); /* for the newest slot there was */
        expected++;
    }
    /* every slot at which it was up ran to the second; so none was skipped while it was up */
    assert_true(expected > 150 && expected < 365);
    tear_down(&w);
}

/* ---- clocks ---- */

/* In true time. */
static size_t runs_between(const struct world *w, const char *watch, int64_t from, int64_t to)
{
    size_t n = 0;

    for (size_t i = 0; i < w->count; i++)
        n += strcmp(w->runs[i].watch, watch) == 0 && w->runs[i].at >= from && w->runs[i].at < to;
    return n;
}

static void clock_jumps(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    have(&w, TIMED_PRUNE, NULL, "04:00");
    srand(11);
    for (int day = 0; day < 300; day++) {
        int64_t from = instant(&w, day, 0), to = instant(&w, day + 1, 0);
        pass_until(&w, from + 10 * HOUR);
        assert_int_equal(runs_between(&w, "a", from, to), 1);
        assert_int_equal(runs_between(&w, "", from, to), 1);
        size_t before = w.count;
        /* In the afternoon it is wrong for a while, by up to ten years, and set right again. */
        w.wrong = (rand() % 2 ? 1 : -1) * (int64_t)(rand() % (rand() % 2 ? HOUR : 3650 * DAY));
        schedule_tick(w.s);
        pass_until(&w, w.now + rand() % HOUR);
        assert_true(w.count - before <= 4);
        if (rand() % 3 == 0) {
            start(&w);
            have(&w, TIMED_ARCHIVE, "a", "03:00");
            have(&w, TIMED_PRUNE, NULL, "04:00");
        }
        w.wrong = 0;
        before = w.count;
        schedule_tick(w.s);
        assert_int_equal(w.count, before); /* the slots of today have been run */
        pass_until(&w, to);
    }
    tear_down(&w);
}

/* Seconds back over the slot do not run it again; seconds forward do not skip it. */
static void small_steps(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    for (int day = 0; day < 200; day++) {
        int64_t slot = instant(&w, day, 3 * HOUR);
        pass_until(&w, slot + 5 - w.wrong);
        w.wrong += day % 2 ? -20 : 20;
        schedule_tick(w.s);
        pass_until(&w, slot + HOUR);
        w.wrong = 0;
        schedule_tick(w.s);
        assert_int_equal(runs_of(&w, "a", slot - 12 * HOUR, slot + 12 * HOUR), 1);
        assert_int_equal(w.count, day + 1);
    }
    tear_down(&w);
}

static void zone_changes(void **state)
{
    static const int32_t zones[] = {9 * HOUR, -8 * HOUR, 0, 5 * HOUR + HOUR / 2, -5 * HOUR};
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    for (int i = 0; i < 60; i++) {
        w.east = zones[i % 5];
        schedule_tick(w.s);
        int64_t settled = w.now + 2 * DAY;
        pass_until(&w, settled + 3 * DAY + i * 1000);
        /* three local days between two midnights in the new zone */
        int64_t midnight = (settled + w.east) / DAY * DAY - w.east;
        for (int d = 0; d < 3; d++)
            assert_int_equal(runs_of(&w, "a", midnight + d * DAY, midnight + (d + 1) * DAY), 1);
    }
    for (size_t i = 1; i < w.count; i++) {
        int64_t gap = w.runs[i].at - w.runs[i - 1].at;
        assert_true(gap > 0 && gap <= 2 * DAY);
    }
    tear_down(&w);
}

/* A date that a zone further west brings again has its run; a restart knows it too. */
static void west_and_east(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    w.east = 9 * HOUR;
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    int64_t slot = new_year + 3 * DAY + 3 * HOUR; /* of that date, as if in UTC */
    pass_until(&w, slot - 9 * HOUR + HOUR);
    assert_int_equal(w.runs[w.count - 1].at, slot - 9 * HOUR);
    size_t before = w.count;
    w.east = -5 * HOUR;
    schedule_tick(w.s);
    start(&w);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    pass_until(&w, slot + 5 * HOUR + 20 * HOUR);
    assert_int_equal(w.count, before);
    pass_until(&w, slot + 5 * HOUR + DAY + HOUR);
    assert_int_equal(w.count, before + 1);
    assert_int_equal(w.runs[before].at, slot + 5 * HOUR + DAY);
    /* East again, over the time of the next date: at once, and once. */
    pass_until(&w, slot + 5 * HOUR + DAY + 12 * HOUR);
    w.east = 9 * HOUR;
    schedule_tick(w.s);
    assert_int_equal(w.count, before + 2);
    pass_until(&w, slot - 9 * HOUR + 2 * DAY + 20 * HOUR);
    assert_int_equal(w.count, before + 2);
    tear_down(&w);
}

/* ---- failures ---- */

static void tried_three_times(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    w.fail = 4;
    int64_t slot = instant(&w, 0, 3 * HOUR);
    pass_until(&w, slot + DAY / 2);
    const struct timed *t = schedule_find(w.s, TIMED_ARCHIVE, "a");
    assert_int_equal(w.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(w.runs[i].attempt, i + 1);
        assert_int_equal(w.runs[i].at, slot + 60 * i);
        assert_int_equal(w.runs[i].slot, slot);
    }
    assert_true(t->failed && t->given_up);
    assert_int_equal(t->failed_since, slot);
    assert_string_equal(t->failure.message, "the folder cannot be written");
    assert_int_equal(strtoll(w.kept[TIMED_ARCHIVE], NULL, 10), new_year + 5 * HOUR);
    /* The next day its second try succeeds. */
    pass_until(&w, slot + DAY + DAY / 2);
    assert_int_equal(w.count, 5);
    assert_int_equal(w.runs[4].attempt, 2);
    assert_false(t->failed || t->given_up);
    /* Restarted after a day that failed: that one is owed. */
    w.fail = 3;
    pass_until(&w, slot + 2 * DAY + HOUR);
    assert_int_equal(w.count, 8);
    start(&w);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    schedule_tick(w.s);
    assert_int_equal(w.count, 9);
    assert_int_equal(w.runs[8].slot, slot + 2 * DAY);
    assert_int_equal(strtoll(w.kept[TIMED_ARCHIVE], NULL, 10), slot + 2 * DAY);
    tear_down(&w);
}

/* The pause between two tries is real time, whatever the wall clock does. */
static void pause_by_the_boot_clock(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    int64_t slot = instant(&w, 0, 3 * HOUR);
    w.fail = 1;
    pass_until(&w, slot + 10);
    assert_int_equal(w.count, 1);
    w.wrong = 2 * HOUR;
    schedule_tick(w.s);
    assert_int_equal(w.count, 1);
    pass_until(&w, slot + 59);
    assert_int_equal(w.count, 1);
    pass_until(&w, slot + 61);
    assert_int_equal(w.count, 2);
    tear_down(&w);
}

/* What cannot run still owes its slot, and runs once when it can. */
static void held_back(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    w.held = true;
    pass_until(&w, instant(&w, 30, 12 * HOUR));
    assert_int_equal(w.count, 0);
    w.held = false;
    schedule_tick(w.s);
    assert_int_equal(w.count, 1);
    assert_int_equal(w.runs[0].slot, instant(&w, 30, 3 * HOUR));
    pass_until(&w, instant(&w, 31, 12 * HOUR));
    assert_int_equal(w.count, 2);
    tear_down(&w);
}

static void reloaded(void **state)
{
    struct world w;
    struct error e = ERROR_INIT;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    pass_until(&w, instant(&w, 0, 15 * HOUR));
    assert_int_equal(w.count, 1);
    /* A time that has passed today is tomorrow's. */
    assert_int_equal(schedule_set(w.s, TIMED_ARCHIVE, "a", "12:00", &e), 0);
    pass_until(&w, instant(&w, 1, 11 * HOUR));
    assert_int_equal(w.count, 1);
    pass_until(&w, instant(&w, 1, 13 * HOUR));
    assert_int_equal(w.count, 2);
    /* Taken away while it runs. */
    w.later = true;
    pass_until(&w, instant(&w, 2, 13 * HOUR));
    assert_int_equal(w.count, 3);
    assert_int_equal(schedule_set(w.s, TIMED_ARCHIVE, "a", "off", &e), 0);
    assert_null(schedule_find(w.s, TIMED_ARCHIVE, "a"));
    end_run(&w, w.open);
    pass_until(&w, instant(&w, 5, 0));
    assert_int_equal(w.count, 3);
    assert_int_equal(schedule_due(w.s), INT64_MAX);
    assert_int_equal(schedule_set(w.s, TIMED_ARCHIVE, "a", "25:00", &e), ERR_USAGE);
    tear_down(&w);
}

/* All due at once go in the order archive, verify, prune. */
static void order(void **state)
{
    struct world w;

    set_up(&w, new_year + 5 * HOUR);
    have(&w, TIMED_PRUNE, NULL, "04:00");
    have(&w, TIMED_VERIFY, NULL, "05:00");
    have(&w, TIMED_ARCHIVE, "b", "03:00");
    have(&w, TIMED_ARCHIVE, "a", "03:00");
    w.now += 3 * DAY;
    schedule_tick(w.s);
    assert_int_equal(w.count, 4);
    assert_int_equal(w.runs[0].kind, TIMED_ARCHIVE);
    assert_int_equal(w.runs[1].kind, TIMED_ARCHIVE);
    assert_int_equal(w.runs[2].kind, TIMED_VERIFY);
    assert_int_equal(w.runs[3].kind, TIMED_PRUNE);
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_run_each_day),
        cmocka_unit_test(off_and_asleep),
        cmocka_unit_test(clock_jumps),
        cmocka_unit_test(small_steps),
        cmocka_unit_test(zone_changes),
        cmocka_unit_test(west_and_east),
        cmocka_unit_test(tried_three_times),
        cmocka_unit_test(held_back),
        cmocka_unit_test(pause_by_the_boot_clock),
        cmocka_unit_test(reloaded),
        cmocka_unit_test(order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
