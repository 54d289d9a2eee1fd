#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/parse.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/banned.h"

static void use_zone(const char *tz)
{
    setenv("TZ", tz, 1);
    tzset();
}

/* The European rule, spelled out so that no zone files are needed. */
static const char berlin[] = "CET-1CEST,M3.5.0,M10.5.0/3";

/* ---- numbers ---- */

static void check_size(const char *s, uint64_t want)
{
    struct error e = ERROR_INIT;
    uint64_t v = 1;

    assert_int_equal(parse_size(s, &v, &e), 0);
    assert_true(v == want);
}

static void test_size(void **state)
{
    check_size("0", 0);
    check_size("123", 123);
    check_size("64K", 65536);
    check_size("64k", 65536);
    check_size("20M", 20971520);
    check_size("20MiB", 20971520);
    check_size("5G", UINT64_C(5) << 30);
    check_size("1T", UINT64_C(1) << 40);
    check_size("18446744073709551615", UINT64_MAX);
    check_size("15E", UINT64_C(15) << 60);
}

static void test_size_refuses(void **state)
{
    static const char *const bad[] = {
        "",    "K",    "-1",  "1.5G",  "1X", "1KB", "1 K", " 1", "18446744073709551616",
        "16E", "0x10", "17E", "1KiBs", "+1", "1i"};
    struct error e = ERROR_INIT;
    uint64_t v = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(parse_size(bad[i], &v, &e), ERR_USAGE);
        assert_int_equal(e.message[0], '\'');
    }
    assert_int_equal(v, 7);
    parse_size("1X", &v, &e);
    assert_string_equal(e.message, "'1X' is not a size (like 64K, 20M, 5G)");
}

static void check_duration(const char *s, uint64_t want)
{
    struct error e = ERROR_INIT;
    uint64_t v = 1;

    assert_int_equal(parse_duration(s, &v, &e), 0);
    assert_true(v == want);
}

static void test_duration(void **state)
{
    static const char *const bad[] = {
        "",    "s", "5x", "-5s", "1.5h", "5 s", "99999999999999999999", "18446744073709551615s",
        "5mss"};
    struct error e = ERROR_INIT;
    uint64_t v;

    check_duration("200ms", 200);
    check_duration("5s", 5000);
    check_duration("5", 5000);
    check_duration("0", 0);
    check_duration("10m", 600000);
    check_duration("1h", 3600000);
    check_duration("7d", 604800000);
    check_duration("2w", 1209600000);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(parse_duration(bad[i], &v, &e), ERR_USAGE);
}

static void test_u64(void **state)
{
    struct error e = ERROR_INIT;
    uint64_t v;

    assert_int_equal(parse_u64("18446744073709551615", &v, &e), 0);
    assert_true(v == UINT64_MAX);
    assert_int_equal(parse_u64("18446744073709551616", &v, &e), ERR_USAGE);
    assert_int_equal(parse_u64("-1", &v, &e), ERR_USAGE);
    assert_int_equal(parse_u64("1a", &v, &e), ERR_USAGE);
    assert_int_equal(parse_u64("", &v, &e), ERR_USAGE);
    parse_u64("a\nb", &v, &e);
    assert_string_equal(e.message, "'a\\nb' is not a whole number");
}

/* ---- times ---- */

static const int64_t noon = 1795258800; /* 2026-11-21 12:00:00 in Berlin */

static void check_time(const char *s, int64_t want)
{
    struct error e = ERROR_INIT;
    int64_t t = 0;

    if (parse_time(s, noon, &t, &e) != 0)
        fail_msg("%s", e.message);
    if (t != want)
        fail_msg("'%s' gave %lld, not %lld", s, (long long)t, (long long)want);
}

