#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/pattern.h"

#include <string.h>

#include "base/banned.h"

/* A path with a slash at its end is a folder. */
static enum pattern_verdict verdict(const struct pattern_list *l, const char *path)
{
    char name[512];
    size_t n = strlen(path);
    bool is_dir = path[n - 1] == '/';

    memcpy(name, path, n + 1);
    name[n - is_dir] = 0;
    return pattern_list_match(l, name, is_dir);
}

struct golden {
    const char *pattern;
    const char *yes[6]; /* paths it matches */
    const char *no[6];  /* and paths it does not */
};

/* What git check-ignore says of each path alone. */
static const struct golden table[] = {
    {"foo", {"foo", "a/foo", "a/b/foo/"}, {"foobar", "foo/x", "Foo"}},
    {"/foo", {"foo", "foo/"}, {"a/foo", "foo/x"}},
    {"foo/", {"foo/", "a/foo/"}, {"foo", "a/foo"}},
    {"/foo/", {"foo/"}, {"foo", "a/foo/"}},
    {"a/foo", {"a/foo"}, {"b/a/foo", "foo"}},
    {"a/foo/", {"a/foo/"}, {"a/foo", "b/a/foo/"}},
    {"*.o", {"x.o", "a/x.o", ".o"}, {"x.oo", "x.o/y"}},
    {"/*.o", {"x.o"}, {"a/x.o"}},
    {"a/*.o", {"a/x.o"}, {"a/b/x.o", "x.o"}},
    {"a/*", {"a/x", "a/x/", "a/.hidden"}, {"a", "a/x/y"}},
    {"f?o", {"foo", "fxo", "a/f-o"}, {"fo", "fooo", "f/o"}},
    {"a/?/b", {"a/x/b"}, {"a/b", "a//b", "a/xx/b"}},
    {"**/foo", {"foo", "a/foo", "a/b/foo"}, {"afoo", "foo/a"}},
    {"**/foo/bar", {"foo/bar", "a/foo/bar"}, {"foo/a/bar", "bar"}},
    {"a/**", {"a/x", "a/x/y", "a/x/"}, {"a", "a/", "b/a/x"}},
    {"a/**/b", {"a/b", "a/x/b", "a/x/y/b"}, {"a/xb", "ab", "a/b/c", "x/a/b"}},
    {"a/**/b/**/c", {"a/b/c", "a/1/b/2/3/c", "a/b/b/c"}, {"a/c", "a/b", "a/b/c/d"}},
    {"/**", {"a", "a/b"}, {NULL}},
    {"**", {"a", "a/b", "a/"}, {NULL}},
    {"**/", {"a/", "a/b/"}, {"a", "a/b"}},
    {"**/*.log", {"x.log", "a/b/x.log"}, {"x.log/a"}},
    {"a**b", {"ab", "axxb", "d/axb"}, {"a/b", "axc"}},
    {"x/a**/b", {"x/a/b", "x/aq/b"}, {"x/a/q/b"}},
    {"a/**/**/b", {"a/b", "a/x/y/b"}, {"a"}},
    {"[abc]", {"a", "c", "d/b"}, {"d", "ab"}},
    {"[a-c]x", {"ax", "cx"}, {"dx", "-x"}},
    {"[!a-c]x", {"dx", "-x"}, {"ax", "x"}},
    {"[^a-c]x", {"dx"}, {"ax"}},
    {"[]x]", {"]", "x"}, {"a"}},
    {"[!]x]", {"a"}, {"]", "x"}},
    {"[a-]", {"a", "-"}, {"b"}},
    {"[\\]a]", {"]", "a"}, {"\\"}},
    {"[\\\\]", {"\\"}, {"a"}},
    {"[[:digit:]x]y", {"7y", "xy"}, {"dy", ":y"}},
    {"[![:alpha:]]", {"7", "_"}, {"a", "Z"}},
    {"[[:xdigit:][:space:]]", {"f", " "}, {"g"}},
    {"a[/]b", {NULL}, {"a/b"}},
    {"[/b]c", {"bc"}, {"/c", "a/bc"}},
    {"[z-a]", {"z"}, {"a", "m"}},
    {"d/a[!x]b", {"d/ayb"}, {"d/a/b", "d/axb"}},
    {"[abc", {NULL}, {"a", "[abc"}},
    {"a\\*b", {"a*b"}, {"axb", "a\\*b"}},
    {"a\\?", {"a?"}, {"ax"}},
    {"\\[x]", {"[x]"}, {"x"}},
    {"\\#x", {"#x"}, {"x"}},
    {"\\!x", {"!x"}, {"x"}},
    {"a\\b", {"ab"}, {"a\\b"}},
    {"end\\", {NULL}, {"end", "end\\"}},
    {"keep\\ ", {"keep "}, {"keep"}},
    {"trim   ", {"trim"}, {"trim   "}},
    {"in side", {"in side"}, {"inside"}},
    {"two\\\\ ", {"two\\"}, {"two\\ "}},
    {"cr\r\n", {"cr"}, {"cr\r"}},
    {"\xff*", {"\xff", "\xff\xfe"}, {"x"}},
    {"*", {"a", "a/b", "a/"}, {NULL}},
    {"*a*b*", {"ab", "xaxbx"}, {"ba", "a", "b"}},
    {"a//b", {NULL}, {"a/b", "b"}},
};

