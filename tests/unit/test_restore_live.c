/* A restore in place that breaks off at any operation on files: nothing half-written stands under a
 * final name, running it again or going back ends it, and no scratch folder is left. */
#include "base/clock.h"
#include "io/fileops.h"
#include "snapshot/restore_live.h"
#include "snapshot/restore_record.h"
#include "states_fixture.h"

#include "base/banned.h"

struct go {
    uint64_t to, added, before;
    const char *from, *into; /* `to` goes elsewhere; or NULL */
    const char *path;        /* "" where it is NULL */
    const char *added_from, *added_into;
    unsigned fail_at;
    enum mode mode;
    int error;
};

/* Save what stands there, then put a snapshot over it. The code; *hit: the fault came. */
static int go(struct states *s, const struct go *g, struct live_result *result, bool *hit)
{
    struct snapshot_row to, base, before = {0}, added = {0};
    struct error e = ERROR_INIT;

    get_row(s, save_safety(s), &base);
    if (g->before)
        get_row(s, g->before, &before);
    get_row(s, g->to, &to);
    if (g->added)
        get_row(s, g->added, &added);
    struct live_request q = {.repo = s->saver.repo,
                             .snapshot = &to,
                             .base = &base,
                             .before = g->before ? &before : NULL,
                             .root = s->place->root,
                             .rules = s->saver.rules,
                             .sqlite = true,
                             .from = g->from,
                             .into = g->into,
                             .path = g->path ? g->path : "",
                             .remove = g->added ? LIVE_ADDED : LIVE_RULES,
                             .added = {g->added ? &added : NULL, NULL},
                             .added_from = g->added_from,
                             .added_into = g->added_into,
                             .workers = 1};
    if (g->fail_at)
        faults_on(OF_CHANGES | OF_CLOSES, g->mode, g->error, g->fail_at);
    int rc = live_restore(&q, result, &e);
    faults_off();
    *hit = g->fail_at && fault.hit;
    if (g->fail_at && g->mode == MODE_CUT && lose_unflushed(s->place->rootfd) > 0)
        assert_true(*hit); /* what is called restored is flushed */
    if (rc != 0 && !g->fail_at)
        print_error("restore: %d %s\n", rc, e.message);
    snapshot_row_release(&to);
    snapshot_row_release(&base);
    if (g->before)
        snapshot_row_release(&before);
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
    s->disk_two = dump_state(s->place);
    go_whole(s, s->one, 0);
    s->disk_one = dump_state(s->place);
    go_whole(s, s->two, 0);
    char *again = dump_state(s->place);
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
static void break_everywhere(struct states *s, uint64_t from, uint64_t to, enum mode mode,
                             int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 7 : 1; /* a sanitizer run takes a sample */
    bool hit = true;
    unsigned at;

    for (at = 1; hit; at += step) {
        struct go g = {
            .to = to, .added = at % 2 ? from : 0, .fail_at = at, .mode = mode, .error = error};
        struct live_result result;
        stale_sides(s);
        go(s, &g, &result, &hit);
        if (!result.begun)
            assert_int_equal(faccessat(s->place->rootfd, "app.db-wal", F_OK, 0), 0);
        assert_no_half(s, s->place, error != EIO && result.written.warning_count > 0);
        live_result_release(&result);
        if (at % 3 == 0) { /* finish what was cut off */
            go_whole(s, to, from);
            no_stale_sides(s);
            assert_state(s->place, to == s->one ? s->disk_one : s->disk_two);
        }
        go_whole(s, from, to);
        no_stale_sides(s);
        assert_state(s->place, from == s->one ? s->disk_one : s->disk_two);
    }
    assert_true(at > 60);
}

/* Both ways, each with an error of its own. */
static void break_both_ways(struct states *s, enum mode mode, int error, int other)
{
    break_everywhere(s, s->two, s->one, mode, error);
    go_whole(s, s->one, s->two);
    break_everywhere(s, s->one, s->two, mode, other);
}

static void side_files_go(void **state)
{
    struct states *s = *state;

    stale_sides(s);
    go_whole(s, s->one, 0);
    assert_state(s->place, s->disk_one);
    stale_sides(s);
    go_whole(s, s->two, s->one);
    assert_state(s->place, s->disk_two);
}

static void fails_once(void **state)
{
    struct states *s = *state;

    break_both_ways(s, MODE_FAIL, EIO, ENOSPC);
    go_whole(s, s->two, s->one);
    break_everywhere(s, s->two, s->one, MODE_FAIL, EPERM);
}

static void fails_for_good(void **state)
{
    break_both_ways(*state, MODE_STICKY, ENOSPC, EIO);
}

static void dies(void **state)
{
    break_both_ways(*state, MODE_KILL, EIO, EIO);
}

static void loses_power(void **state)
{
    break_both_ways(*state, MODE_CUT, EIO, EIO);
}

/* ---- into another folder than it stood in ---- */

/* Each file is that of one, or what stood there in two. */
static void assert_no_half_there(const struct states *s, const char *folder)
{
    struct place there = {.rootfd = openat(s->place->rootfd, folder, O_RDONLY | O_CLOEXEC)};
    char before[5000], *save = NULL;

    if (there.rootfd < 0)
        return;
    char *state = dump_state(&there);
    for (char *line = strtok_r(state, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        snprintf(before, sizeof(before), "%s/%s", folder, line);
        if (!strstr(line, " 04") && !has_line(s->disk_one, line, false) &&
            !has_line(s->disk_two, before, false))
            fail_msg("half of something: %s", line);
    }
    free(state);
    close(there.rootfd);
}

/* With a fault at one place; then whole. True when it was hit. */
static bool go_twice(struct states *s, const struct go *whole, const char *into, unsigned at,
                     enum mode mode, int error)
{
    struct live_result result;
    struct go g = *whole;
    bool hit, none;

    g.fail_at = at;
    g.mode = mode;
    g.error = error;
    go(s, &g, &result, &hit);
    live_result_release(&result);
    assert_no_half_there(s, into);
    assert_int_equal(go(s, whole, &result, &none), 0);
    live_result_release(&result);
    return hit;
}

/* The state of one into a folder of two, that is there or is to be made, and undone again. */
static void shift_everywhere(struct states *s, const char *into, const char *path, enum mode mode,
                             int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 7 : 1;
    const struct go put = {.to = s->one, .from = "", .into = into};
    const struct go back = {
        .to = s->two, .added = s->one, .path = path, .added_from = "", .added_into = into};
    bool hit = true;
    unsigned at;

    for (at = 1; hit; at += step) {
        hit = go_twice(s, &put, into, at, mode, error);
        struct place there = {.rootfd = openat(s->place->rootfd, into, O_RDONLY | O_CLOEXEC)};
        assert_true(there.rootfd >= 0);
        assert_has(&there, s->disk_one);
        close(there.rootfd);
        hit |= go_twice(s, &back, into, at, mode, error);
        assert_state(s->place, s->disk_two);
    }
    assert_true(at > 60);
}

static void elsewhere(void **state)
{
    struct states *s = *state;

    shift_everywhere(s, "closed", "closed", MODE_KILL, EIO);
    shift_everywhere(s, "to be/made", "to be", MODE_FAIL, EIO);
    shift_everywhere(s, "to be/made", "to be", MODE_CUT, EIO);
}

/* ---- folders on the way ---- */

static struct stat look(const struct states *s, const char *path)
{
    struct stat st;

    SYS(fstatat(s->place->rootfd, path, &st, AT_SYMLINK_NOFOLLOW));
    return st;
}

/* Opened to be written, in a run that was cut off, they look as before after the next one. */
static void folders_on_the_way(void **state)
{
    struct states *s = *state;
    struct live_result result;
    bool hit = true, none, met = false;

    struct stat before = look(s, "closed");
    assert_int_equal(before.st_mode, S_IFDIR | 0500);
    for (unsigned at = 1; hit; at++) {
        struct go g = {
            .to = s->one, .path = "closed/in", .fail_at = at, .mode = MODE_KILL, .error = EIO};
        go(s, &g, &result, &hit);
        live_result_release(&result);
        struct stat cut = look(s, "closed");
        met |= cut.st_mode != before.st_mode;
        g.fail_at = 0;
        g.before = s->two;
        g.to = at % 2 ? s->one : s->two; /* on, or back */
        assert_int_equal(go(s, &g, &result, &none), 0);
        live_result_release(&result);
        struct stat after = look(s, "closed");
        assert_true(after.st_mode == before.st_mode &&
                    after.st_mtim.tv_sec == before.st_mtim.tv_sec &&
                    after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
        go_whole(s, s->two, s->one);
    }
    assert_true(met);
}

/* ---- metadata alone ---- */

static void metadata_alone(void **state)
{
    struct states *s = *state;
    struct stat two = look(s, "as it is");
    bool root = geteuid() == 0;

    go_whole(s, s->one, s->two);
    struct stat one = look(s, "as it is");
    assert_true(one.st_ino == two.st_ino && one.st_mode != two.st_mode);
    assert_state(s->place, s->disk_one);
    go_whole(s, s->two, s->one);
    assert_int_equal(look(s, "as it is").st_ino, two.st_ino);
    assert_state(s->place, s->disk_two);
    /* Set-id bits and another's file come and go with it; capabilities are attributes. */
    SYS(fchmodat(s->place->rootfd, "same", root ? 04755 : 0755, 0));
    if (root)
        SYS(fchownat(s->place->rootfd, "same", 1234, 1235, 0));
    uint64_t odd = save_all(&s->saver);
    struct stat third = look(s, "same");
    go_whole(s, s->two, s->one);
    assert_state(s->place, s->disk_two);
    assert_int_equal(look(s, "same").st_ino, third.st_ino);
    go_whole(s, odd, s->two);
    struct stat again = look(s, "same");
    assert_true(again.st_ino == third.st_ino && again.st_mode == third.st_mode &&
                again.st_uid == third.st_uid && again.st_gid == third.st_gid);
}

/* A further name, of which nobody was told, may be outside: the file is written anew. */
static void nobody_elses_metadata(void **state)
{
    struct states *s = *state;
    struct stat before, after;
    char outside[96];

    snprintf(outside, sizeof(outside), "%s/outside", s->place->dir);
    SYS(linkat(s->place->rootfd, "as it is", AT_FDCWD, outside, 0));
    SYS(stat(outside, &before));
    go_whole(s, s->one, s->two);
    assert_state(s->place, s->disk_one);
    SYS(stat(outside, &after));
    assert_true(after.st_mode == before.st_mode && after.st_nlink == 1 &&
                after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
    assert_true(look(s, "as it is").st_ino != before.st_ino);
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
    assert_state(s->place, s->disk_one);
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
    assert_state(s->place, s->disk_two);
    snapshot_row_release(&base);
    snapshot_row_release(&to);
}

/* ---- records ---- */

static void record_text(void **state)
{
    struct error e = ERROR_INIT;
    char first[] = "a\nb", second[] = "\xff", path[] = "x y/\n", from[] = "", into[] = "n\xfe";
    char *only[] = {first, second, NULL}, *text;
    struct restore_record r = {.restored = 7,
                               .back = 8,
                               .base = 9,
                               .added = {3, 4},
                               .path = path,
                               .from = from,
                               .into = into,
                               .only = only,
                               .undo = true,
                               .done = true};
    struct restore_record got;

    MUST(restore_record_text(&r, &text, &e), e);
    MUST(restore_record_parse(text, &got, &e), e);
    assert_true(got.restored == 7 && got.back == 8 && got.base == 9 && got.undo && got.done);
    assert_true(got.added[0] == 3 && got.added[1] == 4);
    assert_string_equal(got.path, r.path);
    assert_string_equal(got.from, from);
    assert_string_equal(got.into, into);
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
        cmocka_unit_test_setup_teardown(fails_for_good, setup, teardown),
        cmocka_unit_test_setup_teardown(dies, setup, teardown),
        cmocka_unit_test_setup_teardown(loses_power, setup, teardown),
        cmocka_unit_test_setup_teardown(elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(folders_on_the_way, setup, teardown),
        cmocka_unit_test_setup_teardown(metadata_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_elses_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(newer_work_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(not_begun, setup, teardown),
        cmocka_unit_test(record_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
