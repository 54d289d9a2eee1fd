/* Saves of SQLite databases: one committed state each, without their side files. */
#include "save_fixture.h"

#include <sqlite3.h>

static sqlite3 *open_db(const struct place *p, const char *name, const char *mode)
{
    char path[160], sql[64];
    sqlite3 *db = NULL;

    snprintf(path, sizeof(path), "%s/%s", p->root, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(sql, sizeof(sql), "PRAGMA journal_mode=%s", mode);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void run_sql(sqlite3 *db, const char *sql)
{
    char *why = NULL;

    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) {
        print_error("%s: %s\n", sql, why);
        fail();
    }
}

/* What a query over the stored database says. */
static int64_t ask_stored(struct saver *v, const struct place *p, const char *path, const char *sql)
{
    struct node n = version_at(v, path);
    struct buffer b = BUFFER_INIT;
    char out[128];
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;

    node_content(v->repo, &n, &b);
    node_release(&n);
    snprintf(out, sizeof(out), "%s/restored.db", p->dir);
    int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    SYS(fd);
    assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
    close(fd);
    buffer_release(&b);
    assert_int_equal(sqlite3_open(out, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    int64_t result = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    char side[140];
    snprintf(side, sizeof(side), "%s-wal", out);
    unlink(side);
    snprintf(side, sizeof(side), "%s-shm", out);
    unlink(side);
    return result;
}

static void with_helper(struct saver *v, const struct place *p)
{
    if (!getenv("WATCHKEEP_HELPER")) {
        print_message("WATCHKEEP_HELPER is not set: no database is captured here\n");
        skip();
    }
    saver_open(v, p, "repo");
}

static void a_live_database_is_one_committed_state(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    sqlite3 *db = open_db(p, "app.data", "WAL"); /* the header tells, not the name */
    run_sql(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1),(2)");
    assert_int_equal(save_all(&v), 1);
    assert_int_equal(v.last.incomplete_total, 0);
    assert_int_equal(v.last.files, 1); /* no -wal, no -shm */
    assert_int_equal(ask_stored(&v, p, "app.data", "SELECT count(*) FROM t"), 2);
    struct node n = version_at(&v, "app.data");
    assert_int_equal(n.flags, node_with_class(NODE_SQLITE, CONTENT_SQLITE));
    assert_non_null(n.receipt);
    node_release(&n);

    /* A commit goes to the -wal alone; the event names that. */
    run_sql(db, "BEGIN; INSERT INTO t VALUES(3); COMMIT; BEGIN; INSERT INTO t VALUES(4)");
    assert_int_equal(SAVE_DIRTY(&v, {"app.data-wal", DIRTY_ENTRY}, {"app.data-shm", DIRTY_ENTRY}),
                     2);
    assert_int_equal(ask_stored(&v, p, "app.data", "SELECT count(*) FROM t"), 3);
    run_sql(db, "COMMIT");
    assert_int_equal(save_all(&v), 3);
    assert_int_equal(ask_stored(&v, p, "app.data", "SELECT count(*) FROM t"), 4);
    assert_int_equal(v.last.files, 1);

    /* Nothing committed, nothing saved; also when the pages only move from log to file. */
    let_stamps_age(p);
    save_all(&v);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.bytes_read, 0);
    run_sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_int_equal(save_all(&v), 0);

    /* Closed: the same bytes, read as a file. */
    sqlite3_close(db);
    assert_int_equal(save_all(&v), 0);
    assert_int_equal(v.last.files, 1);
    assert_int_equal(ask_stored(&v, p, "app.data", "SELECT sum(x) FROM t"), 10);
    saver_close(&v);
}

static void a_rollback_database_too(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    sqlite3 *db = open_db(p, "r.db", "PERSIST");
    run_sql(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    assert_int_equal(save_all(&v), 1);
    assert_int_equal(v.last.files, 1); /* the journal stays there, and is no file */
    run_sql(db, "INSERT INTO t VALUES(2)");
    assert_int_equal(SAVE_DIRTY(&v, {"r.db", DIRTY_ENTRY}, {"r.db-journal", DIRTY_ENTRY}), 2);
    assert_int_equal(ask_stored(&v, p, "r.db", "SELECT count(*) FROM t"), 2);
    assert_int_equal(v.last.incomplete_total, 0);
    sqlite3_close(db);
    saver_close(&v);
}

static void a_database_that_was_closed_needs_no_helper(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    sqlite_helper_free(v.helper);
    v.helper = NULL;
    sqlite3 *db = open_db(p, "a.db", "WAL");
    run_sql(db, "CREATE TABLE t(x); INSERT INTO t VALUES(7)");
    sqlite3_close(db);
    assert_int_equal(save_all(&v), 1);
    assert_int_equal(v.last.incomplete_total, 0);
    assert_int_equal(ask_stored(&v, p, "a.db", "SELECT x FROM t"), 7);
    struct node n = version_at(&v, "a.db");
    assert_int_equal(n.flags, node_with_class(NODE_SQLITE, CONTENT_SQLITE));
    node_release(&n);

    /* A live one does: its last state stays, and is said to be old. */
    db = open_db(p, "a.db", "WAL");
    run_sql(db, "INSERT INTO t VALUES(8)");
    assert_int_equal(SAVE_DIRTY(&v, {"a.db-wal", DIRTY_ENTRY}), 2);
    assert_int_equal(v.last.incomplete_total, 1);
    assert_string_equal(v.last.incomplete[0].path, "a.db");
    assert_non_null(strstr(v.last.incomplete[0].reason, "helper"));
    assert_int_equal(ask_stored(&v, p, "a.db", "SELECT count(*) FROM t"), 1);
    assert_int_equal(save_all(&v), 0);
    sqlite3_close(db);
    assert_int_equal(save_all(&v), 3);
    assert_int_equal(v.last.incomplete_total, 0);
    assert_int_equal(ask_stored(&v, p, "a.db", "SELECT count(*) FROM t"), 2);
    saver_close(&v);
}

static void few_rows_cost_little(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    sqlite3 *db = open_db(p, "big.db", "WAL");
    run_sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, x);"
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)"
                "INSERT INTO t SELECT i, hex(randomblob(200)) FROM n");
    save_all(&v);
    uint64_t first = v.last.bytes_stored;
    run_sql(db, "UPDATE t SET x='small' WHERE id=7777");
    assert_int_equal(SAVE_DIRTY(&v, {"big.db-wal", DIRTY_ENTRY}), 2);
    assert_true(v.last.bytes_stored < 200 * 1024);
    assert_true(v.last.bytes_stored < first / 20);
    assert_int_equal(ask_stored(&v, p, "big.db", "SELECT count(*) FROM t WHERE x='small'"), 1);
    sqlite3_close(db);
    saver_close(&v);
}

