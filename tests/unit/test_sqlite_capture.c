/* Captures of live databases. The oracle: accounts between which a writer moves money, so that the
 * sum never changes in any committed state, and a ledger whose last row must not be older than what
 * the writer had committed when the capture began. */
#include "base/clock.h"
#include "base/text.h"
#include "capture/helper_process.h"
#include "capture/scratch_file.h"
#include "capture/sqlite_capture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ACCOUNTS = 200, EACH = 1000, DEADLINE_MS = 10000 };

static struct sqlite_helper *helper;
static char *root, *scratch, *db_path;
/* What the writer has committed, and how often; shared with it. */
static struct progress {
    atomic_long acked;
    atomic_int ready;
} * progress;

/* ---- databases ---- */

static void sql(sqlite3 *db, const char *text)
{
    char *message = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", text, message);
}

static int64_t number(sqlite3 *db, const char *text)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return v;
}

static sqlite3 *open_db(const char *path)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    return db;
}

/* A bank in db_path; the connection stays open. */
static sqlite3 *make_bank(const char *journal, int page_size, int filler_kb)
{
    char text[256];
    sqlite3 *db = open_db(db_path);

    snprintf(text, sizeof(text), "PRAGMA page_size=%d; PRAGMA journal_mode=%s;", page_size,
             journal);
    sql(db, text);
    sql(db, "CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER);"
            "CREATE TABLE ledger(seq INTEGER PRIMARY KEY, a INTEGER, b INTEGER, note TEXT);"
            "CREATE INDEX ledger_a ON ledger(a, b);"
            "CREATE TABLE filler(x BLOB);");
    snprintf(text, sizeof(text),
             "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
             "INSERT INTO account SELECT i, %d FROM n",
             ACCOUNTS, EACH);
    sql(db, text);
    for (int i = 0; i < filler_kb; i += 512)
        sql(db, "INSERT INTO filler VALUES(randomblob(524288))");
    return db;
}

static void transfer(sqlite3 *db, long seq, int a, int b)
{
    char text[512];
    snprintf(text, sizeof(text),
             "BEGIN IMMEDIATE;"
             "UPDATE account SET amount = amount - 7 WHERE id = %d;"
             "UPDATE account SET amount = amount + 7 WHERE id = %d;"
             "INSERT INTO ledger VALUES(%ld, %d, %d, hex(randomblob(60)));"
             "COMMIT;",
             a, b, seq, a, b);
    sql(db, text);
}

/* ---- the writer process ---- */

static void write_for_ever(const char *setup)
{
    sqlite3 *db = open_db(db_path);
    unsigned seed = 12345;

    sql(db, setup);
    for (long seq = number(db, "SELECT coalesce(max(seq), 0) FROM ledger") + 1;; seq++) {
        int a = 1 + rand_r(&seed) % ACCOUNTS, b = 1 + rand_r(&seed) % ACCOUNTS;
        transfer(db, seq, a, b);
        atomic_store(&progress->acked, seq);
        if (seq % 400 == 0)
            sql(db, "DELETE FROM ledger WHERE seq % 3 = 0");
    }
}

/* Everything that changes the file's shape; what another connection forbids is tried again later.
 */
static void flip_for_ever(const char *unused)
{
    static const char *const turns[] = {
        "PRAGMA journal_mode=DELETE",
        "VACUUM",
        "PRAGMA journal_mode=WAL",
        "PRAGMA wal_checkpoint(RESTART)",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "DELETE FROM ledger",
        "PRAGMA auto_vacuum=2",
        "PRAGMA incremental_vacuum",
        "PRAGMA journal_mode=TRUNCATE",
        "PRAGMA wal_checkpoint(FULL)",
    };
    sqlite3 *db = open_db(db_path);

    sql(db, "PRAGMA synchronous=OFF; PRAGMA cache_size=10");
    for (long seq = 1;; seq++) {
        transfer(db, seq, 1 + (int)(seq % ACCOUNTS), 1 + (int)(seq * 7 % ACCOUNTS));
        if (seq % 5 == 0) {
            sqlite3_exec(db, "BEGIN; UPDATE account SET amount = 0; ROLLBACK", NULL, NULL, NULL);
            sqlite3_exec(db, turns[seq / 5 % 10], NULL, NULL, NULL);
        }
        if (seq % 50 == 0) { /* as an app that ends and starts */
            sqlite3_close(db);
            db = open_db(db_path);
            sql(db, "PRAGMA synchronous=OFF; PRAGMA cache_size=10");
        }
        atomic_store(&progress->acked, seq);
    }
}

static pid_t start_child(void (*work)(const char *), const char *arg)
{
    atomic_store(&progress->ready, 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        work(arg);
        _exit(0);
    }
    return pid;
}

