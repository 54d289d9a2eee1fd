/* JSON files and databases that were whole and are not: what makes a snapshot not good. */
#include "save_fixture.h"

#include "base/json_check.h"
#include "snapshot/content_class.h"
#include "snapshot/selector.h"
#include "snapshot/spoilt.h"

#include <sqlite3.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
enum { DAY = 86400 };

/* ---- whole JSON ---- */

static enum json_verdict check(const char *text, size_t n, size_t piece)
{
    struct json_check c;

    json_check_init(&c);
    for (size_t at = 0; at < n; at += piece)
        json_check_feed(&c, text + at, n - at < piece ? n - at : piece);
    return json_check_end(&c);
}

static void json_that_is_whole(void **state)
{
    static const char *const texts[] = {"{}",
                                        "[]",
                                        " [ ] ",
                                        "{\"a\":1}",
                                        "[1,2.5,-0.1e+10,0,1E5,-0]",
                                        "[[[[]]],{}]",
                                        "null",
                                        "true",
                                        "false",
                                        "-12",
                                        "0",
                                        "3.25\n",
                                        "\"x\"",
                                        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\"",
                                        "{\"a\" : {\"b\":[1,\n{\"c\":null}]} , \"\" :\t\"\"}",
                                        "[NaN,Infinity,-Infinity]",
                                        "\xef\xbb\xbf{\"a\":\"\xc3\xa4\"}",
                                        "[\"\xff\"]"};

    for (size_t i = 0; i < COUNT(texts); i++) {
        for (size_t piece = 1; piece < 9; piece += 7)
            if (check(texts[i], strlen(texts[i]), piece) != JSON_WHOLE)
                fail_msg("%s", texts[i]);
    }
}

static void json_that_is_not(void **state)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "{",
                                        "}",
                                        "[",
                                        "[}",
                                        "{]",
                                        "[1,]",
                                        "{\"a\":1,}",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{a:1}",
                                        "{1:1}",
                                        "[1 2]",
                                        "[01]",
                                        "[1.]",
                                        "[.5]",
                                        "[1e]",
                                        "[+1]",
                                        "-",
                                        "nul",
                                        "nulll",
                                        "[tru]",
                                        "[\"a]",
                                        "[\"\n\"]",
                                        "[\"\\x\"]",
                                        "[\"\\u12g4\"]",
                                        "{} {}",
                                        "[],",
                                        "[1]x",
                                        "{\"a\"::1}",
                                        "\xef\xbb[]",
                                        "[Nan]",
                                        "[-]",
                                        "1 2",
                                        "[1,,2]",
                                        "{\"a\":1 \"b\":2}",
                                        ",",
                                        ":"};
    static const char zeros[] = "{\"a\":1}\0\0\0";

    for (size_t i = 0; i < COUNT(texts); i++) {
        for (size_t piece = 1; piece < 9; piece += 7)
            if (check(texts[i], strlen(texts[i]), piece) != JSON_NOT)
                fail_msg("%s", texts[i]);
    }
    assert_int_equal(check(zeros, sizeof(zeros), 100), JSON_NOT);
}

/* Of a longer text no beginning is whole. */
static void json_cut_anywhere(void **state)
{
    static const char text[] =
        "{\"user\": {\"name\": \"J\\u00fcrg\", \"tags\": [\"a\", \"b\\n\"]}, "
        "\"balance\": -1203.50e2, \"open\": true, \"rest\": [{}, [], null]}";

    for (size_t n = 0; n + 1 < sizeof(text); n++)
        assert_int_equal(check(text, n, 3), JSON_NOT);
    assert_int_equal(check(text, sizeof(text) - 1, 3), JSON_WHOLE);
}

