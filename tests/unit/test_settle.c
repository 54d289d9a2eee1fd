/* Which paths are ripe when, by hand-made clocks; and the alarm that waits for them. */
#include "base/clock.h"
#include "watch/alarm.h"
#include "watch/settle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)
#define QUIET (200 * MS)
#define LATEST (5000 * MS)

static int setup(void **state)
{
    *state = settle_new(QUIET, LATEST);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    settle_free(*state);
    return 0;
}

static const struct settle_path *in_set(const struct settle_set *set, const char *path)
{
    for (size_t i = 0; i < set->count; i++) {
        if (strcmp(set->paths[i].path, path) == 0)
            return &set->paths[i];
    }
    return NULL;
}

static void nothing_is_ripe_before_it_is_quiet(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    assert_true(settle_deadline(s) == UINT64_MAX);
    assert_false(settle_take(s, 10000 * MS, true, &set));
    settle_touch(s, "a", WATCH_ENTRY, 1000 * MS);
    assert_true(settle_deadline(s) == 1200 * MS);
    assert_false(settle_take(s, 1199 * MS, false, &set));
    settle_touch(s, "a", WATCH_ENTRY, 1100 * MS);
    assert_false(settle_take(s, 1299 * MS, false, &set));
    assert_true(settle_take(s, 1300 * MS, false, &set));
    assert_int_equal(set.count, 1);
    assert_string_equal(set.paths[0].path, "a");
    assert_true(set.first_ns == 1000 * MS);
    settle_set_release(&set);
    assert_int_equal(settle_count(s), 0);
}

static void a_path_that_is_never_quiet_is_ripe_at_the_latest_moment(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    for (uint64_t t = 0; t < 5000; t += 100) {
        settle_touch(s, "log", WATCH_ENTRY | WATCH_FLUSH, (1 + t) * MS);
        assert_false(settle_take(s, (1 + t) * MS, false, &set));
    }
    assert_true(settle_deadline(s) == 5001 * MS);
    assert_true(settle_take(s, 5001 * MS, false, &set));
    assert_int_equal(set.count, 1);
    settle_set_release(&set);
}

static void all_ripe_paths_go_together_and_the_rest_stays(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    settle_touch(s, "a", WATCH_ENTRY, 1000 * MS);
    settle_touch(s, "b", WATCH_ENTRY, 1010 * MS);
    settle_touch(s, "c", WATCH_ENTRY, 1100 * MS);
    assert_true(settle_take(s, 1215 * MS, false, &set));
    assert_int_equal(set.count, 2);
    assert_non_null(in_set(&set, "a"));
    assert_non_null(in_set(&set, "b"));
    settle_set_release(&set);
    assert_true(settle_deadline(s) == 1300 * MS);
    assert_true(settle_take(s, 0, true, &set)); /* all, ripe or not */
    assert_int_equal(set.count, 1);
    assert_non_null(in_set(&set, "c"));
    settle_set_release(&set);
}

static void halves_of_renames_are_ripe_together(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    /* "new" is written to for ever, "old" was renamed to it; "older" to "old" before. */
    settle_touch_pair(s, "older", "old", WATCH_ENTRY, 1000 * MS);
    settle_touch_pair(s, "old", "new", WATCH_ENTRY, 1001 * MS);
    settle_touch(s, "new", WATCH_ENTRY, 1150 * MS);
    assert_true(settle_take(s, 1210 * MS, false, &set));
    assert_int_equal(set.count, 3);
    settle_return(s, &set, 1300 * MS);
    assert_int_equal(set.count, 0);
    /* Given back, they still belong together, and are as old as they were. */
    settle_touch(s, "older", WATCH_ENTRY, 1450 * MS);
    assert_true(settle_oldest(s) == 1000 * MS);
    assert_true(settle_take(s, 1500 * MS, false, &set));
    assert_int_equal(set.count, 3);
    settle_set_release(&set);
    /* A save by rename again and again: the two stay one pair. */
    for (unsigned i = 0; i < 1000; i++)
        settle_touch_pair(s, "x.tmp", "x", WATCH_ENTRY, 2000 * MS);
    settle_touch(s, "y", WATCH_ENTRY, 2100 * MS);
    assert_true(settle_take(s, 2200 * MS, false, &set));
    assert_int_equal(set.count, 2);
    settle_set_release(&set);
}