static void wait_until_acked(long n)
{
    while (atomic_load(&progress->acked) < n)
        sched_yield();
}

static void wait_until_ready(void)
{
    while (!atomic_load(&progress->ready))
        sched_yield();
}

static void kill_child(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- files ---- */

static char *in_root(const char *name)
{
    return text_format("%s/%s", root, name);
}

static char *side(const char *suffix)
{
    return text_format("%s%s", db_path, suffix);
}

static bool side_exists(const char *suffix)
{
    char *path = side(suffix);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static uint8_t *slurp(int fd, size_t *len)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    uint8_t *p = malloc((size_t)st.st_size + 1);
    assert_non_null(p);
    assert_int_equal(pread(fd, p, (size_t)st.st_size, 0), st.st_size);
    *len = (size_t)st.st_size;
    return p;
}

static uint8_t *slurp_path(const char *path, size_t *len)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    uint8_t *p = slurp(fd, len);
    close(fd);
    return p;
}

static void put_file(const char *path, const void *p, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), (ssize_t)n);
    close(fd);
}

static int entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void empty_dir(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

/* ---- captures ---- */

static int capture(struct sqlite_image *image, struct error *e)
{
    error_clear(e);
    return sqlite_capture(helper, db_path, scratch, DEADLINE_MS, image, e);
}

static void capture_ok(struct sqlite_image *image)
{
    struct error e = ERROR_INIT;
    if (capture(image, &e) != 0)
        fail_msg("capture: %s", e.message);
    assert_int_equal(entries(scratch), 0);
}

static void assert_mode(const struct sqlite_image *image, const char *mode, bool recovered)
{
    char want[64];
    snprintf(want, sizeof(want), "\"mode\":\"%s\"", mode);
    if (!strstr(image->receipt, want))
        fail_msg("%s, not %s", image->receipt, mode);
    assert_non_null(
        strstr(image->receipt, recovered ? "\"recovered\":true" : "\"recovered\":false"));
}

/* The image as a file that stock SQLite opens by itself; the caller closes. */
static sqlite3 *open_image(const struct sqlite_image *image)
{
    size_t len;
    char *path = text_format("%s.image", root);
    uint8_t *p = slurp(image->fd, &len);

    assert_int_equal(len, image->len);
    assert_int_equal(len % image->page_size, 0);
    unlink(path);
    put_file(path, p, len);
    free(p);
    sqlite3 *db = open_db(path);
    free(path);
    return db;
}

static void assert_bank(sqlite3 *db)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(s, 0), "ok");
    sqlite3_finalize(s);
    assert_int_equal(number(db, "SELECT sum(amount) FROM account"), ACCOUNTS * EACH);
}

/* One capture of the bank, checked; at least as new as what was committed when it began. */
static void capture_and_check(const char *mode)
{
    struct sqlite_image image;
    long acked = atomic_load(&progress->acked);

    capture_ok(&image);
    if (mode)
        assert_mode(&image, mode, strcmp(mode, "recovered") == 0);
    sqlite3 *db = open_image(&image);
    assert_bank(db);
    assert_true(number(db, "SELECT coalesce(max(seq), 0) FROM ledger") >= acked - 1);
    sqlite3_close(db);
    sqlite_image_release(&image);
}

/* ---- set up ---- */

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");

    root = text_format("%s/wk-capture-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(root));
    scratch = in_root("scratch");
    assert_int_equal(mkdir(scratch, 0700), 0);
    db_path = in_root("bank.db");
    helper = sqlite_helper_new(NULL);
    assert_non_null(helper);
    progress =
        mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(progress != MAP_FAILED);
    return 0;
}

static int teardown(void **state)
{
    sqlite_helper_free(helper);
    char *image = text_format("%s.image", root);
    unlink(image);
    free(image);
    empty_dir(scratch);
    rmdir(scratch);
    empty_dir(root);
    assert_int_equal(rmdir(root), 0);
    munmap(progress, sizeof(*progress));
    free(scratch);
    free(db_path);
    free(root);
    return 0;
}

/* ---- tests ---- */

static void storm(const char *journal, const char *writer_setup, int page_size, int captures,
                  const char *mode)
{
    sqlite3_close(make_bank(journal, page_size, 0));
    pid_t writer = start_child(write_for_ever, writer_setup);

    wait_until_acked(20);
    for (int i = 0; i < captures; i++) {
        long before = atomic_load(&progress->acked);
        capture_and_check(mode);
        wait_until_acked(before + 1); /* captures do not stop the writer */
    }
    kill_child(writer);
}