/* However it comes in pieces, and whatever byte is wrong. */
static void json_in_pieces(void **state)
{
    static const char text[] =
        "{\"a long name, without anything in it\": [\"and a value \\\" with\", 12345678901, "
        "1.2345678901e-12, true, {\"\": null}],\n\t\"x\": \"0123456\\u00e4\"}";
    struct lcg r = {11};

    for (int i = 0; i < 20000; i++) {
        char copy[sizeof(text)];
        memcpy(copy, text, sizeof(text));
        for (unsigned wrong = next(&r, 3); wrong > 0; wrong--)
            copy[next(&r, sizeof(text) - 1)] = (char)next(&r, 256);
        enum json_verdict one = check(copy, sizeof(text) - 1, 1);
        assert_int_equal(check(copy, sizeof(text) - 1, sizeof(text)), one);
        assert_int_equal(check(copy, sizeof(text) - 1, 1 + next(&r, 40)), one);
    }
}

static void json_that_is_deep(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 4];

    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_int_equal(check(text, 2 * JSON_DEPTH_MAX, 1000), JSON_WHOLE);
    assert_int_equal(check(text, 2 * JSON_DEPTH_MAX - 1, 1000), JSON_NOT);
    memset(text, '[', JSON_DEPTH_MAX + 1);
    assert_int_equal(check(text, JSON_DEPTH_MAX + 1, 1000), JSON_UNKNOWN);
}

/* ---- what a file is ---- */

static enum content_class class_of(const char *name, const void *p, size_t n,
                                   enum content_class before)
{
    struct content_look l;

    content_look_begin(&l, name);
    content_look_feed(&l, p, n);
    return content_look_end(&l, n, before);
}

static void classes(void **state)
{
    static const struct {
        const char *name, *text;
        enum content_class before, is;
    } cases[] = {
        {"a.json", "{}", CONTENT_OTHER, CONTENT_JSON},
        {"A.JSON", " \n[1]", CONTENT_TEXT, CONTENT_JSON},
        {"a.json", "{", CONTENT_OTHER, CONTENT_JSON_BROKEN},
        {"a.json", "hello", CONTENT_OTHER, CONTENT_TEXT}, /* JSON by its name alone is none */
        {"a.json", "hello", CONTENT_JSON, CONTENT_JSON_BROKEN},
        {"a.json", "", CONTENT_JSON, CONTENT_JSON_BROKEN},
        {"a.json", "  \n", CONTENT_JSON, CONTENT_JSON_BROKEN},
        {"a.json", "", CONTENT_OTHER, CONTENT_OTHER},
        {"a.json", "null", CONTENT_JSON, CONTENT_JSON},
        {"a.json", "[1]", CONTENT_JSON_BROKEN, CONTENT_JSON},
        {"a.txt", "{}", CONTENT_OTHER, CONTENT_TEXT},
        {"json", "{}", CONTENT_OTHER, CONTENT_TEXT},
        {".json", "{}", CONTENT_OTHER, CONTENT_TEXT},
        {"a.log", "line\n\tline\r\n", CONTENT_OTHER, CONTENT_TEXT},
        {"a.log", "gr\xc3\xbc\xc3\x9f", CONTENT_OTHER, CONTENT_TEXT},
        {"a.log", "\x01\x02", CONTENT_TEXT, CONTENT_OTHER},
        {"a.log", "gr\xfc\xdf", CONTENT_OTHER, CONTENT_OTHER},
        {"a.log", "", CONTENT_TEXT, CONTENT_OTHER},
        {"a.db", "", CONTENT_SQLITE, CONTENT_SQLITE_BROKEN},
        {"a.db", "overwritten", CONTENT_SQLITE, CONTENT_SQLITE_BROKEN},
        {"a.db", "overwritten", CONTENT_SQLITE_BROKEN, CONTENT_SQLITE_BROKEN},
        {"a.db", "", CONTENT_OTHER, CONTENT_OTHER},
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        if (class_of(cases[i].name, cases[i].text, strlen(cases[i].text), cases[i].before) !=
            cases[i].is)
            fail_msg("case %zu: '%s' '%s'", i, cases[i].name, cases[i].text);
}

/* A character may be cut where the look ends, not before. */
static void text_is_looked_at_to_its_bound(void **state)
{
    char text[5000];

    memset(text, 'a', sizeof(text));
    text[4095] = (char)0xc3;
    text[4096] = (char)0xa4;
    assert_int_equal(class_of("a", text, sizeof(text), CONTENT_OTHER), CONTENT_TEXT);
    text[4999] = 0;
    assert_int_equal(class_of("a", text, sizeof(text), CONTENT_OTHER), CONTENT_TEXT);
    text[4000] = (char)0xc3;
    assert_int_equal(class_of("a", text, sizeof(text), CONTENT_OTHER), CONTENT_OTHER);
}

/* ---- saves ---- */

static uint64_t save_at(struct saver *v, int64_t day, int64_t second)
{
    struct wall_time t = {.s = 1795000000 + day * DAY + second};

    /* The files' own stamps are of the real clock: nothing of them may be believed. */
    struct save_request q = {.rehash = true};
    clock_fake(&t);
    MUST(try_save(v, &q), v->error);
    clock_fake(NULL);
    return v->last.snapshot;
}

static const char *spoilt(struct saver *v)
{
    static char text[256];

    text[0] = 0;
    for (size_t i = 0; i < v->last.spoilt_count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s %s", i ? ", " : "",
                 v->last.spoilt[i].path, v->last.spoilt[i].reason);
    return text;
}

static void put_json(const struct place *p, const char *path, int entries)
{
    struct buffer b = BUFFER_INIT;

    buffer_append_str(&b, "[");
    for (int i = 0; i < entries; i++)
        buffer_printf(&b, "%s{\"n\": %d}", i ? ", " : "", i);
    buffer_append_str(&b, "]\n");
    put_bytes(p, path, b.data, b.len);
    buffer_release(&b);
}

static enum snapshot_good good_of(struct saver *v, uint64_t number)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;

    MUST(catalog_snapshot(repo_catalog(v->repo), number, &row, &e), e);
    enum snapshot_good g = snapshot_good(&row);
    snapshot_row_release(&row);
    return g;
}