static void test_time_absolute(void **state)
{
    use_zone(berlin);
    check_time("2026-11-21T11:00:00Z", noon);
    check_time("2026-11-21T11:00:00.999999Z", noon);
    check_time("2026-11-21t11:00:00z", noon);
    check_time("2026-11-21T12:00:00+01:00", noon);
    check_time("2026-11-21T05:30:00-05:30", noon);
    check_time("2026-11-21 12:00", noon);
    check_time("2026-11-21 12:00:05", noon + 5);
    check_time("2026-11-21T12:00:05", noon + 5);
    check_time("2026-11-21", noon - 12 * 3600);
    check_time("1970-01-01T00:00:00Z", 0);
    check_time("1969-12-31T23:59:50Z", -10);
    check_time("2024-02-29T00:00:00Z", 1709164800);
}

static void test_time_follows_summer_time(void **state)
{
    use_zone(berlin);
    check_time("2026-07-01 12:00", 1782900000); /* 10:00 UTC */
    check_time("2026-07-01", 1782856800);       /* 22:00 UTC the day before */
    /* The day of 23 hours. */
    check_time("2026-03-29", 1774738800);
    check_time("2026-03-30", 1774738800 + 23 * 3600);
    /* The day of 25 hours. */
    check_time("2026-10-25", 1792879200);
    check_time("2026-10-26", 1792879200 + 25 * 3600);

    struct error e = ERROR_INIT;
    int64_t t;
    int64_t monday_noon = 1792879200 + 37 * 3600;
    assert_int_equal(parse_time("yesterday", monday_noon, &t, &e), 0);
    assert_true(t == 1792879200);
    assert_int_equal(parse_time("1 day ago", monday_noon, &t, &e), 0);
    assert_true(t == monday_noon - 24 * 3600); /* noon is behind the change */
    assert_int_equal(parse_time("-2d", monday_noon, &t, &e), 0);
    assert_true(t == monday_noon - 49 * 3600); /* still noon */
    assert_int_equal(parse_time("-48h", monday_noon, &t, &e), 0);
    assert_true(t == monday_noon - 48 * 3600);
}

static void test_time_relative(void **state)
{
    use_zone(berlin);
    check_time("now", noon);
    check_time("today", noon - 12 * 3600);
    check_time("yesterday", noon - 36 * 3600);
    check_time("-2h", noon - 7200);
    check_time("-90s", noon - 90);
    check_time("-10m", noon - 600);
    check_time("-1w", noon - 604800);
    check_time("5 minutes ago", noon - 300);
    check_time("1 minute ago", noon - 60);
    check_time("1 hour ago", noon - 3600);
    check_time("30 seconds ago", noon - 30);
    check_time("2 weeks ago", noon - 1209600);
}

static void test_time_refuses(void **state)
{
    static const char *const bad[] = {"",
                                      "tomorrow",
                                      "2026-13-01",
                                      "2026-00-01",
                                      "2026-02-29",
                                      "2026-11-31",
                                      "2026-11-21 24:00",
                                      "2026-11-21 12:60",
                                      "2026-11-21 12:00:61",
                                      "2026-11-21T12:00:00+1:00",
                                      "2026-11-21T12:00:00Zx",
                                      "2026-11-21T12:00:00.Z",
                                      "2026-11-21 ",
                                      "2026-11",
                                      "26-11-21",
                                      " 2026-11-21",
                                      "-2",
                                      "-h",
                                      "2h",
                                      "-2hx",
                                      "5 minutes",
                                      "5 fortnights ago",
                                      "minutes ago",
                                      "-99999999999999999999s",
                                      "-9999999999999999999w",
                                      "12",
                                      "nowhere"};
    struct error e = ERROR_INIT;
    int64_t t = 7;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (parse_time(bad[i], noon, &t, &e) != ERR_USAGE)
            fail_msg("'%s' was taken for a time", bad[i]);
    }
    assert_int_equal(t, 7);
    parse_time("soon", noon, &t, &e);
    assert_memory_equal(e.message, "'soon' is not a time (like ", 27);
}

static void check_prefix(const char *s, int64_t want, size_t want_used)
{
    struct error e = ERROR_INIT;
    int64_t t = 0;
    size_t used = 0;

    assert_int_equal(parse_time_prefix(s, noon, &t, &used, &e), 0);
    assert_true(t == want);
    assert_int_equal(used, want_used);
}