static void wal_writer(void **state)
{
    storm("WAL", "PRAGMA synchronous=OFF", 4096, 60, "wal");
}

static void wal_writer_checkpointing_always(void **state)
{
    storm("WAL", "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=1", 1024, 40, "wal");
}

static void wal_writer_never_checkpointing(void **state)
{
    storm("WAL", "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0", 4096, 30, "wal");
}

static void rollback_writer(void **state)
{
    storm("DELETE", "PRAGMA synchronous=OFF", 4096, 40, "rollback");
}

static void rollback_writer_persistent_journal(void **state)
{
    storm("PERSIST", "PRAGMA synchronous=OFF; PRAGMA cache_size=5", 1024, 30, "rollback");
}

static void flips_of_every_kind(void **state)
{
    sqlite3_close(make_bank("WAL", 1024, 0));
    pid_t writer = start_child(flip_for_ever, NULL);

    wait_until_acked(20);
    for (int i = 0; i < 60; i++) {
        struct sqlite_image image;
        long before = atomic_load(&progress->acked);
        capture_ok(&image);
        sqlite3 *db = open_image(&image);
        assert_bank(db);
        sqlite3_close(db);
        sqlite_image_release(&image);
        wait_until_acked(before + 1);
    }
    kill_child(writer);
}

static void all_page_sizes(void **state)
{
    for (int size = 512; size <= 65536; size *= 2) {
        empty_dir(root);
        atomic_store(&progress->acked, 0);
        struct sqlite_image image;
        sqlite3 *db = make_bank("WAL", size, 0);
        transfer(db, 1, 1, 2);
        capture_ok(&image);
        assert_mode(&image, "wal", false);
        assert_int_equal(image.page_size, size);
        sqlite3 *copy = open_image(&image);
        assert_bank(copy);
        assert_int_equal(number(copy, "PRAGMA page_size"), size);
        sqlite3_close(copy);
        sqlite_image_release(&image);
        sqlite3_close(db);
    }
}

static void image_keeps_what_the_header_says(void **state)
{
    struct sqlite_image image;
    sqlite3 *db = make_bank("WAL", 4096, 0);

    sql(db, "PRAGMA user_version=77; PRAGMA application_id=1234");
    capture_ok(&image);
    sqlite3 *copy = open_image(&image);
    assert_int_equal(number(copy, "PRAGMA user_version"), 77);
    assert_int_equal(number(copy, "PRAGMA application_id"), 1234);
    assert_int_equal(number(copy, "PRAGMA schema_version"), number(db, "PRAGMA schema_version"));
    sqlite3_close(copy);
    sqlite_image_release(&image);
    sqlite3_close(db);
}

/* The bytes, stamps and inode of the database, and which side files there are. */
struct trace {
    struct stat st;
    uint8_t *bytes;
    size_t len;
    int files;
};

static struct trace trace_source(void)
{
    struct trace t;
    t.bytes = slurp_path(db_path, &t.len);
    assert_int_equal(stat(db_path, &t.st), 0);
    t.files = entries(root);
    return t;
}

static void assert_untouched(struct trace *before)
{
    struct trace now = trace_source();
    assert_int_equal(now.len, before->len);
    assert_memory_equal(now.bytes, before->bytes, now.len);
    assert_int_equal(now.st.st_ino, before->st.st_ino);
    assert_memory_equal(&now.st.st_mtim, &before->st.st_mtim, sizeof(now.st.st_mtim));
    assert_memory_equal(&now.st.st_ctim, &before->st.st_ctim, sizeof(now.st.st_ctim));
    assert_int_equal(now.files, before->files);
    free(now.bytes);
    free(before->bytes);
}

static void closed_wal_is_left_as_it_was(void **state)
{
    struct sqlite_image image;

    sqlite3_close(make_bank("WAL", 4096, 0));
    assert_false(side_exists("-wal"));
    struct trace before = trace_source();
    capture_ok(&image);
    assert_mode(&image, "immutable", false);
    /* Nothing was open: the file itself is the image. */
    size_t len;
    uint8_t *p = slurp(image.fd, &len);
    assert_int_equal(len, before.len);
    assert_memory_equal(p, before.bytes, len);
    free(p);
    sqlite_image_release(&image);
    assert_false(side_exists("-wal"));
    assert_false(side_exists("-shm"));
    assert_untouched(&before);
}

