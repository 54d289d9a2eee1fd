/* wk_example.c - a program that has its database open and saves it through libwatchkeep.
 *
 *   cc wk_example.c $(pkg-config --cflags --libs watchkeep) -lsqlite3 -o wk_example
 *   ./wk_example FOLDER REPOSITORY TARGET
 *
 * It fills a WAL database in FOLDER, leaves one transaction open, saves the folder, restores it to
 * TARGET and looks into the restored database: what was committed is there, what was not is not,
 * and nobody has taken the transaction's lock away meanwhile. */
#include <watchkeep.h>

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COMMITTED = 1000 };

static void check(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "wk_example: %s\n", what);
    exit(1);
}

static void check_wk(int rc, wk_handle *h, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "wk_example: %s: %s (%d)\n", what, wk_error(h), rc);
    exit(1);
}

static void sql(sqlite3 *db, const char *text)
{
    char *message = NULL;

    if (sqlite3_exec(db, text, NULL, NULL, &message) == SQLITE_OK)
        return;
    fprintf(stderr, "wk_example: %s: %s\n", text, message);
    exit(1);
}

static long number(sqlite3 *db, const char *text)
{
    sqlite3_stmt *s = NULL;
    long v;

    check(sqlite3_prepare_v2(db, text, -1, &s, NULL) == SQLITE_OK, sqlite3_errmsg(db));
    check(sqlite3_step(s) == SQLITE_ROW, sqlite3_errmsg(db));
    v = (long)sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return v;
}

/* Would another process get the writer's lock? It must be another one: locks are the process's. */
static int rival(const char *db_path)
{
    sqlite3 *db = NULL;
    int rc;

    check(sqlite3_open(db_path, &db) == SQLITE_OK, "the rival cannot open the database");
    rc = sqlite3_exec(db, "BEGIN IMMEDIATE; ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(db);
    return rc == SQLITE_BUSY ? 10 : rc == SQLITE_OK ? 11 : 12;
}

static int ask_rival(const char *db_path)
{
    int status = 0;
    pid_t pid = fork();

    check(pid >= 0, "cannot fork");
    if (pid == 0) {
        execl("/proc/self/exe", "wk_example", "--rival", db_path, (char *)NULL);
        _exit(127);
    }
    check(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "the rival was lost");
    return WEXITSTATUS(status);
}

static int print_snapshot(void *context, const wk_snapshot *s)
{
    unsigned long *count = context;

    printf("snapshot %lu of %s: %s, %s, %lu files, %s\n", (unsigned long)s->number, s->watch,
           s->kind, s->name ? s->name : "no name", (unsigned long)s->files,
           s->complete ? "complete" : "incomplete");
    check(s->complete && !s->damaged, "a snapshot is not complete");
    ++*count;
    return 0;
}

static sqlite3 *make_database(const char *path)
{
    sqlite3 *db = NULL;
    char text[256];

    check(sqlite3_open(path, &db) == SQLITE_OK, "cannot make the database");
    sql(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(x INTEGER PRIMARY KEY, y TEXT)");
    snprintf(text, sizeof(text),
             "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
             "INSERT INTO t SELECT i, hex(randomblob(50)) FROM n",
             COMMITTED);
    sql(db, text);
    sql(db, "BEGIN IMMEDIATE; DELETE FROM t WHERE x > 10; INSERT INTO t VALUES(-1, 'not yet')");
    return db;
}

static void check_restored(const char *target)
{
    char path[4096];
    sqlite3 *db = NULL;

    snprintf(path, sizeof(path), "%s/app.db", target);
    check(sqlite3_open(path, &db) == SQLITE_OK, "cannot open the restored database");
    check(number(db, "SELECT count(*) FROM t") == COMMITTED, "committed rows are missing");
    check(number(db, "SELECT count(*) FROM t WHERE x < 0") == 0, "an uncommitted row is there");
    check(number(db, "SELECT count(*) FROM pragma_integrity_check "
                     "WHERE integrity_check = 'ok'") == 1,
          "the restored database is not sound");
    sqlite3_close(db);
}

static void save_twice(wk_handle *h, const char *folder)
{
    wk_save_options options = WK_SAVE_OPTIONS_INIT;
    wk_save_result result = WK_SAVE_RESULT_INIT;

    options.name = "example";
    options.note = "made by wk_example";
    check_wk(wk_save(h, folder, &options, &result), h, "save");
    check(result.snapshot > 0 && result.current == result.snapshot, "no snapshot was made");
    printf("saved snapshot %lu: %lu new files, %.3f s\n", (unsigned long)result.snapshot,
           (unsigned long)result.files_new, result.seconds);
    check(wk_save(h, folder, &options, &result) == WK_REFUSED, "a name was given twice");
    check(wk_error_code(h) == WK_REFUSED && *wk_error(h), "a refusal without words");
    check_wk(wk_save(h, folder, NULL, NULL), h, "save again");
}

static void look_and_restore(wk_handle *h, const char *folder, const char *target)
{
    wk_restore_result restored = WK_RESTORE_RESULT_INIT;
    wk_verify_result verified = WK_VERIFY_RESULT_INIT;
    unsigned long count = 0;

    check_wk(wk_list(h, NULL, print_snapshot, &count), h, "list");
    check(count >= 1, "no snapshot is listed");
    check(wk_restore(h, "example", folder, NULL, NULL) == WK_REFUSED, "restored over live data");
    check_wk(wk_restore(h, "example", target, NULL, &restored), h, "restore");
    check(wk_restore(h, "example", target, NULL, NULL) == WK_REFUSED, "restored over something");
    check(wk_restore(h, "nonesuch", target, NULL, NULL) == WK_NOTFOUND, "a snapshot from nowhere");
    printf("restored %lu files, %lu bytes\n", (unsigned long)restored.files,
           (unsigned long)restored.bytes);
    check_wk(wk_verify(h, NULL, 0, &verified), h, "verify");
    check(verified.errors == 0 && verified.chunks > 0, "nothing was verified");
}

int main(int argc, char **argv)
{
    char db_path[4096];
    wk_handle *h = NULL;
    sqlite3 *db;

    if (argc == 3 && strcmp(argv[1], "--rival") == 0)
        return rival(argv[2]);
    if (argc != 4) {
        fprintf(stderr, "usage: wk_example FOLDER REPOSITORY TARGET\n");
        return 2;
    }
    snprintf(db_path, sizeof(db_path), "%s/app.db", argv[1]);
    db = make_database(db_path);
    check(ask_rival(db_path) == 10, "the lock was not ours to begin with");

    check_wk(wk_open(argv[2], WK_CREATE, &h), h, "open");
    save_twice(h, argv[1]);
    look_and_restore(h, argv[1], argv[3]);
    wk_close(h);

    check(ask_rival(db_path) == 10, "our lock is gone");
    sql(db, "COMMIT");
    check(number(db, "SELECT count(*) FROM t") == 11, "our transaction was disturbed");
    sqlite3_close(db);
    check_restored(argv[3]);
    printf("watchkeep %s: all well\n", wk_version());
    return 0;
}