static void emptied_and_put_right(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    put_json(p, "data.json", 20);
    put_text(p, "other", "1");
    assert_int_equal(save_at(&v, 0, 0), 1);
    assert_string_equal(spoilt(&v), "");
    put_text(p, "data.json", "");
    assert_int_equal(save_at(&v, 0, 1), 2);
    assert_string_equal(spoilt(&v), "data.json is empty");
    assert_int_equal(commit_of(&v, 2, NULL).spoilt, 1);
    assert_int_equal(commit_of(&v, 2, NULL).declassed, 1);
    assert_int_equal(good_of(&v, 1), SNAPSHOT_GOOD_UNKNOWN);
    assert_int_equal(good_of(&v, 2), SNAPSHOT_NOT_GOOD);
    /* It does not become right by staying so. */
    put_text(p, "other", "22");
    assert_int_equal(save_at(&v, 0, 2), 3);
    assert_string_equal(spoilt(&v), "data.json is empty");
    assert_int_equal(commit_of(&v, 3, NULL).spoilt, 1);
    assert_int_equal(commit_of(&v, 3, NULL).declassed, 0);
    /* Nothing changed: told all the same. */
    assert_int_equal(save_at(&v, 0, 2), 0);
    assert_string_equal(spoilt(&v), "data.json is empty");
    /* Broken in another way. */
    put_text(p, "data.json", "[{\"n\": 0}, {\"n");
    assert_int_equal(save_at(&v, 0, 3), 4);
    assert_string_equal(spoilt(&v), "data.json is broken");
    assert_int_equal(commit_of(&v, 4, NULL).spoilt, 1);
    put_json(p, "data.json", 19);
    assert_int_equal(save_at(&v, 0, 4), 5);
    assert_string_equal(spoilt(&v), "");
    assert_int_equal(commit_of(&v, 5, NULL).spoilt, 0);
    assert_int_equal(good_of(&v, 5), SNAPSHOT_GOOD_UNKNOWN);
    assert_counted(&v);
    saver_close(&v);
}