static void idle_wal_is_not_checkpointed(void **state)
{
    struct sqlite_image image;
    sqlite3 *db = make_bank("WAL", 4096, 0);

    transfer(db, 1, 1, 2);
    atomic_store(&progress->acked, 1);
    size_t wal_len, wal_after_len;
    char *wal = side("-wal");
    uint8_t *wal_bytes = slurp_path(wal, &wal_len);
    /* This reads the source in the process that has it open, which drops the locks: take new ones.
     */
    struct trace before = trace_source();
    sqlite3_close(db);
    db = open_db(db_path);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    free(before.bytes);
    free(wal_bytes);
    transfer(db, 2, 1, 2);
    atomic_store(&progress->acked, 2);
    capture_ok(&image);
    assert_mode(&image, "wal", false);
    sqlite_image_release(&image);
    assert_int_equal(number(db, "SELECT count(*) FROM ledger"), 2);
    sqlite3_close(db);
    /* Nobody has it open any more; the frames are still only in the -wal. */
    wal_bytes = slurp_path(wal, &wal_len);
    assert_true(wal_len > 0);
    before = trace_source();
    capture_and_check("recovered");
    assert_untouched(&before);
    uint8_t *wal_after = slurp_path(wal, &wal_after_len);
    assert_int_equal(wal_after_len, wal_len);
    assert_memory_equal(wal_after, wal_bytes, wal_len);
    free(wal_after);
    free(wal_bytes);
    free(wal);
}

static void idle_rollback_is_left_as_it_was(void **state)
{
    sqlite3_close(make_bank("DELETE", 4096, 0));
    struct trace before = trace_source();
    capture_and_check("rollback");
    assert_untouched(&before);
}

/* Stamps so old that they can be trusted. */
static void wait_until_settled(void)
{
    struct stat st;
    struct signature sig;

    assert_int_equal(stat(db_path, &st), 0);
    signature_of(&st, &sig);
    while (signature_is_racy(&sig, clock_wall()))
        sched_yield();
}

/* With a reader and with a writer before its commit, without a lock and with one: the same bytes.
 */
static void rollback_images_are_the_file(void **state)
{
    static const char *const holds[] = {"BEGIN; SELECT * FROM account", "BEGIN IMMEDIATE"};

    sqlite3_close(make_bank("DELETE", 4096, 512));
    for (size_t i = 0; i < 2; i++) {
        struct sqlite_image image;
        size_t len;
        struct trace before = trace_source();
        wait_until_settled();
        sqlite3 *db = open_db(db_path);
        sql(db, holds[i]);
        capture_ok(&image);
        assert_mode(&image, "rollback", false);
        if (i == 0)
            assert_non_null(strstr(image.receipt, "\"pinned_ms\":0}"));
        uint8_t *p = slurp(image.fd, &len);
        assert_int_equal(len, before.len);
        assert_memory_equal(p, before.bytes, len);
        free(p);
        sqlite_image_release(&image);
        sql(db, "COMMIT");
        sqlite3_close(db);
        assert_untouched(&before);
    }
}

/* A transaction that has spilled into the database file, then the process is gone. */
static void spill_and_hang(const char *unused)
{
    sqlite3 *db = open_db(db_path);
    sql(db, "PRAGMA cache_size=5; BEGIN IMMEDIATE; UPDATE account SET amount = amount + 1000;"
            "DELETE FROM filler; INSERT INTO filler VALUES(randomblob(900000))");
    atomic_store(&progress->ready, 1);
    for (;;)
        pause();
}

static void hot_journal(void **state)
{
    sqlite3_close(make_bank("DELETE", 1024, 2048));
    pid_t writer = start_child(spill_and_hang, NULL);
    wait_until_ready();
    kill_child(writer);
    char *journal = side("-journal");
    size_t len, len_after;
    uint8_t *bytes = slurp_path(journal, &len);
    assert_true(len > 0);
    struct trace before = trace_source();

    capture_and_check("recovered");

    assert_untouched(&before);
    uint8_t *after = slurp_path(journal, &len_after);
    assert_int_equal(len_after, len);
    assert_memory_equal(after, bytes, len);
    free(after);
    free(bytes);
    free(journal);
    /* And the app's own recovery comes to the same. */
    sqlite3 *db = open_db(db_path);
    assert_bank(db);
    sqlite3_close(db);
}

static void crashed_wal(bool remove_shm)
{
    sqlite3_close(make_bank("WAL", 4096, 0));
    pid_t writer = start_child(write_for_ever, "PRAGMA wal_autocheckpoint=0");
    wait_until_acked(50);
    kill_child(writer);
    char *shm = side("-shm");
    if (remove_shm)
        assert_int_equal(unlink(shm), 0);
    struct trace before = trace_source();
    capture_and_check("recovered");
    assert_untouched(&before);
    assert_int_equal(side_exists("-shm"), !remove_shm);
    free(shm);
}

static void crashed_wal_without_shm(void **state)
{
    crashed_wal(true);
}