static void test_table(void **state)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct golden *g = &table[i];
        struct pattern_list *l = pattern_list_new();
        struct error e = ERROR_INIT;

        assert_int_equal(pattern_list_add(l, "", g->pattern, &e), 0);
        for (size_t k = 0; k < 6 && g->yes[k]; k++) {
            if (verdict(l, g->yes[k]) != PATTERN_MATCH)
                fail_msg("'%s' does not match '%s'", g->pattern, g->yes[k]);
        }
        for (size_t k = 0; k < 6 && g->no[k]; k++) {
            if (verdict(l, g->no[k]) != PATTERN_NONE)
                fail_msg("'%s' matches '%s'", g->pattern, g->no[k]);
        }
        pattern_list_free(l);
    }
}

static struct pattern_list *list_of(const char *const *patterns, const char *base)
{
    struct pattern_list *l = pattern_list_new();
    struct error e = ERROR_INIT;

    assert_non_null(l);
    for (; *patterns; patterns++)
        assert_int_equal(pattern_list_add(l, base, *patterns, &e), 0);
    return l;
}

static void test_last_match_decides(void **state)
{
    static const char *const patterns[] = {"*.log", "!keep.log", "/old/", "/old/keep.log", NULL};
    struct pattern_list *l = list_of(patterns, "");

    assert_int_equal(verdict(l, "a.log"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "keep.log"), PATTERN_NEGATED);
    assert_int_equal(verdict(l, "x/keep.log"), PATTERN_NEGATED);
    assert_int_equal(verdict(l, "old/keep.log"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "old/"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "a.txt"), PATTERN_NONE);
    pattern_list_free(l);
}

static void test_base(void **state)
{
    static const char *const patterns[] = {"/build", "*.tmp", "doc/*.html", NULL};
    struct pattern_list *l = list_of(patterns, "sub/dir/");

    assert_int_equal(verdict(l, "sub/dir/build"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "sub/dir/x/build"), PATTERN_NONE);
    assert_int_equal(verdict(l, "build"), PATTERN_NONE);
    assert_int_equal(verdict(l, "sub/dir/x/y.tmp"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "sub/y.tmp"), PATTERN_NONE);
    assert_int_equal(verdict(l, "sub/directory/y.tmp"), PATTERN_NONE);
    assert_int_equal(verdict(l, "sub/dir/doc/a.html"), PATTERN_MATCH);
    assert_int_equal(verdict(l, "sub/dir/"), PATTERN_NONE);
    pattern_list_free(l);
}

static void test_lines_that_say_nothing(void **state)
{
    static const char *const patterns[] = {"", "   ", "# note", "\n", "\r\n", "!", "/", "!/", NULL};
    struct pattern_list *l = list_of(patterns, "");

    assert_true(pattern_list_empty(l));
    assert_int_equal(verdict(l, "# note"), PATTERN_NONE);
    pattern_list_free(l);
    pattern_list_free(NULL);
}

static void test_length_limit(void **state)
{
    struct pattern_list *l = pattern_list_new();
    struct error e = ERROR_INIT;
    char longest[4098];

    memset(longest, 'a', sizeof(longest));
    longest[4096] = 0;
    assert_int_equal(pattern_list_add(l, "", longest, &e), 0);
    longest[4096] = 'a';
    longest[4097] = 0;
    assert_int_equal(pattern_list_add(l, "", longest, &e), ERR_USAGE);
    assert_false(pattern_list_empty(l));
    pattern_list_free(l);
}

/* With plain backtracking any of these takes longer than the universe has. */
static void test_hostile_patterns_are_quick(void **state)
{
    char stars[4097];
    char deep[4097];
    char classes[4097];
    char name[256];
    char path[4001];

    for (size_t i = 0; i + 2 <= 4094; i += 2)
        memcpy(stars + i, "a*", 2);
    memcpy(stars + 4094, "b", 2);
    for (size_t i = 0; i + 5 <= 4000; i += 5)
        memcpy(deep + i, "**/a/", 5);
    memcpy(deep + 4000, "b", 2);
    for (size_t i = 0; i + 2 <= 4092; i += 2)
        memcpy(classes + i, "[:", 2);
    memcpy(classes + 4092, "]*b", 4);
    memset(name, 'a', 255);
    name[255] = 0;
    for (size_t i = 0; i + 2 <= 4000; i += 2)
        memcpy(path + i, "a/", 2);
    path[3999] = 0;

    const char *const patterns[] = {stars, deep, classes, "a*a*a*a*a*a*a*a*a*a*a*b", NULL};
    struct pattern_list *l = list_of(patterns, "");
    uint64_t before = clock_mono_ns();
    assert_int_equal(pattern_list_match(l, name, false), PATTERN_NONE);
    assert_int_equal(pattern_list_match(l, path, false), PATTERN_NONE);
    assert_true(clock_mono_ns() - before < UINT64_C(20) * 1000000000);
    pattern_list_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_last_match_decides),
        cmocka_unit_test(test_base),         cmocka_unit_test(test_lines_that_say_nothing),
        cmocka_unit_test(test_length_limit), cmocka_unit_test(test_hostile_patterns_are_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
