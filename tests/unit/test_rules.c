/* Which paths of a watch are in. */
#include "snapshot/rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "scratch.h"

static struct rules *make(const struct scratch *s, const char *const *include,
                          const char *const *exclude, const char *const *own)
{
    const struct watch_spec spec = {.name = "w",
                                    .root = s->path,
                                    .include = include,
                                    .exclude = exclude,
                                    .sqlite = true,
                                    .own_paths = own};
    struct error e = ERROR_INIT;
    struct rules *r = NULL;

    assert_int_equal(rules_new(&spec, &r, &e), 0);
    return r;
}

static void put(const struct scratch *s, const char *name, const char *text)
{
    int fd = openat(s->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static bool file_in(const struct scratch *s, struct rules *r, const char *path)
{
    return rules_want(r, s->fd, path, false, NULL, NULL);
}

static bool folder_in(const struct scratch *s, struct rules *r, const char *path)
{
    return rules_want(r, s->fd, path, true, NULL, NULL);
}

static void without_rules_all_is_in(void **state)
{
    const struct scratch *s = *state;
    struct rules *r = make(s, NULL, NULL, NULL);

    assert_true(folder_in(s, r, ""));
    assert_true(file_in(s, r, "a/b/c"));
    assert_true(rules_want_in(r, "a", false, NULL));
    assert_string_equal(rules_text(r), "");
    rules_free(r);
}

static void what_is_below_an_excluded_folder_is_out(void **state)
{
    const struct scratch *s = *state;
    const char *const exclude[] = {"cache/", "*.tmp", "!keep.tmp", NULL};
    struct rules *r = make(s, NULL, exclude, NULL);
    const char *why = NULL;

    assert_false(folder_in(s, r, "cache"));
    assert_true(file_in(s, r, "cache")); /* a file of that name */
    assert_false(file_in(s, r, "x/cache/y/keep.tmp"));
    assert_false(file_in(s, r, "x/a.tmp"));
    assert_true(file_in(s, r, "x/keep.tmp"));
    assert_false(rules_want(r, s->fd, "x/a.tmp", false, NULL, &why));
    assert_string_equal(why, "*.tmp");
    assert_string_equal(rules_text(r), "exclude cache/\nexclude *.tmp\nexclude !keep.tmp\n");
    rules_free(r);
}

static void include_is_for_files(void **state)
{
    const struct scratch *s = *state;
    const char *const include[] = {"*.json", "data/", NULL};
    const char *const exclude[] = {"secret.json", NULL};
    struct rules *r = make(s, include, exclude, NULL);

    assert_true(file_in(s, r, "a/b.json"));
    assert_false(file_in(s, r, "a/b.txt"));
    assert_true(folder_in(s, r, "a"));
    assert_true(file_in(s, r, "a/data/deep/b.txt"));
    assert_false(file_in(s, r, "data")); /* a file, not the folder */
    assert_false(file_in(s, r, "a/data/secret.json"));
    assert_true(file_in(s, r, "a/" IGNORE_FILE_NAME));
    rules_free(r);
}

static void ignore_files_count_from_their_folder(void **state)
{
    const struct scratch *s = *state;
    struct rules *r = make(s, NULL, (const char *const[]){"*.log", NULL}, NULL);

    assert_int_equal(mkdirat(s->fd, "a", 0700), 0);
    assert_int_equal(mkdirat(s->fd, "a/b", 0700), 0);
    put(s, IGNORE_FILE_NAME, "# what is made anew\n*.o\n/top\n");
    put(s, "a/" IGNORE_FILE_NAME, "!*.log\n!main.o\nb/\n");
    assert_false(file_in(s, r, "x.o"));
    assert_false(file_in(s, r, "a/x.o"));
    assert_true(file_in(s, r, "a/main.o")); /* the deeper file decides */
    assert_false(file_in(s, r, "top"));
    assert_true(file_in(s, r, "a/top"));
    assert_false(file_in(s, r, "x.log"));
    assert_true(file_in(s, r, "a/x.log"));
    assert_false(file_in(s, r, "a/b/c"));
    assert_true(file_in(s, r, "a/" IGNORE_FILE_NAME));
    rules_free(r);
}

static void a_changed_ignore_file_is_read_again(void **state)
{
    const struct scratch *s = *state;
    struct rules *r = make(s, NULL, NULL, NULL);
    struct stat st;

    assert_true(file_in(s, r, "x.o"));
    put(s, IGNORE_FILE_NAME, "*.o\n");
    rules_forget(r, "");
    assert_false(file_in(s, r, "x.o"));

    put(s, IGNORE_FILE_NAME, "*.other\n");
    assert_int_equal(fstatat(s->fd, IGNORE_FILE_NAME, &st, 0), 0);
    assert_true(rules_see(r, s->fd, "", &st));
    assert_false(rules_see(r, s->fd, "", &st));
    assert_true(rules_want_in(r, "x.o", false, NULL));
    assert_false(rules_want_in(r, "a/x.other", false, NULL));
    assert_true(rules_see(r, s->fd, "", NULL));
    assert_true(rules_want_in(r, "x.other", false, NULL));
    rules_free(r);
}

static void what_is_ours_is_out(void **state)
{
    const struct scratch *s = *state;
    char repo[128], later[128], outside[] = "/tmp/elsewhere/repo";
    const char *const own[] = {repo, later, outside, NULL};
    const char *why = NULL;
    struct stat st;

    snprintf(repo, sizeof(repo), "%s/repo", s->path);
    snprintf(later, sizeof(later), "%s/x/later/", s->path);
    assert_int_equal(mkdirat(s->fd, "repo", 0700), 0);
    struct rules *r = make(s, NULL, NULL, own);
    assert_false(folder_in(s, r, "repo"));
    assert_false(file_in(s, r, "repo/packs/p"));
    assert_false(folder_in(s, r, "x/later")); /* by its name, before it is there */
    assert_true(folder_in(s, r, "x"));

    /* By what it is, under any name. */
    assert_int_equal(renameat(s->fd, "repo", s->fd, "moved"), 0);
    assert_int_equal(fstatat(s->fd, "moved", &st, 0), 0);
    assert_false(rules_want(r, s->fd, "moved", true, &st, &why));
    assert_string_equal(why, "watchkeep's own");
    rules_free(r);
}

/* A tree that was renamed while its events were under way: asking about what was deep in it must
 * not cost more than asking about anything else. */
static void a_deep_path_that_is_not_there_costs_little(void **state)
{
    enum { DEPTH = 3000, QUESTIONS = 50 };
    const struct scratch *s = *state;
    struct rules *r = make(s, NULL, (const char *const[]){"*.tmp", NULL}, NULL);
    char *path = calloc(1, 2 * DEPTH + 32);
    struct timespec from, to;

    assert_non_null(path);
    put(s, IGNORE_FILE_NAME, "*.o\n");
    for (unsigned i = 0; i < DEPTH; i++)
        memcpy(path + 2 * (size_t)i, "d/", 2);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (unsigned i = 0; i < QUESTIONS; i++) {
        memcpy(path + 2 * DEPTH, "x.c", 4);
        assert_true(file_in(s, r, path));
        memcpy(path + 2 * DEPTH, "x.o", 4);
        assert_false(file_in(s, r, path));
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    assert_true(to.tv_sec - from.tv_sec < 30);
    free(path);
    rules_free(r);
}

static void rules_above_are_seen_where_a_walk_begins(void **state)
{
    const struct scratch *s = *state;
    struct rules *r = make(s, NULL, NULL, NULL);

    assert_int_equal(mkdirat(s->fd, "a", 0700), 0);
    assert_int_equal(mkdirat(s->fd, "a/b", 0700), 0);
    put(s, IGNORE_FILE_NAME, "*.o\n");
    put(s, "a/b/" IGNORE_FILE_NAME, "*.log\n");
    assert_true(rules_want_in(r, "a/b/x.o", false, NULL)); /* nothing was seen yet */
    rules_see_above(r, s->fd, "a/b");
    assert_false(rules_want_in(r, "a/b/x.o", false, NULL));
    assert_false(rules_want_in(r, "a/b/x.log", false, NULL));
    assert_true(rules_want_in(r, "a/x.log", false, NULL));
    assert_true(rules_want_in(r, "a/bc.log", false, NULL));
    rules_see_above(r, s->fd, "gone/for/good");
    assert_true(rules_want_in(r, "gone/for/good/x", false, NULL));
    assert_false(rules_want_in(r, "gone/for/good/x.o", false, NULL));
    rules_free(r);
}

static void a_pattern_that_cannot_be_is_refused(void **state)
{
    const struct scratch *s = *state;
    struct error e = ERROR_INIT;
    struct rules *r;
    char *pattern = calloc(1, 6000);

    assert_non_null(pattern);
    memset(pattern, 'x', 5999);
    const char *const exclude[] = {pattern, NULL};
    const struct watch_spec spec = {.name = "w", .root = s->path, .exclude = exclude};
    assert_int_equal(rules_new(&spec, &r, &e), ERR_USAGE);
    assert_null(r);
    free(pattern);
}

int main(void)
{
#define SCRATCH_TEST(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(without_rules_all_is_in),
        SCRATCH_TEST(what_is_below_an_excluded_folder_is_out),
        SCRATCH_TEST(include_is_for_files),
        SCRATCH_TEST(ignore_files_count_from_their_folder),
        SCRATCH_TEST(a_changed_ignore_file_is_read_again),
        SCRATCH_TEST(what_is_ours_is_out),
        SCRATCH_TEST(a_deep_path_that_is_not_there_costs_little),
        SCRATCH_TEST(rules_above_are_seen_where_a_walk_begins),
        SCRATCH_TEST(a_pattern_that_cannot_be_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
