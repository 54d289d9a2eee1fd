/* A restore in place that breaks off at any operation on files: nothing half-written stands under a
 * final name, running it again or going back ends it, and no scratch folder is left. */
#include "base/clock.h"
#include "io/fileops.h"
#include "save_fixture.h"
#include "snapshot/restore_live.h"
#include "snapshot/restore_record.h"
#include "store/hash.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "fault_table.h"

#include "base/banned.h"

/* ---- the two states ---- */

struct states {
    struct place *place;
    struct saver saver;
    uint64_t one, two;
    char *disk_one, *disk_two;
};

static void put_database(const struct place *p, const char *name, int rows)
{
    char path[256], sql[200];
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/%s", p->root, name);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    snprintf(
        sql, sizeof(sql),
        "DROP TABLE IF EXISTS t; CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t SELECT i FROM n",
        rows);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void make_one(const struct place *p)
{
    put_text(p, "same", "the same");
    put_text(p, "changed", "one");
    put_text(p, "gone", "only in one");
    put_text(p, "file or folder", "a file");
    make_dir(p, "folder or file");
    make_dir(p, "folder or file/below");
    put_text(p, "folder or file/below/it", "below");
    SYS(symlinkat("same", p->rootfd, "link or file"));
    make_dir(p, "closed");
    put_text(p, "closed/in", "one");
    SYS(fchmodat(p->rootfd, "closed", 0555, 0));
    put_database(p, "app.db", 3);
}

static void make_two(const struct place *p)
{
    put_text(p, "changed", "another and longer");
    SYS(unlinkat(p->rootfd, "gone", 0));
    put_text(p, "new", "only in two");
    make_dir(p, "new folder");
    put_text(p, "new folder/in", "only in two");
    SYS(unlinkat(p->rootfd, "file or folder", 0));
    make_dir(p, "file or folder");
    put_text(p, "file or folder/in", "a folder");
    SYS(unlinkat(p->rootfd, "folder or file/below/it", 0));
    SYS(unlinkat(p->rootfd, "folder or file/below", AT_REMOVEDIR));
    SYS(unlinkat(p->rootfd, "folder or file", AT_REMOVEDIR));
    put_text(p, "folder or file", "a file");
    SYS(unlinkat(p->rootfd, "link or file", 0));
    put_text(p, "link or file", "a file");
    SYS(fchmodat(p->rootfd, "closed", 0755, 0));
    put_text(p, "closed/in", "two");
    SYS(fchmodat(p->rootfd, "closed", 0500, 0));
    put_database(p, "app.db", 2000);
    put_database(p, "more.db", 2);
}

static uint64_t save_safety(struct states *s)
{
    struct save_request q = {.kind = SNAPSHOT_SAFETY};

    MUST(try_save(&s->saver, &q), s->saver.error);
    assert_int_not_equal(s->saver.last.snapshot, 0);
    return s->saver.last.snapshot;
}

static void get_row(struct states *s, uint64_t number, struct snapshot_row *row)
{
    struct error e = ERROR_INIT;

    MUST(catalog_snapshot(repo_catalog(s->saver.repo), number, row, &e), e);
}

struct go {
    uint64_t to, added;
    unsigned fail_at;
    bool die;
    int error;
};

/* Save what stands there, then put a snapshot over it. The code; *hit: the fault came. */
static int go(struct states *s, const struct go *g, struct live_result *result, bool *hit)
{
    struct snapshot_row to, base, added = {0};
    struct error e = ERROR_INIT;

    get_row(s, save_safety(s), &base);
    get_row(s, g->to, &to);
    if (g->added)
        get_row(s, g->added, &added);
    struct live_request q = {.repo = s->saver.repo,
                             .snapshot = &to,
                             .base = &base,
                             .root = s->place->root,
                             .rules = s->saver.rules,
                             .sqlite = true,
                             .path = "",
                             .remove = g->added ? LIVE_ADDED : LIVE_RULES,
                             .added = {g->added ? &added : NULL, NULL},
                             .workers = 1};
    if (g->fail_at)
        faults_on(OF_CHANGES | OF_CLOSES, g->die ? MODE_KILL : MODE_FAIL, g->error, g->fail_at);
    int rc = live_restore(&q, result, &e);
    faults_off();
    *hit = g->fail_at && fault.hit;
    if (rc != 0 && !g->fail_at)
        print_error("restore: %d %s\n", rc, e.message);
    snapshot_row_release(&to);
    snapshot_row_release(&base);
    if (g->added)
        snapshot_row_release(&added);
    return rc;
}