static void what_was_never_whole_spoils_nothing(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    put_text(p, "broken.json", "{\"a\": // a comment\n1}");
    put_text(p, "empty.json", "");
    put_text(p, "words.json", "no JSON at all");
    assert_int_equal(save_at(&v, 0, 0), 1);
    put_text(p, "broken.json", "{\"a\": // another comment\n1}");
    put_text(p, "words.json", "still none");
    put_text(p, "new.json", "{\"half");
    assert_int_equal(save_at(&v, 0, 1), 2);
    assert_string_equal(spoilt(&v), "");
    assert_int_equal(commit_of(&v, 2, NULL).spoilt, 0);
    assert_int_equal(commit_of(&v, 2, NULL).declassed, 0);
    saver_close(&v);
}

static void logs_grow_and_shrink(void **state)
{
    const struct place *p = *state;
    static char line[20000];
    struct saver v;

    saver_open(&v, p, "repo");
    memset(line, 'x', sizeof(line));
    put_bytes(p, "a.log", line, sizeof(line));
    assert_int_equal(save_at(&v, 0, 0), 1);
    put_bytes(p, "a.log", line, 10);
    assert_int_equal(save_at(&v, 0, 1), 2);
    put_bytes(p, "a.log", line, 0);
    assert_int_equal(save_at(&v, 0, 2), 3);
    assert_string_equal(spoilt(&v), "");
    assert_int_equal(commit_of(&v, 3, NULL).declassed, 0);
    saver_close(&v);
}

static void shrunk_below_half_of_its_median(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    for (int i = 0; i < 5; i++) {
        put_json(p, "data.json", 100 + i);
        assert_int_equal(save_at(&v, i, 0), i + 1);
    }
    put_json(p, "data.json", 60); /* more than half */
    assert_int_equal(save_at(&v, 5, 0), 6);
    assert_string_equal(spoilt(&v), "");
    put_json(p, "data.json", 45); /* of the last one more than half, of the median less */
    assert_int_equal(save_at(&v, 5, 10), 7);
    assert_string_equal(spoilt(&v), "data.json is less than half of what it was");
    assert_int_equal(commit_of(&v, 7, NULL).spoilt, 1);
    assert_int_equal(commit_of(&v, 7, NULL).declassed, 0);
    put_json(p, "data.json", 46);
    assert_int_equal(save_at(&v, 5, 20), 8);
    assert_string_equal(spoilt(&v), "data.json is less than half of what it was");
    put_json(p, "data.json", 70);
    assert_int_equal(save_at(&v, 5, 30), 9);
    assert_string_equal(spoilt(&v), "");
    saver_close(&v);
}

/* What has been so for seven days is how the file is. */
static void seven_days_later(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    put_json(p, "data.json", 50);
    put_json(p, "less.json", 50);
    put_json(p, "again.json", 50);
    put_text(p, "other", "0");
    assert_int_equal(save_at(&v, 0, 0), 1);
    put_text(p, "data.json", "");
    put_json(p, "less.json", 2);
    assert_int_equal(save_at(&v, 1, 0), 2);
    assert_int_equal(commit_of(&v, 2, NULL).spoilt, 2);
    for (int day = 2; day < 8; day++) {
        char text[8];
        snprintf(text, sizeof(text), "%d", day);
        put_text(p, "other", text);
        assert_int_equal(save_at(&v, day, 0), day + 1);
        assert_true(commit_of(&v, (uint64_t)day + 1, NULL).spoilt > 0);
    }
    put_text(p, "again.json", "{");
    assert_int_equal(save_at(&v, 8, 10), 9);
    assert_string_equal(spoilt(&v), "again.json is broken");
    assert_int_equal(commit_of(&v, 9, NULL).spoilt, 1);
    /* Another way of being broken was pardoned with the first. */
    put_text(p, "data.json", "{");
    assert_int_equal(save_at(&v, 8, 20), 10);
    assert_string_equal(spoilt(&v), "again.json is broken");
    /* From now on whole, and empty again: that is new. */
    put_json(p, "data.json", 50);
    assert_int_equal(save_at(&v, 8, 30), 11);
    put_text(p, "data.json", "");
    assert_int_equal(save_at(&v, 8, 40), 12);
    assert_string_equal(spoilt(&v), "again.json is broken, data.json is empty");
    assert_counted(&v);
    saver_close(&v);
}

