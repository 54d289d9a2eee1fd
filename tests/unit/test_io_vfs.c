#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/fileops.h"
#include "io/vfs.h"

#include "scratch.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/banned.h"

static struct fileops table;
static int fail_op; /* which enum fileop, or ANY_OP */
static int fail_in; /* countdown to the first that fails; 0: none */
static int fail_errno;
static bool fail_on; /* all that follow fail too: the power is cut */
static unsigned asked[FILEOP_DELETE + 1];
static char last_path[300];

enum { ANY_OP = -1 };

static uint64_t sum(const void *p, size_t n, uint64_t seed)
{
    const uint8_t *b = p;
    uint64_t v = seed + 1;

    for (size_t i = 0; i < n; i++)
        v = v * 31 + b[i];
    return v;
}

static int test_gate(int op, const char *path)
{
    asked[op]++;
    snprintf(last_path, sizeof(last_path), "%s", path);
    if (fail_op != ANY_OP && op != fail_op)
        return 0;
    if (fail_in == 0 || --fail_in != 0)
        return 0;
    if (fail_on)
        fail_in = 1;
    return fail_errno;
}

static void fail_from(int op, int nth, int sys, bool on)
{
    fail_op = op;
    fail_in = nth;
    fail_errno = sys;
    fail_on = on;
}

static int setup(void **state)
{
    table = fileops_system;
    table.gate = test_gate;
    fileops = &table;
    fail_from(ANY_OP, 0, 0, false);
    memset(asked, 0, sizeof(asked));
    return vfs_register(sum) == 0 ? scratch_setup(state) : -1;
}

static int teardown(void **state)
{
    fileops = &fileops_system;
    return scratch_teardown(state);
}

static int open_db(void **state, sqlite3 **db)
{
    int reserved = VFS_RESERVED;
    char path[128], pages[40];

    snprintf(path, sizeof(path), "%s/catalog.db", ((struct scratch *)*state)->path);
    int rc = sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, VFS_NAME);
    snprintf(pages, sizeof(pages), "PRAGMA page_size=%d", VFS_PAGE);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*db, pages, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_file_control(*db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    return rc;
}

