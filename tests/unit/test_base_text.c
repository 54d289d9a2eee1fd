#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

/* ---- text ---- */

static bool utf8(const char *s)
{
    return text_utf8_ok(s, strlen(s));
}

static void test_utf8(void **state)
{
    assert_true(utf8(""));
    assert_true(utf8("plain\n\x01"));
    assert_true(utf8("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf"));
    assert_false(utf8("\xff"));
    assert_false(utf8("\x80"));
    assert_false(utf8("\xc3"));             /* cut */
    assert_false(utf8("\xe2\x82"));         /* cut */
    assert_false(utf8("\xf0\x9f\x98"));     /* cut */
    assert_false(utf8("\xc0\xaf"));         /* overlong */
    assert_false(utf8("\xe0\x80\xaf"));     /* overlong */
    assert_false(utf8("\xf0\x80\x80\xaf")); /* overlong */
    assert_false(utf8("\xed\xa0\x80"));     /* surrogate */
    assert_false(utf8("\xf4\x90\x80\x80")); /* past the last */
    assert_false(utf8("\xe2\x82x"));
    assert_false(text_utf8_ok("a\0b", 3));
}

static void test_paths_in_the_order_of_a_walk(void **state)
{
    static const char *const walk[] = {"",    "a",      "a/b",    "a/b/c",  "a/b\x01", "a/bc",
                                       "a!",  "a!/b",   "a-b",    "a.d",    "a0",      "ab",
                                       "ab/", "ab\x7f", "ab\x80", "ab\xff", "b"};

    for (size_t i = 0; i < sizeof(walk) / sizeof(walk[0]); i++)
        for (size_t j = 0; j < sizeof(walk) / sizeof(walk[0]); j++) {
            int got = text_path_order(walk[i], walk[j]);
            assert_int_equal(got < 0 ? -1 : got > 0, i < j ? -1 : i > j);
        }
}

static void check_escape(const char *s, size_t cap, const char *want)
{
    char out[64];

    memset(out, '#', sizeof(out));
    assert_ptr_equal(text_escape(s, out, cap), out);
    assert_string_equal(out, want);
    assert_int_equal(out[cap], '#');
}

static void test_escape(void **state)
{
    check_escape("caf\xc3\xa9", 60, "caf\xc3\xa9");
    check_escape("a\nb\tc\rd\\e", 60, "a\\nb\\tc\\rd\\\\e");
    check_escape("\x1b[31m\x7f", 60, "\\x1b[31m\\x7f");
    check_escape("\xff\xc3(", 60, "\\xff\\xc3(");
    check_escape("\xc2\x9b"
                 "31m",
                 60, "\\xc2\\x9b31m"); /* the one-byte form of ESC [ */
}

static void test_escape_cuts_cleanly(void **state)
{
    check_escape("123456789", 10, "123456789");
    check_escape("1234567890", 10, "123456...");
    check_escape("1234\xc3\xa9\xc3\xa9\xc3\xa9", 10, "1234\xc3\xa9...");
    check_escape("12345\xc3\xa9\xc3\xa9\xc3\xa9", 10, "12345...");
    check_escape("12345\nabcdef", 10, "12345...");
    check_escape("abc", 3, "..");
    check_escape("abc", 1, "");
    check_escape("", 1, "");
}

static void check_lossy(const char *s, size_t n, const char *want)
{
    char *got = text_lossy_utf8(s, n);

    assert_non_null(got);
    assert_string_equal(got, want);
    free(got);
}

static void test_lossy_twin_is_utf8(void **state)
{
    check_lossy("", 0, "");
    check_lossy("ok \xc3\xa9", 5, "ok \xc3\xa9");
    check_lossy("\xff"
                "a\xe2\x82",
                4,
                "\xef\xbf\xbd"
                "a\xef\xbf\xbd\xef\xbf\xbd");
    check_lossy("a\0b", 3,
                "a\xef\xbf\xbd"
                "b");
}