static void crashed_wal_with_shm(void **state)
{
    crashed_wal(false);
}

static void locked_exclusive(void **state)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;
    static const char *const modes[] = {"DELETE", "WAL"};

    for (size_t i = 0; i < 2; i++) {
        empty_dir(root);
        sqlite3_close(make_bank(modes[i], 4096, 0));
        sqlite3 *db = open_db(db_path);
        sql(db,
            "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE account SET amount = amount");
        uint64_t begin = clock_mono_ns();
        assert_int_equal(sqlite_capture(helper, db_path, scratch, 300, &image, &e), ERR_BUSY);
        uint64_t ms = (clock_mono_ns() - begin) / 1000000;
        assert_true(ms >= 250 && ms < 8000);
        assert_int_equal(image.fd, -1);
        assert_int_equal(entries(scratch), 0);
        sql(db, "COMMIT");
        sqlite3_close(db);
        capture_and_check(NULL);
    }
}

static int expect(const void *p, size_t n)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;

    put_file(db_path, p, n);
    int rc = capture(&image, &e);
    if (rc == 0)
        sqlite_image_release(&image);
    else
        assert_true(e.message[0] != 0 && image.fd == -1);
    assert_int_equal(entries(scratch), 0);
    return rc;
}

static void what_is_no_database(void **state)
{
    uint8_t bytes[8192] = "hello, this is text";
    struct sqlite_image image;
    struct error e = ERROR_INIT;

    assert_int_equal(expect("", 0), ERR_USAGE);
    assert_int_equal(expect(bytes, sizeof(bytes)), ERR_USAGE);
    memcpy(bytes, "SQLite format 3", 16);
    assert_int_equal(expect(bytes, 16), ERR_USAGE);
    assert_int_equal(expect(bytes, sizeof(bytes)), ERR_USAGE); /* page size 0 */
    unlink(db_path);
    assert_int_equal(capture(&image, &e), ERR_NOTFOUND);
    assert_int_equal(mkfifo(db_path, 0600), 0);
    assert_int_equal(capture(&image, &e), ERR_USAGE);
    unlink(db_path);
}

static void damaged_sources(void **state)
{
    size_t len;
    sqlite3_close(make_bank("WAL", 4096, 512));
    uint8_t *whole = slurp_path(db_path, &len);

    assert_int_equal(expect(whole, len / 2), ERR_DAMAGED);
    assert_int_equal(expect(whole, 100), ERR_DAMAGED);
    assert_int_equal(expect(whole, 4096 * 2 + 17), ERR_DAMAGED);
    /* Noise inside is the app's own content: captured as it is, and told by the check. */
    memset(whole + 4096, 0xa5, 8192);
    assert_int_equal(expect(whole, len), 0);
    bool ok = true;
    char detail[512];
    struct error e = ERROR_INIT;
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_false(ok);
    free(whole);
}

/* A truncated database that somebody has open: SQLite's own answer. */
static void damaged_while_open(void **state)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;
    sqlite3 *db = make_bank("DELETE", 4096, 1024);

    sql(db, "BEGIN");
    assert_int_equal(number(db, "SELECT count(*) FROM account"), ACCOUNTS);
    assert_int_equal(truncate(db_path, 65536), 0);
    int rc = capture(&image, &e);
    if (rc != ERR_DAMAGED)
        fail_msg("%d %s", rc, e.message);
    sqlite3_close(db);
}

static void bytes_behind_the_last_page(void **state)
{
    size_t len;
    struct sqlite_image image;
    sqlite3_close(make_bank("DELETE", 4096, 0));
    uint8_t *p = slurp_path(db_path, &len);
    p = realloc(p, len + 5000);
    memset(p + len, 'x', 5000);
    put_file(db_path, p, len + 5000);
    capture_ok(&image);
    assert_int_equal(image.len, len);
    sqlite_image_release(&image);
    free(p);
}

static void through_a_symbolic_link(void **state)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;
    char *link_path = in_root("link");
    sqlite3 *db = make_bank("WAL", 4096, 0);

    transfer(db, 1, 1, 2);
    assert_int_equal(symlink(db_path, link_path), 0);
    assert_int_equal(sqlite_capture(helper, link_path, scratch, DEADLINE_MS, &image, &e), 0);
    sqlite3 *copy = open_image(&image);
    assert_int_equal(number(copy, "SELECT count(*) FROM ledger"), 1);
    sqlite3_close(copy);
    sqlite_image_release(&image);
    sqlite3_close(db);
    free(link_path);
}