static void closing_takes_the_flush_away(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    settle_touch(s, "open", WATCH_ENTRY | WATCH_FLUSH, MS);
    settle_touch(s, "closed", WATCH_ENTRY | WATCH_FLUSH, MS);
    settle_touch(s, "closed", WATCH_ENTRY | WATCH_CLOSED, MS);
    assert_true(settle_take(s, 0, true, &set));
    assert_int_equal(in_set(&set, "open")->how, WATCH_ENTRY | WATCH_FLUSH);
    assert_int_equal(in_set(&set, "closed")->how, WATCH_ENTRY);
    settle_set_release(&set);
}

static void what_is_given_back_merges_with_what_came_since(void **state)
{
    struct settle *s = *state;
    struct settle_set set;

    settle_touch(s, "a", WATCH_ENTRY, 1000 * MS);
    assert_true(settle_take(s, 1200 * MS, false, &set));
    settle_touch(s, "a", WATCH_TREE, 1300 * MS);
    settle_touch(s, "b", WATCH_ENTRY, 1300 * MS);
    settle_return(s, &set, 1400 * MS);
    assert_int_equal(settle_count(s), 2);
    assert_true(settle_oldest(s) == 1000 * MS);
    assert_true(settle_take(s, 1600 * MS, false, &set));
    assert_int_equal(in_set(&set, "a")->how, WATCH_ENTRY | WATCH_TREE);
    assert_true(in_set(&set, "a")->first_ns == 1000 * MS);
    settle_set_release(&set);
}

static void the_set_is_bounded(void **state)
{
    struct settle *s = *state;
    struct settle_set set;
    char path[64];

    settle_limit(s, 1000);
    for (unsigned i = 0; i < 1001; i++) {
        snprintf(path, sizeof(path), "d%u/f%u", i % 7, i);
        settle_touch(s, path, WATCH_ENTRY, (1000 + i) * MS);
    }
    /* Files have become their folders, as trees. */
    assert_int_equal(settle_count(s), 7);
    assert_true(settle_oldest(s) == 1000 * MS);
    settle_touch(s, "d3/more/deep", WATCH_ENTRY, 2000 * MS);
    assert_int_equal(settle_count(s), 7);
    settle_touch(s, "e", WATCH_ENTRY, 2000 * MS);
    assert_int_equal(settle_count(s), 8);
    assert_true(settle_take(s, 3000 * MS, false, &set));
    assert_true(in_set(&set, "d3")->how & WATCH_TREE);
    assert_int_equal(in_set(&set, "e")->how, WATCH_ENTRY);
    settle_set_release(&set);
    /* Too many folders too: the root. */
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(path, sizeof(path), "d%u/f", i);
        settle_touch(s, path, WATCH_ENTRY, 4000 * MS);
    }
    assert_int_equal(settle_count(s), 1);
    assert_true(settle_take(s, 0, true, &set));
    assert_string_equal(set.paths[0].path, "");
    assert_true(set.paths[0].how & WATCH_TREE);
    assert_true(set.first_ns == 4000 * MS);
    settle_set_release(&set);
    /* Once taken, paths count by themselves again. */
    settle_touch(s, "d1/f", WATCH_ENTRY, 5000 * MS);
    assert_true(settle_take(s, 0, true, &set));
    assert_int_equal(set.count, 1);
    assert_non_null(in_set(&set, "d1/f"));
    settle_set_release(&set);
}

static void a_storm_on_one_path_is_one_entry(void **state)
{
    struct settle *s = *state;

    for (unsigned i = 0; i < 100000; i++)
        settle_touch(s, "storm", WATCH_ENTRY | WATCH_FLUSH, i);
    assert_int_equal(settle_count(s), 1);
}