static void test_base64(void **state)
{
    static const char *const want[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                       "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"}; /* RFC 4648 */

    for (size_t n = 0; n <= 6; n++) {
        char *got = text_base64("foobar", n);
        assert_non_null(got);
        assert_string_equal(got, want[n]);
        free(got);
    }
    char *got = text_base64("\xfb\xff\xfe", 3);
    assert_string_equal(got, "+//+");
    free(got);
}

static void test_hex(void **state)
{
    static const uint8_t bytes[] = {0x00, 0x0f, 0xa5, 0xff};
    uint8_t back[4] = {0};
    char out[9];

    text_hex(bytes, 4, out);
    assert_string_equal(out, "000fa5ff");
    assert_true(text_unhex(out, back, 4));
    assert_memory_equal(back, bytes, 4);
    assert_true(text_unhex("000FA5FF", back, 4));
    assert_false(text_unhex("000fa5f", back, 4));
    assert_false(text_unhex("000fa5ff0", back, 4));
    assert_false(text_unhex("000fa5fg", back, 4));
    assert_false(text_unhex("", back, 4));
}

static void check_size(uint64_t bytes, const char *want)
{
    char out[16];

    text_size(bytes, out, sizeof(out));
    assert_string_equal(out, want);
}

static void test_size(void **state)
{
    check_size(0, "0 B");
    check_size(123, "123 B");
    check_size(1023, "1023 B");
    check_size(1024, "1.0 KiB");
    check_size(4608, "4.5 KiB");
    check_size(1048524, "1023.9 KiB");
    check_size(1048575, "1.0 MiB");
    check_size(UINT64_C(1288490189), "1.2 GiB");
    check_size(UINT64_C(1) << 40, "1.0 TiB");
    check_size(UINT64_MAX, "16.0 EiB");
    check_size((UINT64_C(5) << 60) + (UINT64_C(1) << 59), "5.5 EiB");
}

static void test_format(void **state)
{
    char *s = text_format("%s-%d", "pack", 7);

    assert_string_equal(s, "pack-7");
    free(s);
}

/* ---- errors ---- */

static void test_error_set(void **state)
{
    struct error e = ERROR_INIT;

    assert_int_equal(error_set(&e, ERR_BUSY, "held by %d", 42), ERR_BUSY);
    assert_int_equal(e.code, ERR_BUSY);
    assert_int_equal(e.sys, 0);
    assert_string_equal(e.message, "held by 42");
    error_path(&e, "a\nb");
    assert_string_equal(e.path, "a\\nb");
    error_set(&e, e.code, "cannot save: %s", e.message);
    assert_string_equal(e.message, "cannot save: held by 42");
    error_clear(&e);
    assert_int_equal(e.code, 0);
    assert_string_equal(e.message, "");
    assert_string_equal(e.path, "");
}

static void test_error_is_cut_between_characters(void **state)
{
    struct error e = ERROR_INIT;
    char many[2000];

    for (size_t i = 0; i + 1 < sizeof(many); i += 2)
        memcpy(many + i, "\xc3\xa9", 2);
    many[sizeof(many) - 2] = 0;
    for (int pad = 0; pad < 4; pad++) {
        error_set(&e, ERR_FAILED, "%.*s%s", pad, "xxxx", many);
        assert_in_range(strlen(e.message), sizeof(e.message) - 3, sizeof(e.message) - 1);
        assert_true(utf8(e.message));
        error_sys(&e, ENOSPC, "%.*s%s", pad, "xxxx", many);
        assert_true(utf8(e.message));
        assert_non_null(strstr(e.message, ": No space left on device"));
    }
}