static void odd_names(void **state)
{
    static const char *const names[] = {"with space", "per%20cent?mode=rw#x", "tab\tand\nline",
                                        "\xff\xfe.db"};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct sqlite_image image;
        bool ok;
        char detail[512];
        struct error e = ERROR_INIT;
        free(db_path);
        db_path = in_root(names[i]);
        sqlite3 *db = make_bank("WAL", 4096, 0);
        capture_ok(&image);
        sqlite_image_release(&image);
        sqlite3_close(db);
        assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
        assert_true(ok);
    }
}

static void killed_helper_is_replaced(void **state)
{
    sqlite3 *db = make_bank("WAL", 4096, 0);

    capture_and_check("wal");
    pid_t first = sqlite_helper_pid(helper);
    assert_true(first > 0);
    capture_and_check("wal");
    assert_int_equal(sqlite_helper_pid(helper), first);
    /* Not reaped here: the parent of it is this process, through the helper's handle. */
    assert_int_equal(kill(first, SIGKILL), 0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)first, &info, WEXITED | WNOWAIT), 0);
    capture_and_check("wal");
    assert_true(sqlite_helper_pid(helper) != first);
    sqlite3_close(db);
}

struct background {
    int rc;
    struct error e;
    atomic_bool done;
};

static void *capture_in_background(void *arg)
{
    struct background *b = arg;
    struct sqlite_image image;

    b->rc = capture(&image, &b->e);
    atomic_store(&b->done, true);
    return NULL;
}

static void killed_at_work(int signal_number)
{
    struct background b = {.e = ERROR_INIT};
    pthread_t thread;
    sqlite3_close(make_bank("DELETE", 4096, 0));
    sqlite3 *db = open_db(db_path);

    sql(db, "BEGIN EXCLUSIVE");
    assert_int_equal(pthread_create(&thread, NULL, capture_in_background, &b), 0);
    /* At work: the process is there, and the file it was given. */
    while (sqlite_helper_pid(helper) == 0 && !atomic_load(&b.done) && entries(scratch) == 0)
        sched_yield();
    pid_t pid;
    while ((pid = sqlite_helper_pid(helper)) == 0)
        sched_yield();
    assert_int_equal(kill(pid, signal_number), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(b.rc, ERR_FAILED);
    assert_int_equal(entries(scratch), 0);
    assert_true(kill(pid, 0) != 0 && errno == ESRCH);
    sql(db, "COMMIT");
    sqlite3_close(db);
    capture_and_check("rollback");
}

static void killed_in_the_middle(void **state)
{
    killed_at_work(SIGKILL);
}

static void hanging_helper_is_ended(void **state)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;

    sqlite_helper_grace(helper, 200);
    sqlite3_close(make_bank("WAL", 4096, 0));
    capture_and_check("immutable");
    pid_t pid = sqlite_helper_pid(helper);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(sqlite_capture(helper, db_path, scratch, 100, &image, &e), ERR_FAILED);
    assert_non_null(strstr(e.message, "did not answer"));
    assert_true(kill(pid, 0) != 0 && errno == ESRCH);
    assert_int_equal(entries(scratch), 0);
    sqlite_helper_grace(helper, 10000);
    capture_and_check("immutable");
}

/* Whoever waits for it has to know that work which takes long is no standstill. */
static void a_helper_at_work_is_heard(void **state)
{
    struct error e = ERROR_INIT;
    char detail[512];
    uint64_t before = helper_process_beats();
    bool ok = false;

    sqlite_helper_grace(helper, 600000); /* however busy the machine is */
    sqlite3 *db = make_bank("DELETE", 4096, 0);
    sql(db, "CREATE TABLE long(x, y); CREATE INDEX long_y ON long(y)");
    for (unsigned n = 0; helper_process_beats() == before; n++) { /* until it takes long enough */
        assert_true(n < 8);
        sql(db, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
                "INSERT INTO long SELECT i, i * 7919 % 1000003 FROM n");
        assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
        assert_true(ok);
    }
    sqlite3_close(db);
    before = helper_process_beats();
    sqlite_helper_grace(helper, 1200);
    assert_int_equal(kill(sqlite_helper_pid(helper), SIGSTOP), 0);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), ERR_FAILED);
    assert_true(helper_process_beats() <= before + 1); /* what it computed before it stopped */
    sqlite_helper_grace(helper, 10000);
}

/* A service that is killed takes its helper with it, also one at work. */
static void capture_and_hang(const char *unused)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;
    struct sqlite_helper *h = sqlite_helper_new(NULL);

    if (sqlite_capture(h, db_path, scratch, 1000, &image, &e) == 0)
        atomic_store(&progress->acked, sqlite_helper_pid(h));
    sql(open_db(db_path), "BEGIN EXCLUSIVE");
    atomic_store(&progress->ready, 1);
    sqlite_capture(h, db_path, scratch, 600000, &image, &e);
}