/* Random events against a plain model of the two times. */
static void random_events_follow_the_rule(void **state)
{
    struct settle *s = *state;
    uint64_t first[20] = {0}, last[20] = {0}, now = 1;
    struct settle_set set;
    char path[8];

    srand(7);
    for (unsigned round = 0; round < 20000; round++) {
        unsigned i = (unsigned)rand() % 20;
        now += (uint64_t)(rand() % 40) * MS;
        uint64_t due = UINT64_MAX;
        for (unsigned k = 0; k < 20; k++) {
            if (first[k] && last[k] + QUIET < due)
                due = last[k] + QUIET;
            if (first[k] && first[k] + LATEST < due)
                due = first[k] + LATEST;
        }
        assert_true(settle_deadline(s) == due);
        if (settle_take(s, now, false, &set)) {
            for (size_t k = 0; k < set.count; k++) {
                unsigned n = (unsigned)strtoul(set.paths[k].path, NULL, 10);
                assert_true(first[n] && (last[n] + QUIET <= now || first[n] + LATEST <= now));
                first[n] = 0;
            }
            settle_set_release(&set);
        }
        for (unsigned k = 0; k < 20; k++)
            assert_false(first[k] && (last[k] + QUIET <= now || first[k] + LATEST <= now));
        snprintf(path, sizeof(path), "%u", i);
        settle_touch(s, path, WATCH_ENTRY, now);
        last[i] = now;
        first[i] = first[i] ? first[i] : now;
    }
}

/* ---- the alarm ---- */

struct rings {
    enum alarm_clock clock;
    struct alarm *alarm;
    uint64_t at, rang;
    unsigned count;
};

static uint64_t now_of(const struct rings *r)
{
    struct wall_time t = clock_wall();

    return r->clock == ALARM_MONO ? clock_mono_ns() : alarm_wall_ns(t.s) + t.ns;
}

static void on_ring(void *ctx)
{
    struct rings *r = ctx;

    r->rang = now_of(r);
    if (++r->count == 3) {
        alarm_close(r->alarm);
        return;
    }
    r->at = now_of(r) + 2 * MS;
    alarm_set(r->alarm, r->at);
}

static void rings_three_times(enum alarm_clock clock)
{
    struct error e = ERROR_INIT;
    struct rings r = {.clock = clock};
    uv_loop_t loop;

    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(alarm_open(&loop, clock, on_ring, &r, &r.alarm, &e), 0);
    alarm_set(r.alarm, now_of(&r) + 3600000 * MS);
    alarm_set(r.alarm, ALARM_NEVER);
    alarm_set(r.alarm, 0); /* long ago: now */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(r.count, 3);
    assert_true(r.rang >= r.at);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void the_alarm_rings_once_for_each_setting_and_never_early(void **state)
{
    rings_three_times(ALARM_MONO);
    rings_three_times(ALARM_WALL);
}

static void moments_of_the_wall_clock(void **state)
{
    assert_int_equal(alarm_wall_ns(INT64_MIN), 0);
    assert_int_equal(alarm_wall_ns(0), 0);
    assert_int_equal(alarm_wall_ns(1767225600), UINT64_C(1767225600000000000));
    assert_true(alarm_wall_ns(18446744072) == UINT64_C(18446744072000000000));
    assert_true(alarm_wall_ns(18446744073) == ALARM_NEVER);
    assert_true(alarm_wall_ns(INT64_MAX) == ALARM_NEVER);
}

int main(void)
{
#define SETTLE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        SETTLE(nothing_is_ripe_before_it_is_quiet),
        SETTLE(a_path_that_is_never_quiet_is_ripe_at_the_latest_moment),
        SETTLE(all_ripe_paths_go_together_and_the_rest_stays),
        SETTLE(halves_of_renames_are_ripe_together),
        SETTLE(closing_takes_the_flush_away),
        SETTLE(what_is_given_back_merges_with_what_came_since),
        SETTLE(the_set_is_bounded),
        SETTLE(a_storm_on_one_path_is_one_entry),
        SETTLE(random_events_follow_the_rule),
        cmocka_unit_test(the_alarm_rings_once_for_each_setting_and_never_early),
        cmocka_unit_test(moments_of_the_wall_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
