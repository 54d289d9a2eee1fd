/* What the catalog's statements cost: each finds its rows by an index, and a question about one
 * thing costs the same in a small watch and in a large one. */
#include "store/catalog_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scratch.h"

#include "base/banned.h"

enum { WATCH = 1, FOLDER = 2, FILES_FROM = 1000, FEW = 300, MANY = 60000 };

static struct catalog *open_catalog(const struct scratch *s)
{
    static const uint8_t repo_id[16] = {1, 2, 3};
    struct error e = ERROR_INIT;
    struct catalog *c = NULL;

    assert_int_equal(catalog_open(s->path, CATALOG_WRITE, false, repo_id, &c, &e), 0);
    return c;
}

/* ---- plans ---- */

static bool reads_much(const char *step)
{
    static const char *const large[] = {"names",  "nodes",     "cache", "chunks", "lists", "marks",
                                        "deltas", "snapshots", "s",     "n",      "d",     "c"};
    char scan[32], search[32];

    for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
        snprintf(scan, sizeof(scan), "SCAN %s", large[i]);
        snprintf(search, sizeof(search), "SEARCH %s ", large[i]);
        size_t n = strlen(scan);
        if (strncmp(step, scan, n) == 0 && (step[n] == 0 || step[n] == ' '))
            return true;
        /* All rows of a watch, unless the index holds but few of them. */
        if (strncmp(step, search, strlen(search)) == 0 && strstr(step, "(watch=?)") &&
            !strstr(step, "cache_pending") && !strstr(step, "snapshots_watch"))
            return true;
    }
    return strstr(step, "AUTOMATIC");
}

/* What is asked only once, when a pack is gone or was cut. */
static bool is_of_a_lost_pack(const char *name)
{
    return strcmp(name, "CHUNKS_GONE") == 0 || strcmp(name, "CHUNKS_CUT") == 0 ||
           strcmp(name, "CHUNKS_BEHIND") == 0 || strcmp(name, "CHUNKS_DEAD") == 0;
}

static void every_statement_finds_its_rows_by_an_index(void **state)
{
    static const struct {
        const char *name, *sql;
    } all[] = {
#define X(name, sql) {#name, sql},
        CATALOG_STATEMENTS(X)
#undef X
    };
    struct catalog *c = open_catalog(*state);
    unsigned steps = 0, bad = 0;

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        char sql[1024];
        sqlite3_stmt *s = NULL;
        snprintf(sql, sizeof(sql), "EXPLAIN QUERY PLAN %s", all[i].sql);
        if (sqlite3_prepare_v2(c->db, sql, -1, &s, NULL) != SQLITE_OK)
            fail_msg("%s: %s", all[i].name, sqlite3_errmsg(c->db));
        while (sqlite3_step(s) == SQLITE_ROW) {
            const char *step = (const char *)sqlite3_column_text(s, 3);
            steps++;
            if (reads_much(step) && !is_of_a_lost_pack(all[i].name)) {
                print_error("%s: %s\n", all[i].name, step);
                bad++;
            }
        }
        sqlite3_finalize(s);
    }
    assert_int_equal(bad, 0);
    assert_true(steps > 20);
    catalog_close(c);
}

/* ---- cost ---- */

/* A folder of `count` files, each with a cached signature, and beside it a folder with two names of
 * one file. */