static void accepted(void **state)
{
    const struct place *p = *state;
    struct save_request q = {.accept = true};
    struct saver v;

    saver_open(&v, p, "repo");
    put_json(p, "data.json", 50);
    put_json(p, "less.json", 50);
    save_all(&v);
    put_text(p, "data.json", "");
    let_stamps_age(p);
    assert_int_equal(save_all(&v), 2);
    put_json(p, "less.json", 1);
    MUST(try_save(&v, &q), v.error);
    assert_int_equal(v.last.snapshot, 3);
    assert_string_equal(spoilt(&v), "");
    assert_int_equal(commit_of(&v, 3, NULL).spoilt, 0);
    assert_int_equal(save_all(&v), 0);
    saver_close(&v);
}

/* Gone, or under another name, it spoils nothing any more; what moves keeps its flag. */
static void removed_and_moved(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    make_dir(p, "d");
    put_json(p, "d/a.json", 50);
    put_json(p, "b.json", 50);
    save_all(&v);
    put_text(p, "d/a.json", "");
    put_text(p, "b.json", "[");
    save_all(&v);
    assert_string_equal(spoilt(&v), "b.json is broken, d/a.json is empty");
    SYS(renameat(p->rootfd, "d", p->rootfd, "e"));
    save_all(&v);
    assert_string_equal(spoilt(&v), "b.json is broken, e/a.json is empty");
    SYS(unlinkat(p->rootfd, "b.json", 0));
    assert_int_equal(save_all(&v), 4);
    assert_int_equal(commit_of(&v, 4, NULL).spoilt, 1);
    SYS(unlinkat(p->rootfd, "e/a.json", 0));
    assert_int_equal(save_all(&v), 5);
    assert_int_equal(commit_of(&v, 5, NULL).spoilt, 0);
    saver_close(&v);
}

/* Programs write a new file and rename it over the old one. */
static void replaced_by_a_broken_one(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    put_json(p, "a.json", 50000); /* read piece by piece */
    save_all(&v);
    put_json(p, "new", 50000);
    SYS(renameat(p->rootfd, "new", p->rootfd, "a.json"));
    save_all(&v);
    assert_string_equal(spoilt(&v), "");
    struct stat st;
    put_json(p, "new", 60000);
    SYS(fstatat(p->rootfd, "new", &st, 0));
    int fd = openat(p->rootfd, "new", O_WRONLY | O_CLOEXEC);
    SYS(ftruncate(fd, st.st_size * 9 / 10));
    close(fd);
    SYS(renameat(p->rootfd, "new", p->rootfd, "a.json"));
    save_all(&v);
    assert_string_equal(spoilt(&v), "a.json is broken");
    /* As long as it was, but of zeros: what a crash leaves. */
    fd = openat(p->rootfd, "a.json", O_WRONLY | O_TRUNC | O_CLOEXEC);
    SYS(ftruncate(fd, st.st_size));
    close(fd);
    save_all(&v);
    assert_string_equal(spoilt(&v), "a.json is broken");
    saver_close(&v);
}