static void helper_ends_with_its_parent(void **state)
{
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
    sqlite3_close(make_bank("DELETE", 4096, 0));
    pid_t parent = start_child(capture_and_hang, NULL);
    wait_until_ready();
    while (entries(scratch) == 0)
        sched_yield();
    kill_child(parent);
    pid_t orphan = (pid_t)atomic_load(&progress->acked);
    assert_true(orphan > 0);
    assert_int_equal(waitpid(orphan, NULL, 0), orphan);
    atomic_store(&progress->acked, 0);
    capture_and_check("rollback"); /* and removes the scratch file of the dead */
}

static void leftovers_are_removed(void **state)
{
    struct sqlite_image image;
    struct scratch_file in_use;
    struct error e = ERROR_INIT;
    char *left = text_format("%s/" SCRATCH_PREFIX "0123456789abcdef", scratch);
    char *left_wal = text_format("%s-wal", left);
    char *other = text_format("%s/" SCRATCH_PREFIX "not-ours", scratch);

    sqlite3_close(make_bank("WAL", 4096, 0));
    put_file(left, "x", 1);
    put_file(left_wal, "x", 1);
    put_file(other, "x", 1);
    assert_int_equal(scratch_file_open(&in_use, scratch, &e), 0);
    assert_int_equal(capture(&image, &e), 0);
    sqlite_image_release(&image);
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(access(left_wal, F_OK), -1);
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(access(in_use.path, F_OK), 0);
    scratch_file_close(&in_use);
    assert_int_equal(entries(scratch), 1);
    free(left);
    free(left_wal);
    free(other);
}

static void no_helper_program(void **state)
{
    struct sqlite_image image;
    struct error e = ERROR_INIT;
    struct sqlite_helper *h = sqlite_helper_new("/nonexistent/watchkeep-capture");

    sqlite3_close(make_bank("WAL", 4096, 0));
    assert_int_not_equal(sqlite_capture(h, db_path, scratch, 100, &image, &e), 0);
    assert_non_null(strstr(e.message, "/nonexistent/watchkeep-capture"));
    sqlite_helper_free(h);
    /* One that starts and says nothing of sense. */
    h = sqlite_helper_new("/bin/true");
    assert_int_equal(sqlite_capture(h, db_path, scratch, 100, &image, &e), ERR_FAILED);
    sqlite_helper_free(h);
    assert_int_equal(entries(scratch), 0);
}

/* The helper inherits the limit: no file may grow beyond it. */
static void no_room_for_the_image(void **state)
{
    static const char *const modes[] = {"WAL", "DELETE"};
    struct rlimit old, tight;
    struct sqlite_image image;

    for (size_t i = 0; i < 2; i++) {
        empty_dir(root);
        struct error e = ERROR_INIT;
        struct sqlite_helper *h = sqlite_helper_new(NULL);
        sqlite3 *db = make_bank(modes[i], 4096, 1024);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
        tight = (struct rlimit){.rlim_cur = 300000, .rlim_max = old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        int rc = sqlite_capture(h, db_path, scratch, DEADLINE_MS, &image, &e);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        if (rc != ERR_NOSPACE)
            fail_msg("%d: %s", rc, e.message);
        assert_int_equal(entries(scratch), 0);
        sqlite_helper_free(h);
        sqlite3_close(db);
        capture_and_check(NULL);
    }
}

static void our_own_locks_survive(void **state)
{
    /* The app and the capturing program may be one process: its transaction must stay its own. */
    struct sqlite_image image;
    sqlite3 *db = make_bank("WAL", 4096, 0);
    sqlite3 *rival = open_db(db_path);

    sqlite3_busy_timeout(rival, 0);
    sql(db, "BEGIN IMMEDIATE; UPDATE account SET amount = amount - 1 WHERE id = 1");
    capture_ok(&image);
    sqlite3 *copy = open_image(&image);
    assert_bank(copy); /* without the open transaction */
    sqlite3_close(copy);
    sqlite_image_release(&image);
    assert_int_equal(sqlite3_exec(rival, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_BUSY);
    sql(db, "ROLLBACK");
    sqlite3_close(rival);
    sqlite3_close(db);
}

static void several_threads(void **state)
{
    struct background b[4] = {0};
    pthread_t threads[4];
    sqlite3 *db = make_bank("WAL", 4096, 0);

    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, capture_in_background, &b[i]), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(b[i].rc, 0);
    }
    /* The threads that started the helper are gone; it lives on. */
    pid_t pid = sqlite_helper_pid(helper);
    capture_and_check("wal");
    assert_int_equal(sqlite_helper_pid(helper), pid);
    sqlite3_close(db);
}