static void what_only_looks_like_a_side_file_is_a_file(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    put_text(p, "plain.db", "no database");
    put_text(p, "plain.db-wal", "a file");
    put_text(p, "lonely-journal", "a diary");
    save_all(&v);
    assert_int_equal(v.last.files, 3);
    assert_holds(&v, p, true);

    /* The base becomes a database, and is one no more. */
    SYS(unlinkat(p->rootfd, "plain.db", 0));
    SYS(unlinkat(p->rootfd, "plain.db-wal", 0));
    sqlite3 *db = open_db(p, "plain.db", "DELETE");
    run_sql(db, "CREATE TABLE t(x)");
    sqlite3_close(db);
    put_text(p, "plain.db-shm", "left behind");
    SAVE_DIRTY(&v, {"plain.db", DIRTY_ENTRY}, {"plain.db-wal", DIRTY_ENTRY},
               {"plain.db-shm", DIRTY_ENTRY});
    assert_int_equal(node_at(&v, "plain.db-wal"), 0);
    assert_int_equal(node_at(&v, "plain.db-shm"), 0);
    assert_int_equal(save_all(&v), 0);
    put_text(p, "plain.db", "no database again");
    SAVE_DIRTY(&v, {"plain.db", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    SYS(unlinkat(p->rootfd, "plain.db", 0));
    SAVE_DIRTY(&v, {"plain.db", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    saver_close(&v);
}

static void a_folder_named_like_a_side_file_is_saved(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    sqlite3 *db = open_db(p, "a.db", "DELETE");
    run_sql(db, "CREATE TABLE t(x)");
    make_dir(p, "a.db-wal");
    put_text(p, "a.db-wal/inside", "precious");
    save_all(&v);
    assert_int_not_equal(node_at(&v, "a.db-wal/inside"), 0);
    put_text(p, "a.db-wal/inside", "precious, again");
    SAVE_DIRTY(&v, {"a.db-wal/inside", DIRTY_ENTRY}, {"a.db-wal", DIRTY_ENTRY});
    struct node n = version_at(&v, "a.db-wal/inside");
    assert_int_equal(n.size, 15);
    node_release(&n);
    sqlite3_close(db);
    saver_close(&v);
}

/* The first words of a header alone make no database: the file is saved as a plain one, and what
 * lies beside it is no part of it. */
static void beside_a_header_alone_all_are_files(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    put_text(p, "x.db", "SQLite format 3");
    int fd = openat(p->rootfd, "x.db", O_WRONLY | O_CLOEXEC);
    SYS(fd);
    assert_int_equal(pwrite(fd, "zzzzzz", 6, 16), 6);
    close(fd);
    put_text(p, "x.db-wal", "one");
    save_all(&v);
    assert_holds(&v, p, true);
    put_text(p, "x.db-wal", "three");
    SAVE_DIRTY(&v, {"x.db-wal", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    fd = openat(p->rootfd, "x.db", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "yyyyyyy", 7, 100), 7);
    close(fd);
    SAVE_DIRTY(&v, {"x.db", DIRTY_ENTRY});
    assert_holds(&v, p, true);
    assert_int_equal(save_all(&v), 0);
    saver_close(&v);
}

/* When its database ends to be one, a side file is looked at for two reasons. */
static void a_side_file_is_counted_once(void **state)
{
    const struct place *p = *state;
    struct saver v;

    with_helper(&v, p);
    put_text(p, "other", "x");
    sqlite3 *db = open_db(p, "a.db", "WAL");
    run_sql(db, "CREATE TABLE t(x)");
    save_all(&v);
    assert_int_equal(v.last.files, 2);
    put_text(p, "a.db", "no database any more");
    SAVE_DIRTY(&v, {"a.db-wal", DIRTY_ENTRY}, {"a.db-shm", DIRTY_ENTRY}, {"a.db", DIRTY_ENTRY});
    assert_int_equal(v.last.files, 4);
    assert_int_equal(v.last.files_new, 2);
    assert_holds(&v, p, true);
    assert_counted(&v);
    sqlite3_close(db);

    /* And the other way round. */
    SYS(unlinkat(p->rootfd, "a.db", 0));
    put_text(p, "b.db", "plain");
    put_text(p, "b.db-wal", "plain too");
    save_all(&v);
    uint64_t files = v.last.files;
    SYS(unlinkat(p->rootfd, "b.db", 0));
    SYS(unlinkat(p->rootfd, "b.db-wal", 0));
    db = open_db(p, "b.db", "WAL");
    run_sql(db, "CREATE TABLE t(x)");
    SAVE_DIRTY(&v, {"b.db", DIRTY_ENTRY}, {"b.db-wal", DIRTY_ENTRY}, {"b.db-shm", DIRTY_ENTRY});
    assert_int_equal(v.last.files, files - 1);
    assert_int_equal(v.last.files_removed, 1);
    assert_int_equal(save_all(&v), 0);
    sqlite3_close(db);
    saver_close(&v);
}

static void without_sqlite_all_are_files(void **state)
{
    const struct place *p = *state;
    struct saver v;

    saver_open(&v, p, "repo");
    v.spec.sqlite = false;
    sqlite3 *db = open_db(p, "a.db", "WAL");
    run_sql(db, "CREATE TABLE t(x)");
    save_all(&v);
    assert_int_equal(v.last.files, 3);
    assert_holds(&v, p, true);
    struct node n = version_at(&v, "a.db");
    assert_int_equal(n.flags, node_with_class(0, CONTENT_SQLITE));
    node_release(&n);
    sqlite3_close(db);
    saver_close(&v);
}

static void a_malformed_database_is_kept_and_marked(void **state)
{
    const struct place *p = *state;
    struct saver v;
    static char page[100000];

    with_helper(&v, p);
    sqlite3 *db = open_db(p, "a.db", "DELETE");
    run_sql(db, "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(50000))");
    sqlite3_close(db);
    int fd = openat(p->rootfd, "a.db", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, page, sizeof(page));
    close(fd);
    assert_true(n > 20000);
    put_bytes(p, "cut.db", page, 20000); /* never was whole */
    assert_int_equal(save_all(&v), 1);
    assert_int_equal(v.last.incomplete_total, 1);
    assert_string_equal(v.last.incomplete[0].path, "cut.db");
    struct node m = version_at(&v, "cut.db");
    assert_int_equal(m.size, 20000);
    struct buffer b = BUFFER_INIT;
    node_content(v.repo, &m, &b);
    assert_int_equal(b.len, 20000);
    assert_memory_equal(b.data, page, 20000);
    buffer_release(&b);
    node_release(&m);
    assert_int_equal(save_all(&v), 0);

    /* One that was sound stays as it was. */
    put_bytes(p, "a.db", page, 20000);
    assert_int_equal(SAVE_DIRTY(&v, {"a.db", DIRTY_ENTRY}), 2);
    assert_int_equal(v.last.incomplete_total, 2);
    assert_true(commit_of(&v, 2, NULL).flags & COMMIT_UNSOUND);
    assert_int_equal(ask_stored(&v, p, "a.db", "SELECT count(*) FROM t"), 1);
    saver_close(&v);
}

int main(void)
{
#define PLACE_TEST(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)
    const struct CMUnitTest tests[] = {
        PLACE_TEST(a_live_database_is_one_committed_state),
        PLACE_TEST(a_rollback_database_too),
        PLACE_TEST(a_database_that_was_closed_needs_no_helper),
        PLACE_TEST(a_malformed_database_is_kept_and_marked),
        PLACE_TEST(few_rows_cost_little),
        PLACE_TEST(what_only_looks_like_a_side_file_is_a_file),
        PLACE_TEST(a_folder_named_like_a_side_file_is_saved),
        PLACE_TEST(beside_a_header_alone_all_are_files),
        PLACE_TEST(a_side_file_is_counted_once),
        PLACE_TEST(without_sqlite_all_are_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
