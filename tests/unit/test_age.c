#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "keep/age.h"

#include <string.h>

#include "base/banned.h"

#define DAY INT64_C(86400)
#define HOUR INT64_C(3600)
#define BEGIN INT64_C(1800000000)

struct machine {
    struct age_state state;
    struct age_reading clocks;
};

static struct machine begun(void)
{
    struct machine m = {.clocks = {.wall = BEGIN, .boot = 1000, .boot_id = {1}}};

    assert_int_equal(age_look(&m.state, &m.clocks, BEGIN - HOUR), BEGIN);
    return m;
}

/* Time passes, and somebody looks. */
static int64_t after(struct machine *m, int64_t seconds)
{
    m->clocks.wall += seconds;
    m->clocks.boot += seconds;
    return age_look(&m->state, &m->clocks, BEGIN);
}

static bool caught_up(struct machine *m, int64_t seconds)
{
    int64_t t = after(m, seconds);

    return t == m->clocks.wall;
}

/* The machine is off for that long. */
static void boot(struct machine *m, int64_t off)
{
    m->clocks.wall += off;
    m->clocks.boot = 0;
    m->clocks.boot_id[0]++;
}

static void test_both_agree(void **state)
{
    struct machine m = begun();

    assert_int_equal(after(&m, 60), BEGIN + 60);
    assert_int_equal(after(&m, 400 * DAY), BEGIN + 400 * DAY + 60);
    m.clocks.wall += 90; /* set right a little */
    assert_true(caught_up(&m, HOUR));
}

static void test_ahead_counts_after_a_day(void **state)
{
    struct machine m = begun();

    m.clocks.wall += 365 * DAY;
    assert_int_equal(after(&m, HOUR), BEGIN + HOUR);
    assert_int_equal(after(&m, 22 * HOUR), BEGIN + 23 * HOUR);
    assert_true(caught_up(&m, 30 * HOUR));
}

static void test_ahead_and_put_right(void **state)
{
    struct machine m = begun();

    m.clocks.wall += 365 * DAY;
    assert_int_equal(after(&m, HOUR), BEGIN + HOUR);
    m.clocks.wall -= 365 * DAY;
    assert_int_equal(after(&m, HOUR), BEGIN + 2 * HOUR);
    assert_int_equal(after(&m, DAY), BEGIN + 2 * HOUR + DAY);
    assert_int_equal(m.clocks.wall, BEGIN + 2 * HOUR + DAY);
}

static void test_back_at_once(void **state)
{
    struct machine m = begun();

    m.clocks.wall -= 10 * DAY;
    assert_int_equal(after(&m, HOUR), BEGIN - 10 * DAY + HOUR);
    m.clocks.wall += 10 * DAY; /* and forward again */
    assert_int_equal(after(&m, HOUR), BEGIN - 10 * DAY + 2 * HOUR);
    assert_true(caught_up(&m, 2 * DAY));
}

static void test_dead_battery(void **state)
{
    struct machine m = begun();

    boot(&m, 0);
    m.clocks.wall = 0; /* 1970 */
    assert_int_equal(after(&m, 60), 60);
    m.clocks.wall = BEGIN + 5 * DAY; /* the network tells */
    assert_true(after(&m, 60) < BEGIN);
    assert_true(caught_up(&m, 25 * HOUR));
}

static void test_off_for_a_month(void **state)
{
    struct machine m = begun();

    boot(&m, 30 * DAY);
    assert_int_equal(after(&m, HOUR), BEGIN + HOUR);
    assert_true(caught_up(&m, 25 * HOUR));
}

/* Off every night: it falls behind by days, never for good. */
static void test_off_every_night(void **state)
{
    struct machine m = begun();

    for (int day = 0; day < 60; day++) {
        boot(&m, 16 * HOUR);
        for (int hour = 0; hour < 8; hour++) {
            int64_t t = after(&m, HOUR);
            assert_true(t <= m.clocks.wall);
            assert_true(t >= m.clocks.wall - 4 * DAY);
        }
    }
}

/* The state was lost, or there never was one. */
static void test_first_look(void **state)
{
    struct age_reading now = {.wall = BEGIN, .boot = 5, .boot_id = {1}};
    struct age_state s = {0};

    assert_int_equal(age_look(&s, &now, 0), BEGIN);
    s = (struct age_state){0};
    assert_int_equal(age_look(&s, &now, BEGIN + 7 * DAY), BEGIN);
    s = (struct age_state){0};
    assert_int_equal(age_look(&s, &now, BEGIN - 300 * DAY), BEGIN - 300 * DAY);
    now.wall += DAY;
    now.boot += DAY;
    assert_int_equal(age_look(&s, &now, BEGIN - 300 * DAY), BEGIN + DAY);
}

static void test_extreme_clocks(void **state)
{
    static const int64_t walls[] = {INT64_MIN, INT64_MAX, 0, -1, INT64_MAX - 5, INT64_MIN + 5};
    struct machine m = begun();

    for (size_t i = 0; i < sizeof(walls) / sizeof(walls[0]); i++) {
        m.clocks.wall = walls[i];
        m.clocks.boot += 60;
        assert_true(age_look(&m.state, &m.clocks, BEGIN) <= walls[i]);
    }
}

static void test_state_is_kept(void **state)
{
    struct machine m = begun();
    struct buffer b = BUFFER_INIT;
    struct error e = ERROR_INIT;
    struct age_state back = {0};

    m.clocks.wall += 9 * DAY;
    after(&m, HOUR);
    age_encode(&m.state, &b);
    assert_int_equal(age_decode(b.data, b.len, &back, &e), 0);
    assert_memory_equal(&back, &m.state, sizeof(back));
    assert_int_equal(age_decode(b.data, b.len - 1, &back, &e), ERR_DAMAGED);
    buffer_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_agree),          cmocka_unit_test(test_ahead_counts_after_a_day),
        cmocka_unit_test(test_ahead_and_put_right), cmocka_unit_test(test_back_at_once),
        cmocka_unit_test(test_dead_battery),        cmocka_unit_test(test_off_for_a_month),
        cmocka_unit_test(test_off_every_night),     cmocka_unit_test(test_first_look),
        cmocka_unit_test(test_extreme_clocks),      cmocka_unit_test(test_state_is_kept),

    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