static void go_whole(struct states *s, uint64_t to, uint64_t added)
{
    const struct go g = {.to = to, .added = added};
    struct live_result result;
    bool hit;

    assert_int_equal(go(s, &g, &result, &hit), 0);
    assert_int_equal(result.written.skipped, 0);
    live_result_release(&result);
}

/* In memory where there is some: it is flushed very often. */
static int memory_place(struct place **out)
{
    struct place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    memcpy(p->dir, "/dev/shm/wk-save-XXXXXX", 24);
    if (!mkdtemp(p->dir)) {
        free(p);
        return place_setup((void **)out);
    }
    snprintf(p->root, sizeof(p->root), "%s/root", p->dir);
    SYS(mkdir(p->root, 0755));
    p->rootfd = open(p->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SYS(p->rootfd);
    *out = p;
    return 0;
}

static int setup(void **state)
{
    struct states *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    assert_int_equal(memory_place(&s->place), 0);
    saver_open(&s->saver, s->place, "repo");
    make_one(s->place);
    s->one = save_all(&s->saver);
    make_two(s->place);
    s->two = save_all(&s->saver);
    s->disk_two = dump_disk(s->place, true);
    go_whole(s, s->one, 0);
    s->disk_one = dump_disk(s->place, true);
    go_whole(s, s->two, 0);
    char *again = dump_disk(s->place, true);
    assert_string_equal(again, s->disk_two);
    free(again);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct states *s = *state;
    struct place *p = s->place;

    faults_off();
    free(s->disk_one);
    free(s->disk_two);
    saver_close(&s->saver);
    free(s);
    return place_teardown((void **)&p);
}

static void assert_disk(const struct states *s, const char *wanted)
{
    char *disk = dump_disk(s->place, true);

    assert_string_equal(disk, wanted);
    free(disk);
}

/* Every file that stands there is, with its metadata, as in one of the two states. */
static void assert_no_half(const struct states *s)
{
    char *disk = dump_disk(s->place, true), *save = NULL;

    for (char *line = strtok_r(disk, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char whole[5000];
        if (strstr(line, " 04") || strstr(line, ".watchkeep-restore-") ||
            strstr(line, "app.db-") != NULL)
            continue; /* a folder; our scratch folder; what is stale */
        snprintf(whole, sizeof(whole), "%s\n", line);
        if (!strstr(s->disk_one, whole) && !strstr(s->disk_two, whole))
            fail_msg("half of something: %s", line);
    }
    free(disk);
}

/* ---- the tests ---- */

static void stale_sides(const struct states *s)
{
    put_text(s->place, "app.db-wal", "stale, and no frames");
    put_text(s->place, "app.db-shm", "stale");
}

/* Beside a database that never had to make way they stay. */
static void no_stale_sides(const struct states *s)
{
    unlinkat(s->place->rootfd, "app.db-wal", 0);
    unlinkat(s->place->rootfd, "app.db-shm", 0);
}

/* From one state to the other, failing at every operation; then on, or back. */
static void break_everywhere(struct states *s, uint64_t from, uint64_t to, bool die, int error)
{
    bool hit = true;
    unsigned at;

    for (at = 1; hit; at++) {
        struct go g = {
            .to = to, .added = at % 2 ? from : 0, .fail_at = at, .die = die, .error = error};
        struct live_result result;
        stale_sides(s);
        go(s, &g, &result, &hit);
        if (!result.begun)
            assert_int_equal(faccessat(s->place->rootfd, "app.db-wal", F_OK, 0), 0);
        live_result_release(&result);
        assert_no_half(s);
        if (at % 3 == 0) { /* finish what was cut off */
            go_whole(s, to, from);
            no_stale_sides(s);
            assert_disk(s, to == s->one ? s->disk_one : s->disk_two);
        }
        go_whole(s, from, to);
        no_stale_sides(s);
        assert_disk(s, from == s->one ? s->disk_one : s->disk_two);
    }
    assert_true(at > 30);
}

static void side_files_go(void **state)
{
    struct states *s = *state;

    stale_sides(s);
    go_whole(s, s->one, 0);
    assert_disk(s, s->disk_one);
    stale_sides(s);
    go_whole(s, s->two, s->one);
    assert_disk(s, s->disk_two);
}

static void fails_once(void **state)
{
    struct states *s = *state;

    break_everywhere(s, s->two, s->one, false, EIO);
    go_whole(s, s->one, s->two);
    break_everywhere(s, s->one, s->two, false, ENOSPC);
    go_whole(s, s->two, s->one);
    break_everywhere(s, s->two, s->one, false, EPERM);
}

static void dies(void **state)
{
    struct states *s = *state;

    break_everywhere(s, s->two, s->one, true, EIO);
    go_whole(s, s->one, s->two);
    break_everywhere(s, s->one, s->two, true, EIO);
}

/* ---- what changed since it was saved ---- */

struct meddler {
    struct states *states;
};

static int meddle(void *ctx, struct error *e)
{
    struct meddler *m = ctx;

    put_text(m->states->place, "changed", "newer work");
    put_text(m->states->place, "gone", "appeared");
    return 0;
}

static void newer_work_stays(void **state)
{
    struct states *s = *state;
    struct meddler m = {s};
    struct snapshot_row to, base;
    struct live_result result;
    struct error e = ERROR_INIT;

    get_row(s, save_safety(s), &base);
    get_row(s, s->one, &to);
    struct live_request q = {.repo = s->saver.repo,
                             .snapshot = &to,
                             .base = &base,
                             .root = s->place->root,
                             .rules = s->saver.rules,
                             .sqlite = true,
                             .path = "",
                             .remove = LIVE_RULES,
                             .begin = meddle,
                             .ctx = &m};
    assert_int_equal(live_restore(&q, &result, &e), ERR_REFUSED);
    assert_int_equal(result.written.skipped, 2);
    assert_true(result.written.finished);
    live_result_release(&result);
    char *disk = dump_disk(s->place, false);
    struct hash id;
    char hex[2 * HASH_LEN + 1];
    hash_sha256("newer work", 10, &id);
    text_hex(id.b, 8, hex);
    assert_non_null(strstr(disk, hex));
    hash_sha256("appeared", 8, &id);
    text_hex(id.b, 8, hex);
    assert_non_null(strstr(disk, hex));
    free(disk);
    /* Forced, it goes. */
    q.force = true;
    q.begin = NULL;
    uint64_t now = save_safety(s);
    snapshot_row_release(&base);
    get_row(s, now, &base);
    assert_int_equal(live_restore(&q, &result, &e), 0);
    live_result_release(&result);
    assert_disk(s, s->disk_one);
    snapshot_row_release(&base);
    snapshot_row_release(&to);
}

/* A begin that fails leaves everything as it was. */
static int refuse(void *ctx, struct error *e)
{
    return error_set(e, ERR_BUSY, "no");
}

static void not_begun(void **state)
{
    struct states *s = *state;
    struct snapshot_row to, base;
    struct live_result result;
    struct error e = ERROR_INIT;

    get_row(s, save_safety(s), &base);
    get_row(s, s->one, &to);
    struct live_request q = {.repo = s->saver.repo,
                             .snapshot = &to,
                             .base = &base,
                             .root = s->place->root,
                             .rules = s->saver.rules,
                             .path = "",
                             .remove = LIVE_RULES,
                             .begin = refuse};
    assert_int_equal(live_restore(&q, &result, &e), ERR_BUSY);
    assert_false(result.begun);
    live_result_release(&result);
    assert_disk(s, s->disk_two);
    snapshot_row_release(&base);
    snapshot_row_release(&to);
}

/* ---- records ---- */

static void record_text(void **state)
{
    struct error e = ERROR_INIT;
    char first[] = "a\nb", second[] = "\xff", path[] = "x y/\n";
    char *only[] = {first, second, NULL}, *text;
    struct restore_record r = {.restored = 7,
                               .back = 8,
                               .base = 9,
                               .added = {3, 4},
                               .path = path,
                               .only = only,
                               .undo = true,
                               .done = true};
    struct restore_record got;

    MUST(restore_record_text(&r, &text, &e), e);
    MUST(restore_record_parse(text, &got, &e), e);
    assert_true(got.restored == 7 && got.back == 8 && got.base == 9 && got.undo && got.done);
    assert_true(got.added[0] == 3 && got.added[1] == 4);
    assert_string_equal(got.path, r.path);
    assert_string_equal(got.only[0], only[0]);
    assert_string_equal(got.only[1], only[1]);
    assert_null(got.only[2]);
    restore_record_release(&got);
    free(text);
    const char *const bad[] = {"",
                               "restored 1\nback 2\nbase 3\n",
                               "restored x\nback 2\nbase 3\npath \n",
                               "restored 1\nback 2\nbase 3\npath 0\n",
                               "restored 1\nback 2\nbase 3\npath 00\n",
                               "restored -1\nback 2\nbase 3\npath \n",
                               "path\n"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(restore_record_parse(bad[i], &got, &e), ERR_DAMAGED);
    MUST(restore_record_parse("restored 1\nback 2\nbase 3\npath \nlater thing\n", &got, &e), e);
    assert_string_equal(got.path, "");
    restore_record_release(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(side_files_go, setup, teardown),
        cmocka_unit_test_setup_teardown(fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(dies, setup, teardown),
        cmocka_unit_test_setup_teardown(newer_work_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(not_begun, setup, teardown),
        cmocka_unit_test(record_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