static void test_time_before_a_path(void **state)
{
    struct error e = ERROR_INIT;
    char many[3000];
    int64_t t;
    size_t used;

    use_zone(berlin);
    check_prefix("2026-11-21 12:00", noon, 16);
    check_prefix("2026-11-21 12:00:etc/hosts", noon, 16);
    check_prefix("2026-11-21 12:00:05", noon + 5, 19);
    check_prefix("2026-11-21 12:00:05:05", noon + 5, 19);
    check_prefix("2026-11-21:etc/a:b", noon - 12 * 3600, 10);
    check_prefix("2026-11-21T12:00:00+01:00:x", noon, 25);
    check_prefix("yesterday:notes/a.txt", noon - 36 * 3600, 9);
    check_prefix("5 minutes ago:", noon - 300, 13);
    assert_int_equal(parse_time_prefix("notes:a", noon, &t, &used, &e), ERR_USAGE);
    assert_int_equal(parse_time_prefix("now/x", noon, &t, &used, &e), ERR_USAGE);
    assert_int_equal(parse_time_prefix("", noon, &t, &used, &e), ERR_USAGE);
    memset(many, 'x', sizeof(many) - 1);
    many[sizeof(many) - 1] = 0;
    memcpy(many, "now:", 4);
    check_prefix(many, noon, 3);
}

static void test_names(void **state)
{
    static const char *const good[] = {"a", "before-upgrade", "v1.2_x", "2026-a", "1a",
                                       "A", "latest1"};
    static const char *const bad[] = {"",    "latest", "good",      "all", "none", "now",
                                      "123", "2026",   ".a",        "-a",  "_a",   "a b",
                                      "a/b", "a:b",    "a\xc3\xa9", "a\n"};
    char name[66];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(parse_name_ok(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(parse_name_ok(bad[i]));
    memset(name, 'n', 65);
    name[64] = 0;
    assert_true(parse_name_ok(name));
    name[64] = 'n';
    name[65] = 0;
    assert_false(parse_name_ok(name));
}

/* ---- the clock ---- */

static void test_clock_as_text(void **state)
{
    const struct wall_time t = {.s = noon, .ns = 5000};
    char out[32];

    use_zone(berlin);
    time_rfc3339(t, out, sizeof(out));
    assert_string_equal(out, "2026-11-21T11:00:00.000005Z");
    check_time(out, noon);
    time_local(noon, out, 24);
    assert_string_equal(out, "2026-11-21 12:00:00");
    time_local(1782900000, out, 24);
    assert_string_equal(out, "2026-07-01 12:00:00");
    assert_int_equal(clock_utc_offset(noon), 3600);
    assert_int_equal(clock_utc_offset(1782900000), 7200);
    use_zone("UTC0");
    time_local(noon, out, 24);
    assert_string_equal(out, "2026-11-21 11:00:00");
    assert_int_equal(clock_utc_offset(noon), 0);
    time_rfc3339((struct wall_time){.s = INT64_MAX}, out, sizeof(out));
    assert_string_equal(out, "?");
}

static void test_clock_fake(void **state)
{
    const struct wall_time t = {.s = 42, .ns = 7};
    struct wall_time real = clock_wall();

    assert_true(real.s > 1600000000 && real.ns < 1000000000);
    clock_fake(&t);
    assert_true(clock_wall().s == 42 && clock_wall().ns == 7);
    clock_fake(NULL);
    assert_true(clock_wall().s >= real.s);
    uint64_t before = clock_mono_ns();
    assert_true(clock_mono_ns() >= before && before > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_size_refuses),
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_u64),
        cmocka_unit_test(test_time_absolute),
        cmocka_unit_test(test_time_follows_summer_time),
        cmocka_unit_test(test_time_relative),
        cmocka_unit_test(test_time_refuses),
        cmocka_unit_test(test_time_before_a_path),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_clock_as_text),
        cmocka_unit_test(test_clock_fake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