static void check_tells(void **state)
{
    bool ok = false;
    char detail[512];
    struct error e = ERROR_INIT;

    sqlite3 *db = make_bank("WAL", 4096, 0);
    sql(db, "CREATE TABLE \"odd \"\"name\"(x); INSERT INTO \"odd \"\"name\" VALUES(1),(2)");
    sqlite3_close(db);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_true(ok);
    assert_string_equal(detail, "{\"integrity\":\"ok\",\"tables\":4,\"rows\":202}");
    assert_false(side_exists("-shm"));
    assert_false(side_exists("-wal"));
    put_file(db_path, "SQLite format 3 and no more of it", 30);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_false(ok);
    unlink(db_path);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), ERR_NOTFOUND);
}

static int backwards(void *ctx, int an, const void *a, int bn, const void *b)
{
    int rc = memcmp(b, a, (size_t)(an < bn ? an : bn));

    return rc ? rc : bn - an;
}

static void twice(sqlite3_context *ctx, int n, sqlite3_value **value)
{
    sqlite3_result_int64(ctx, 2 * sqlite3_value_int64(value[0]));
}

/* No fault of the database, which is copied whole; but what is broken is still told. */
static void a_schema_that_needs_its_app(void **state)
{
    int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC;
    bool ok = false;
    char detail[512];
    struct error e = ERROR_INIT;

    sqlite3 *db = make_bank("DELETE", 4096, 0);
    assert_int_equal(sqlite3_create_collation(db, "backwards", SQLITE_UTF8, NULL, backwards), 0);
    assert_int_equal(sqlite3_create_function(db, "twice", 1, flags, NULL, twice, NULL, NULL), 0);
    sql(db, "CREATE TABLE word(x TEXT COLLATE backwards PRIMARY KEY, y INT);"
            "INSERT INTO word VALUES('a', 1),('b', 2),('c', 3)");
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_true(ok);
    assert_string_equal(detail, "{\"integrity\":\"not checked: no such collation sequence: "
                                "backwards\",\"tables\":4,\"rows\":203}");
    sql(db, "CREATE INDEX word_twice ON word(twice(y));"
            "CREATE TABLE bare(x COLLATE backwards PRIMARY KEY) WITHOUT ROWID;"
            "INSERT INTO bare VALUES('a')");
    sqlite3_close(db);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_true(ok);
    assert_non_null(strstr(detail, "\"not checked: "));
    assert_non_null(strstr(detail, "\"tables\":5,\"rows\":203}"));
    assert_int_equal(truncate(db_path, 2 * 4096), 0);
    assert_int_equal(sqlite_check(helper, db_path, &ok, detail, &e), 0);
    assert_false(ok);
}

static void side_names(void **state)
{
    size_t n = 0;
    assert_true(sqlite_side_name("a.db-wal", &n) && n == 4);
    assert_true(sqlite_side_name("a.db-shm", &n) && n == 4);
    assert_true(sqlite_side_name("a-journal", &n) && n == 1);
    assert_false(sqlite_side_name("-wal", &n));
    assert_false(sqlite_side_name("a.db", &n));
    assert_false(sqlite_side_name("a-wal.txt", &n));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(wal_writer),
        TEST(wal_writer_checkpointing_always),
        TEST(wal_writer_never_checkpointing),
        TEST(rollback_writer),
        TEST(rollback_writer_persistent_journal),
        TEST(flips_of_every_kind),
        TEST(all_page_sizes),
        TEST(image_keeps_what_the_header_says),
        TEST(closed_wal_is_left_as_it_was),
        TEST(idle_wal_is_not_checkpointed),
        TEST(idle_rollback_is_left_as_it_was),
        TEST(rollback_images_are_the_file),
        TEST(hot_journal),
        TEST(crashed_wal_without_shm),
        TEST(crashed_wal_with_shm),
        TEST(locked_exclusive),
        TEST(what_is_no_database),
        TEST(damaged_sources),
        TEST(damaged_while_open),
        TEST(bytes_behind_the_last_page),
        TEST(through_a_symbolic_link),
        TEST(odd_names),
        TEST(killed_helper_is_replaced),
        TEST(killed_in_the_middle),
        TEST(hanging_helper_is_ended),
        TEST(a_helper_at_work_is_heard),
        TEST(helper_ends_with_its_parent),
        TEST(leftovers_are_removed),
        TEST(no_helper_program),
        TEST(no_room_for_the_image),
        TEST(our_own_locks_survive),
        TEST(several_threads),
        TEST(check_tells),
        TEST(a_schema_that_needs_its_app),
        cmocka_unit_test(side_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