static void test_error_codes_follow_errno(void **state)
{
    static const struct {
        int sys, code;
    } want[] = {{ENOSPC, ERR_NOSPACE},  {EDQUOT, ERR_NOSPACE},   {EFBIG, ERR_NOSPACE},
                {EACCES, ERR_DENIED},   {EPERM, ERR_DENIED},     {EROFS, ERR_DENIED},
                {ENOENT, ERR_NOTFOUND}, {ENOTDIR, ERR_NOTFOUND}, {EIO, ERR_FAILED}};
    struct error e = ERROR_INIT;

    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        assert_int_equal(error_sys(&e, want[i].sys, "cannot open '%s'", "x"), want[i].code);
        assert_int_equal(e.sys, want[i].sys);
        assert_memory_equal(e.message, "cannot open 'x': ", 17);
    }
}

static void test_exit_codes(void **state)
{
    assert_int_equal(error_exit_code(0), 0);
    assert_int_equal(error_exit_code(ERR_INCOMPLETE), 3);
    assert_int_equal(error_exit_code(ERR_NOSPACE), 13);
    assert_int_equal(error_exit_code(ERR_CANCELLED), 130);
    assert_int_equal(error_exit_code(-77), 1);
    assert_string_equal(error_word(0), "ok");
    assert_string_equal(error_word(ERR_NOREPO), "no-repository");
    assert_string_equal(error_word(-77), "failed");
}

/* ---- the log ---- */

static int saved_stderr;

/* A packet-like view of fd 2: a pipe in direct mode keeps every write(2) apart. */
static int catch_stderr(void)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC | O_DIRECT | O_NONBLOCK), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    return ends[0];
}

static void give_stderr_back(int from)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(from);
}

/* The next write as a string; "" when there was none. */
static const char *caught(int from)
{
    static char line[5000];
    ssize_t n = read(from, line, sizeof(line) - 1);

    line[n > 0 ? n : 0] = 0;
    return line;
}

static void test_log_lines(void **state)
{
    const struct wall_time t = {.s = 1795230000, .ns = 123456789};
    char big[4000];
    int from = catch_stderr();

    clock_fake(&t);
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_info("watch '%s' \"q\" \\", "a\nb\x1b\xff\xc3\xa9");
    assert_string_equal(caught(from), "2026-11-21T03:00:00.123456Z info: watch 'a\\nb\\x1b\\xff"
                                      "\xc3\xa9' \"q\" \\\n");
    log_debug("not shown");
    assert_string_equal(caught(from), "");
    assert_false(log_enabled(LOG_LEVEL_DEBUG));
    assert_true(log_enabled(LOG_LEVEL_ERROR));

    log_setup(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);
    log_error("\"%s\" \\", "a\nb\x01\xff\xc2\x9b\xc3\xa9");
    assert_string_equal(caught(from),
                        "{\"time\":\"2026-11-21T03:00:00.123456Z\",\"level\":\"error\","
                        "\"message\":\"\\\"a\\u000ab\\u0001\\\\xff\\u009b\xc3\xa9\\\" \\\\\"}\n");

    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    log_setup(LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
    log_warn("%s", big);
    const char *line = caught(from);
    assert_string_equal(line + strlen(line) - 5, "x...\n");
    assert_string_equal(caught(from), "");
    clock_fake(NULL);
    give_stderr_back(from);
}

static void test_log_to_the_journal_has_priorities(void **state)
{
    struct stat st;
    char stream[64];
    int from = catch_stderr();

    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    log_warn("disk is slow");
    assert_string_equal(caught(from), "<4>disk is slow\n");
    unsetenv("JOURNAL_STREAM");
    log_setup(LOG_LEVEL_WARN, LOG_FORMAT_TEXT);
    give_stderr_back(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_paths_in_the_order_of_a_walk),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_escape_cuts_cleanly),
        cmocka_unit_test(test_lossy_twin_is_utf8),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_error_set),
        cmocka_unit_test(test_error_is_cut_between_characters),
        cmocka_unit_test(test_error_codes_follow_errno),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_log_lines),
        cmocka_unit_test(test_log_to_the_journal_has_priorities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