static void fill(struct catalog *c, unsigned count)
{
    const long long base = cat_node_id(WATCH, 0);
    char sql[1600];

    snprintf(sql, sizeof(sql),
             "BEGIN; WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM k WHERE i<%u-1) "
             "INSERT INTO names SELECT %d,1,CAST(printf('f%%07d',i) AS BLOB),1,%d+i FROM k;"
             "INSERT INTO nodes SELECT %lld+node,from_,0,zeroblob(60) FROM names;"
             "INSERT INTO cache SELECT %lld+node,1000+node,0,zeroblob(60) FROM names;"
             "INSERT INTO names VALUES(%d,1,CAST('folder' AS BLOB),1,2),"
             "(%d,2,CAST('a' AS BLOB),1,3),(%d,2,CAST('b' AS BLOB),1,3);"
             "INSERT INTO nodes VALUES(%lld,1,0,zeroblob(60)),(%lld,1,1,zeroblob(60));"
             "INSERT INTO cache VALUES(%lld,22,0,zeroblob(60)),(%lld,33,1,zeroblob(60));"
             "COMMIT",
             count, WATCH, FILES_FROM, base, base, WATCH, WATCH, WATCH, base + 2, base + 3,
             base + 2, base + 3);
    char *why = NULL;
    if (sqlite3_exec(c->db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s", why);
}

static int count_step(void *ctx)
{
    ++*(uint64_t *)ctx;
    return 0;
}

static int count_link(void *ctx, uint64_t parent, const char *name, size_t len)
{
    ++*(unsigned *)ctx;
    return 0;
}

static int count_node(void *ctx, uint64_t node, int64_t from, int64_t to, const void *meta,
                      size_t len)
{
    ++*(unsigned *)ctx;
    return 0;
}

static int count_version(void *ctx, uint64_t from, int64_t to, const void *meta, size_t len)
{
    ++*(unsigned *)ctx;
    return 0;
}

static void ask_of_names(struct catalog *c, int64_t at)
{
    struct error e = ERROR_INIT;
    struct buffer b = BUFFER_INIT;
    struct name_iter *it;
    struct name_row row;
    uint64_t node = 0, parent = 0;
    size_t names = 0;
    unsigned n = 0;

    assert_int_equal(catalog_lookup(c, WATCH, 1, "f0000123", 8, at, &node, &e), 0);
    assert_int_equal(node, FILES_FROM + 123);
    assert_int_equal(catalog_lookup(c, WATCH, 1, "none", 4, at, &node, &e), ERR_NOTFOUND);
    assert_int_equal(catalog_node(c, WATCH, FILES_FROM + 5, at, &b, &e), 0);
    assert_int_equal(catalog_node_name(c, WATCH, FILES_FROM + 5, at, &parent, &b, &e), 0);
    assert_int_equal(catalog_node_path(c, WATCH, 3, at, &b, &e), 0);
    assert_int_equal(catalog_node_names(c, WATCH, 3, at, &names, &e), 0);
    assert_int_equal(names, 2);
    assert_int_equal(catalog_links(c, WATCH, 3, at, count_link, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_int_equal(catalog_children(c, WATCH, FOLDER, at, &it, &e), 0);
    for (n = 0; name_iter_step(it, &row, &e) == 1; n++)
        ;
    name_iter_close(it);
    assert_int_equal(n, 2);
    buffer_release(&b);
}

static void ask_of_the_rest(struct catalog *c)
{
    struct error e = ERROR_INIT;
    struct buffer b = BUFFER_INIT;
    uint64_t found[4], ino, *pending;
    size_t count = 0;
    unsigned n = 0;

    assert_int_equal(catalog_cache_get(c, WATCH, FILES_FROM + 9, &ino, &b, &e), 0);
    assert_int_equal(catalog_cache_by_ino(c, WATCH, 33, found, 4, &count, &e), 0);
    assert_int_equal(count, 1);
    assert_int_equal(catalog_cache_by_ino(c, WATCH, 44, found, 4, &count, &e), 0);
    assert_int_equal(count, 0);
    assert_int_equal(catalog_cache_pending(c, WATCH, &pending, &count, &e), 0);
    assert_int_equal(count, 1);
    free(pending);
    assert_int_equal(catalog_incomplete(c, WATCH, count_node, &n, &e), 0);
    assert_int_equal(n, 1);
    n = 0;
    assert_int_equal(catalog_versions(c, WATCH, FILES_FROM + 9, count_version, &n, &e), 0);
    assert_int_equal(n, 1);
    buffer_release(&b);
}

/* Steps of SQLite's machine for all these questions. */
static uint64_t cost_of(struct scratch *s, unsigned files, int64_t at)
{
    struct catalog *c = open_catalog(s);
    uint64_t steps = 0;

    fill(c, files);
    sqlite3_progress_handler(c->db, 1, count_step, &steps);
    ask_of_names(c, at);
    if (at == CATALOG_OPEN)
        ask_of_the_rest(c);
    sqlite3_progress_handler(c->db, 0, NULL, NULL);
    catalog_close(c);
    return steps;
}

static void compare(int64_t at)
{
    struct scratch *few = NULL, *many = NULL;

    assert_int_equal(scratch_setup((void **)&few), 0);
    assert_int_equal(scratch_setup((void **)&many), 0);
    uint64_t small = cost_of(few, FEW, at), large = cost_of(many, MANY, at);
    scratch_teardown((void **)&few);
    scratch_teardown((void **)&many);
    assert_true(small > 100); /* they were counted */
    if (large > small + small / 4)
        fail_msg("%llu steps in a watch of %d files, %llu in one of %d", (unsigned long long)small,
                 FEW, (unsigned long long)large, MANY);
}

static void questions_about_one_thing_cost_the_same_in_any_watch(void **state)
{
    compare(CATALOG_OPEN);
}

static void so_do_questions_about_an_older_snapshot(void **state)
{
    compare(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_statement_finds_its_rows_by_an_index, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test(questions_about_one_thing_cost_the_same_in_any_watch),
        cmocka_unit_test(so_do_questions_about_an_older_snapshot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