static int run(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static void must(sqlite3 *db, const char *sql)
{
    if (run(db, sql) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
}

/* The first column of the first row as text. */
static const char *ask_db(sqlite3 *db, const char *sql)
{
    static char answer[100];
    sqlite3_stmt *st = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK || sqlite3_step(st) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    snprintf(answer, sizeof(answer), "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return answer;
}

static sqlite3 *new_db(void **state, const char *journal)
{
    sqlite3 *db;
    char sql[64];

    assert_int_equal(open_db(state, &db), SQLITE_OK);
    sqlite3_extended_result_codes(db, 1);
    snprintf(sql, sizeof(sql), "PRAGMA journal_mode=%s", journal);
    assert_string_equal(ask_db(db, sql), journal);
    must(db, "PRAGMA synchronous=FULL");
    must(db, "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)");
    must(db, "INSERT INTO t VALUES (1, zeroblob(100))");
    return db;
}

static void test_wal_database_works(void **state)
{
    sqlite3 *writer = new_db(state, "wal");
    sqlite3 *reader;
    int dir = ((struct scratch *)*state)->fd;

    assert_int_equal(faccessat(dir, "catalog.db-wal", F_OK, 0), 0);
    assert_int_equal(open_db(state, &reader), SQLITE_OK);
    must(reader, "BEGIN");
    assert_string_equal(ask_db(reader, "SELECT count(*) FROM t"), "1");
    must(writer, "BEGIN");
    for (int i = 0; i < 1000; i++)
        must(writer, "INSERT INTO t (b) VALUES (randomblob(500))");
    must(writer, "COMMIT");
    assert_string_equal(ask_db(reader, "SELECT count(*) FROM t"), "1"); /* its snapshot */
    must(reader, "COMMIT");
    assert_string_equal(ask_db(reader, "SELECT count(*) FROM t"), "1001");
    assert_string_equal(ask_db(writer, "PRAGMA wal_checkpoint(TRUNCATE)"), "0");
    assert_string_equal(ask_db(writer, "PRAGMA integrity_check"), "ok");
    sqlite3_close(reader);
    sqlite3_close(writer);
    assert_int_equal(faccessat(dir, "catalog.db-wal", F_OK, 0), -1);
    for (int op = FILEOP_OPEN; op <= FILEOP_DELETE; op++)
        assert_true(asked[op] > 0);
    assert_non_null(strstr(last_path, "/catalog.db"));

    /* What it wrote is a plain database. */
    assert_int_equal(open_db(state, &reader), SQLITE_OK);
    assert_string_equal(ask_db(reader, "PRAGMA journal_mode"), "wal");
    assert_string_equal(ask_db(reader, "SELECT count(*) FROM t"), "1001");
    sqlite3_close(reader);
}

static void test_two_writers_exclude_each_other(void **state)
{
    sqlite3 *a = new_db(state, "wal");
    sqlite3 *b;

    assert_int_equal(open_db(state, &b), SQLITE_OK);
    must(a, "BEGIN IMMEDIATE");
    assert_int_equal(run(b, "BEGIN IMMEDIATE"), SQLITE_BUSY);
    must(a, "COMMIT");
    must(b, "BEGIN IMMEDIATE");
    must(b, "COMMIT");
    sqlite3_close(a);
    sqlite3_close(b);
}

static void check_injected(void **state, const char *journal, int op, int sys, const char *sql,
                           int want)
{
    sqlite3 *db = new_db(state, journal);

    fail_from(op, 1, sys, false);
    assert_int_equal(run(db, sql), want);
    fail_from(op, 0, 0, false);
    sqlite3_close(db);
    assert_int_equal(open_db(state, &db), SQLITE_OK);
    assert_string_equal(ask_db(db, "PRAGMA integrity_check"), "ok");
    assert_string_equal(ask_db(db, "SELECT count(*) FROM t WHERE a = 1"), "1");
    must(db, "DROP TABLE t");
    sqlite3_close(db);
}

static void test_injected_faults_surface(void **state)
{
    static const char insert[] = "INSERT INTO t VALUES (2, zeroblob(5000))";
    static const char checkpoint[] = "PRAGMA wal_checkpoint(TRUNCATE)";
    static const struct {
        const char *journal;
        int op, sys;
        const char *sql;
        int want;
    } cases[] = {
        {"wal", FILEOP_WRITE, EIO, insert, SQLITE_IOERR_WRITE},
        {"wal", FILEOP_WRITE, ENOSPC, insert, SQLITE_FULL},
        {"wal", FILEOP_WRITE, EDQUOT, insert, SQLITE_FULL},
        {"wal", FILEOP_SYNC, EIO, insert, SQLITE_IOERR_FSYNC},
        {"wal", FILEOP_WRITE, EIO, checkpoint, SQLITE_IOERR_WRITE},
        {"wal", FILEOP_SYNC, EIO, checkpoint, SQLITE_IOERR_FSYNC},
        {"wal", FILEOP_READ, EIO, checkpoint, SQLITE_IOERR_READ},
        {"wal", FILEOP_TRUNCATE, EIO, checkpoint, SQLITE_IOERR_TRUNCATE},
        {"delete", FILEOP_WRITE, EIO, insert, SQLITE_IOERR_WRITE},
        {"delete", FILEOP_WRITE, ENOSPC, insert, SQLITE_FULL},
        {"delete", FILEOP_DELETE, EIO, insert, SQLITE_IOERR_DELETE},
        {"delete", FILEOP_OPEN, EIO, insert, SQLITE_CANTOPEN},
        {"truncate", FILEOP_TRUNCATE, EIO, insert, SQLITE_IOERR_TRUNCATE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_injected(state, cases[i].journal, cases[i].op, cases[i].sys, cases[i].sql,
                       cases[i].want);
}

static void test_injected_open_failure(void **state)
{
    sqlite3 *db;

    fail_from(FILEOP_OPEN, 1, EMFILE, true);
    int rc = open_db(state, &db);
    if (rc == SQLITE_OK)
        rc = run(db, "CREATE TABLE t (a)");
    assert_int_equal(rc, SQLITE_CANTOPEN);
    sqlite3_close(db);
}

/* Ten commits with the power cut at the nth operation; returns how many were acknowledged. */
static int commits_until_cut(sqlite3 *db)
{
    char sql[80];
    int done = 0;

    for (int i = 2; i < 12; i++) {
        snprintf(sql, sizeof(sql), "INSERT INTO t VALUES (%d, randomblob(3000))", i);
        if (run(db, sql) != SQLITE_OK)
            break;
        done++;
        if (i % 4 == 0)
            run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    }
    return done;
}

static void test_no_commit_is_lost_at_any_cut(void **state)
{
    int done = 0;
    int n = 0;

    while (done < 10) {
        sqlite3 *db = new_db(state, "wal");
        char count[12];
        fail_from(ANY_OP, ++n, EIO, true);
        done = commits_until_cut(db);
        sqlite3_close(db);
        fail_from(ANY_OP, 0, 0, false);
        assert_int_equal(open_db(state, &db), SQLITE_OK);
        assert_string_equal(ask_db(db, "PRAGMA integrity_check"), "ok");
        snprintf(count, sizeof(count), "%d", done + 1);
        char sql[80];
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM t WHERE a <= %d", done + 1);
        assert_string_equal(ask_db(db, sql), count);
        must(db, "DROP TABLE t");
        sqlite3_close(db);
        assert_in_range(n, 1, 1000);
    }
    assert_in_range(n, 20, 1000); /* the cuts did hit */
}

/* The next flush might succeed with the data lost. */
static void test_no_flush_succeeds_after_one_that_failed(void **state)
{
    sqlite3 *db = new_db(state, "wal");

    fail_from(FILEOP_SYNC, 1, EIO, false);
    assert_int_equal(run(db, "INSERT INTO t VALUES (2, zeroblob(5000))"), SQLITE_IOERR_FSYNC);
    assert_int_equal(run(db, "INSERT INTO t VALUES (3, zeroblob(5000))"), SQLITE_IOERR_FSYNC);
    sqlite3_close(db);
    assert_int_equal(open_db(state, &db), SQLITE_OK);
    must(db, "INSERT INTO t VALUES (4, zeroblob(5000))");
    sqlite3_close(db);
}

static int read_all(void **state)
{
    sqlite3 *db;

    int rc = open_db(state, &db);
    sqlite3_extended_result_codes(db, 1);
    if (rc == SQLITE_OK)
        rc = run(db, "SELECT sum(length(hex(b))),sum(a) FROM t");
    sqlite3_close(db);
    return rc;
}

static void test_each_flipped_bit_is_seen(void **state)
{
    sqlite3 *db = new_db(state, "wal");
    int dir = ((struct scratch *)*state)->fd;
    struct stat st;
    uint8_t byte;

    must(db, "INSERT INTO t VALUES (2, randomblob(10000))");
    sqlite3_close(db);
    int fd = openat(dir, "catalog.db", O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 4 * VFS_PAGE);
    for (off_t at = 0; at < st.st_size; at += 61) {
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1 << at % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        assert_int_not_equal(read_all(state), SQLITE_OK);
        byte ^= (uint8_t)(1 << at % 8);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_int_equal(read_all(state), SQLITE_OK);
    close(fd);
}

static void test_a_page_in_the_place_of_another_is_seen(void **state)
{
    sqlite3 *db = new_db(state, "wal");
    int dir = ((struct scratch *)*state)->fd;
    uint8_t page[VFS_PAGE];

    must(db, "INSERT INTO t VALUES (2, randomblob(10000))");
    sqlite3_close(db);
    int fd = openat(dir, "catalog.db", O_RDWR);
    assert_int_equal(pread(fd, page, VFS_PAGE, 2 * VFS_PAGE), VFS_PAGE);
    assert_int_equal(pwrite(fd, page, VFS_PAGE, 3 * VFS_PAGE), VFS_PAGE);
    close(fd);
    assert_int_equal(open_db(state, &db), SQLITE_OK);
    sqlite3_extended_result_codes(db, 1);
    assert_int_equal(run(db, "SELECT sum(length(hex(b))) FROM t"), SQLITE_IOERR_DATA);
    sqlite3_close(db);
}

/* A quota does the same as a limit, but needs a disk that has one. */
static void test_a_limit_is_a_full_disk(void **state)
{
    sqlite3 *db = new_db(state, "wal");
    struct rlimit old, tight;

    sqlite3_extended_result_codes(db, 1);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    for (rlim_t kb = 0; kb < 40; kb++) {
        tight = (struct rlimit){.rlim_cur = kb * 1024, .rlim_max = old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        int rc = run(db, "INSERT INTO t VALUES (2, randomblob(50000))");
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(rc, SQLITE_FULL);
    }
    must(db, "INSERT INTO t VALUES (2, randomblob(50000))");
    assert_string_equal(ask_db(db, "SELECT count(*) FROM t"), "2");
    sqlite3_close(db);
    signal(SIGXFSZ, SIG_DFL);
}

static void test_table_without_a_gate(void **state)
{
    table.gate = NULL;
    sqlite3 *db = new_db(state, "wal");
    assert_string_equal(ask_db(db, "SELECT count(*) FROM t"), "1");
    sqlite3_close(db);
    assert_int_equal(vfs_register(sum), 0); /* once more is fine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_wal_database_works, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_writers_exclude_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_injected_faults_surface, setup, teardown),
        cmocka_unit_test_setup_teardown(test_injected_open_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_commit_is_lost_at_any_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_flush_succeeds_after_one_that_failed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_each_flipped_bit_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_page_in_the_place_of_another_is_seen, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_limit_is_a_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_table_without_a_gate, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