static void make_db(const struct place *p, const char *name, int rows)
{
    char path[160], sql[160];
    sqlite3 *db = NULL;

    snprintf(path, sizeof(path), "%s/%s", p->root, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(
        sql, sizeof(sql),
        "CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE "
        "i<%d) INSERT INTO t SELECT hex(randomblob(50)) FROM n",
        rows);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void databases(void **state)
{
    const struct place *p = *state;
    struct saver v;

    if (!getenv("WATCHKEEP_HELPER")) {
        print_message("WATCHKEEP_HELPER is not set: no database is captured here\n");
        skip();
    }
    saver_open(&v, p, "repo");
    make_db(p, "a.db", 1000);
    make_db(p, "b.db", 1000);
    save_all(&v);
    assert_string_equal(spoilt(&v), "");
    put_text(p, "a.db", "");
    SYS(unlinkat(p->rootfd, "b.db", 0));
    make_db(p, "b.db", 1);
    save_all(&v);
    assert_string_equal(spoilt(&v), "a.db is empty, b.db is less than half of what it was");
    assert_int_equal(commit_of(&v, 2, NULL).declassed, 1);
    SYS(unlinkat(p->rootfd, "b.db", 0));
    make_db(p, "b.db", 900);
    put_text(p, "a.db", "this is no database, though its name says so");
    save_all(&v);
    assert_string_equal(spoilt(&v), "a.db is broken");
    saver_close(&v);
}

static uint64_t classed(struct saver *v)
{
    struct error e = ERROR_INIT;
    uint64_t count = 0;

    MUST(spoilt_count_classed(repo_catalog(v->repo), watch_serial(v), &count, &e), e);
    return count;
}

/* Text that is text no longer, as when all is encrypted. */
static void declassed_files_are_counted(void **state)
{
    const struct place *p = *state;
    char noise[300], name[32];
    struct lcg r = {7};
    struct saver v;

    saver_open(&v, p, "repo");
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "f%d.txt", i);
        put_text(p, name, "some words\n");
    }
    put_json(p, "a.json", 10);
    save_all(&v);
    assert_int_equal(commit_of(&v, 1, NULL).declassed, 0);
    assert_int_equal(classed(&v), 11);
    for (int i = 0; i < 11; i++) {
        for (size_t j = 0; j < sizeof(noise); j++)
            noise[j] = (char)next(&r, 256);
        snprintf(name, sizeof(name), i < 10 ? "f%d.txt" : "a.json", i);
        if (i != 3)
            put_bytes(p, name, noise, sizeof(noise));
    }
    save_all(&v);
    assert_int_equal(commit_of(&v, 2, NULL).declassed, 10);
    assert_int_equal(classed(&v), 1);
    saver_close(&v);
}

/* What is said in the commit is there after the catalog was made anew. */
static void rebuilt(void **state)
{
    const struct place *p = *state;
    const struct repo_options opt = {.wait_ms = 1000, .codec = CODEC_ZSTD};
    struct error e = ERROR_INIT;
    char path[128];
    struct saver v;

    saver_open(&v, p, "repo");
    put_json(p, "a.json", 10);
    save_all(&v);
    put_text(p, "a.json", "");
    save_all(&v);
    repo_close(v.repo);
    snprintf(path, sizeof(path), "%s/catalog.db", v.repo_path);
    SYS(unlink(path));
    MUST(repo_open(v.repo_path, REPO_WRITE, &opt, &v.repo, &e), e);
    assert_int_equal(commit_of(&v, 2, NULL).spoilt, 1);
    assert_int_equal(save_all(&v), 0);
    assert_string_equal(spoilt(&v), "a.json is empty");
    saver_close(&v);
}

#define SAVE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_that_is_whole),
        cmocka_unit_test(json_that_is_not),
        cmocka_unit_test(json_cut_anywhere),
        cmocka_unit_test(json_in_pieces),
        cmocka_unit_test(json_that_is_deep),
        cmocka_unit_test(classes),
        cmocka_unit_test(text_is_looked_at_to_its_bound),
        SAVE_TEST(emptied_and_put_right),
        SAVE_TEST(what_was_never_whole_spoils_nothing),
        SAVE_TEST(logs_grow_and_shrink),
        SAVE_TEST(shrunk_below_half_of_its_median),
        SAVE_TEST(seven_days_later),
        SAVE_TEST(accepted),
        SAVE_TEST(removed_and_moved),
        SAVE_TEST(replaced_by_a_broken_one),
        SAVE_TEST(databases),
        SAVE_TEST(declassed_files_are_counted),
        SAVE_TEST(rebuilt),
    };

    return cmocka_run_group_tests_name("spoilt", tests, NULL, NULL);
}
