/* What others do beside a verification: snapshots are dropped, and what they stood in goes; the
 * catalog is made anew. Each comes at every read of the verification's own thread in turn, and the
 * answer is the one of a verification that was left alone. Of many reads it is every one at first,
 * then fewer and fewer. */
#include "fault_fixture.h"
#include "threads_fixture.h"
#include "world_fixture.h"

#include "snapshot/restore_test.h"
#include "snapshot/verify.h"

#include <pthread.h>

#include "base/banned.h"

static struct {
    struct world *w;
    pthread_t verifier;
    void (*comes)(struct world *w);
    unsigned at; /* it comes at this read */
    unsigned reads;
    bool within;
} beside;

static void at_a_read(void)
{
    if (!pthread_equal(pthread_self(), beside.verifier) || !beside.within ||
        !nothing_is_locked(beside.w->repo) || beside.reads++ != beside.at)
        return;
    beside.within = false;
    beside.comes(beside.w);
    beside.within = true;
}

/* ---- a catalog that is half made ---- */

/* Another thread makes it anew and stops at one of its writes until it is let go. */
static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned at, writes; /* it stops at this write of its own; under lock, like what follows */
    bool runs, stopped, ended, let_go;
} making = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void stop_at_a_write(void)
{
    pthread_mutex_lock(&making.lock);
    if (making.runs && pthread_equal(pthread_self(), making.thread) &&
        making.writes++ == making.at) {
        making.stopped = true;
        pthread_cond_broadcast(&making.changed);
        while (!making.let_go)
            pthread_cond_wait(&making.changed, &making.lock);
    }
    pthread_mutex_unlock(&making.lock);
}

static void *make_anew(void *repo)
{
    struct error e = ERROR_INIT;

    OK(repo_rebuild(repo, &e), e);
    pthread_mutex_lock(&making.lock);
    making.ended = true;
    pthread_cond_broadcast(&making.changed);
    pthread_mutex_unlock(&making.lock);
    return NULL;
}

static void begin_to_make_anew(struct world *w)
{
    pthread_mutex_lock(&making.lock);
    making.runs = true;
    making.stopped = making.ended = making.let_go = false;
    making.writes = 0;
    assert_int_equal(pthread_create(&making.thread, NULL, make_anew, w->repo), 0);
    while (!making.stopped && !making.ended)
        pthread_cond_wait(&making.changed, &making.lock);
    pthread_mutex_unlock(&making.lock);
}

static void end_making_anew(void)
{
    pthread_mutex_lock(&making.lock);
    bool runs = making.runs;
    making.let_go = true;
    pthread_cond_broadcast(&making.changed);
    pthread_mutex_unlock(&making.lock);
    if (runs)
        assert_int_equal(pthread_join(making.thread, NULL), 0);
    making.runs = false;
}

static ssize_t pread_beside(int fd, void *p, size_t n, off_t off)
{
    at_a_read();
    return fileops_system.pread(fd, p, n, off);
}

static int gate_beside(int op, const char *path)
{
    if (op == FILEOP_READ)
        at_a_read();
    if (op == FILEOP_WRITE)
        stop_at_a_write();
    return 0;
}

/* ---- what comes ---- */

/* As a prune does: not what somebody reads. */
static void drop_one(struct world *w)
{
    uint64_t number = w->model.snapshots[w->model.count - 2].number;

    if (!repo_leased(w->repo, number))
        must_drop(w, &number, 1);
}

static void drop_and_tidy_up(struct world *w)
{
    struct error e = ERROR_INIT;

    drop_one(w);
    OK(repo_upkeep(w->repo, &everything, NULL, &e), e);
}

/* As a prune that looked for leases a moment before one was taken. */
static void drop_too_late(struct world *w)
{
    struct error e = ERROR_INIT;

    must_drop(w, &w->model.snapshots[w->model.count - 2].number, 1);
    OK(repo_upkeep(w->repo, &everything, NULL, &e), e);
}

static void save_more(struct world *w)
{
    struct model_tree tree = *last_tree(&w->model, "app");

    tree_set(&tree, "more", 20 + 2 * w->model.count, 5000);
    must_save(w, "app", &tree);
}

static void rebuild_and_save(struct world *w)
{
    struct error e = ERROR_INIT;

    save_more(w);
    OK(repo_rebuild(w->repo, &e), e);
    save_more(w);
}

/* ---- what is verified ---- */

static int quick(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    const struct verify_request q = {.repo = r, .level = VERIFY_QUICK, .workers = 1};

    return verify_run(&q, result, e);
}

static int full(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    const struct verify_request q = {
        .repo = r, .level = VERIFY_FULL, .workers = 1, .record = true, .record_in = w->repo};

    return verify_run(&q, result, e);
}

static int whole(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    const struct verify_request q = {.repo = r, .level = VERIFY_FULL, .workers = 1};

    return verify_run(&q, result, e);
}

static int newest(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    uint64_t number = w->model.snapshots[w->model.count - 1].number;
    const struct verify_request q = {.repo = r,
                                     .level = VERIFY_FULL,
                                     .snapshots = &number,
                                     .count = 1,
                                     .again = true,
                                     .workers = 1};

    return verify_run(&q, result, e);
}

static int what_is_new(struct repo *r, struct world *w, struct verify_result *result,
                       struct error *e)
{
    const struct verify_part part = {.repo = r, .record_in = w->repo};
    bool all;

    return verify_new(&part, UINT64_MAX, result, &all, e);
}

static int a_sample(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    const struct verify_part part = {.repo = r, .record_in = w->repo};
    bool round;

    return verify_sample(&part, 50, result, &round, e);
}

/* By bringing it back. */
static int restored(struct repo *r, struct world *w, struct verify_result *result, struct error *e)
{
    uint64_t number = w->model.snapshots[w->model.count - 1].number;
    struct restore_test test = {0};
    struct snapshot_row row;
    char folder[160];

    snprintf(folder, sizeof(folder), "%s-test", w->path);
    int rc = catalog_snapshot(repo_catalog(r), number, &row, e);
    if (rc < 0)
        return rc;
    rc = restore_test_run(r, &row, folder, NULL, NULL, &test, e);
    result->errors = test.errors;
    if (rc == 0)
        assert_int_equal(test.files, w->model.snapshots[3].tree.count);
    restore_test_release(&test);
    snapshot_row_release(&row);
    return rc;
}

typedef int (*verification)(struct repo *r, struct world *w, struct verify_result *result,
                            struct error *e);

/* ---- runs ---- */

enum {
    AS_READER = 1,
    IS_DAMAGED = 2,  /* and that is told */
    WAS_DAMAGED = 4, /* and was told; that it was is forgotten with the old catalog */
    IS_RECORDED = 8,
};

static char largest[512];
static off_t largest_size;

static void look_at_size(const char *path, const char *name, void *ctx)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    if (st.st_size <= largest_size)
        return;
    largest_size = st.st_size;
    snprintf(largest, sizeof(largest), "%s", path);
}

/* A bit in the middle of the largest pack. */
static void damage_the_film(struct world *w)
{
    char folder[160];
    uint8_t byte;

    largest_size = 0;
    snprintf(folder, sizeof(folder), "%s/packs", w->path);
    each_file(folder, look_at_size, NULL);
    int fd = open(largest, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, largest_size / 2), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, largest_size / 2), 1);
    close(fd);
}

static void make_history(struct world *w)
{
    struct model_tree tree = {.count = 0};

    tree_set(&tree, "film", 3, LARGE);
    tree_set(&tree, "keys", 5, 4000);
    must_save(w, "app", &tree);
    tree_set(&tree, "keys", 7, 4100);
    must_save(w, "app", &tree);
    tree_set(&tree, "list", 9, 20 * CHUNK);
    must_save(w, "app", &tree);
    tree_set(&tree, "keys", 11, 4200);
    must_save(w, "app", &tree);
}

static void make_damaged(struct world *w)
{
    make_history(w);
    damage_the_film(w);
}

/* What is new needs nothing that is damaged; because of what is, no pack as a whole is sound. */
static void make_damaged_before(struct world *w)
{
    struct verify_result result;
    struct error e = ERROR_INIT;
    struct model_tree tree;

    make_damaged(w);
    OK(what_is_new(w->repo, w, &result, &e), e);
    assert_true(result.errors > 0);
    verify_result_release(&result);
    tree = *last_tree(&w->model, "app");
    tree_remove(&tree, "film");
    must_save(w, "app", &tree);
    save_more(w);
}

static void must_be_verified(struct repo *r, uint64_t number)
{
    struct snapshot_row row;
    struct error e = ERROR_INIT;

    OK(catalog_snapshot(repo_catalog(r), number, &row, &e), e);
    assert_true(row.verified.s > 0 && !row.damaged);
    snapshot_row_release(&row);
}

/* True while there was a read of that number. */
static bool run(const struct world *made, verification verify, unsigned at, unsigned how)
{
    static unsigned copies;
    struct world w = {.model = made->model};
    struct verify_result result = {0};
    struct error e = ERROR_INIT;

    snprintf(w.path, sizeof(w.path), "%s/copy-%u", made->scratch->path, ++copies);
    copy_repo(made->path, w.path);
    world_reopen(&w, REPO_WRITE);
    uint64_t number = w.model.snapshots[w.model.count - 1].number;
    beside.w = &w;
    struct repo *reader = NULL;
    if (how & AS_READER)
        OK(open_repo(w.path, REPO_READ, NULL, &reader, &e), e);
    beside.at = at;
    beside.reads = 0;
    beside.within = true;
    int rc = verify(reader ? reader : w.repo, &w, &result, &e);
    beside.within = false;
    end_making_anew();
    bool wrong = !(how & WAS_DAMAGED) && (result.errors > 0) != ((how & IS_DAMAGED) != 0);
    if (rc < 0 || wrong)
        print_error("at read %u: %d %s, %" PRIu64 " errors: %s\n", at, rc, e.message, result.errors,
                    result.damaged_count ? result.damaged[0].reason : "-");
    assert_int_equal(rc, 0);
    assert_false(wrong);
    assert_null(strstr(w.notices.all, "made anew")); /* for a reader's sake */
    verify_result_release(&result);
    repo_close(reader);
    if (how & IS_RECORDED)
        must_be_verified(w.repo, number);
    repo_close(w.repo);
    return beside.reads > at;
}

static struct fileops table;

static struct world *made(void (*prepare)(struct world *w), void (*comes)(struct world *w))
{
    struct world *w = NULL;

    table = fileops_system;
    table.pread = pread_beside;
    table.gate = gate_beside;
    table.fdatasync = table.fsync = no_sync;
    fileops = &table;
    assert_int_equal(world_open((void **)&w), 0);
    prepare(w);
    repo_close(w->repo);
    w->repo = NULL;
    beside.verifier = pthread_self();
    beside.comes = comes;
    return w;
}

static void unmade(struct world *w)
{
    assert_int_equal(world_end((void **)&w), 0);
    fileops = &fileops_system;
}

static void at_every_read(verification verify, unsigned how, void (*prepare)(struct world *w),
                          void (*comes)(struct world *w))
{
    const char *sanitized = getenv("WK_SANITIZE");
    const unsigned dense = sanitized && *sanitized ? 4 : 16;
    struct world *w = made(prepare, comes);
    unsigned at = 0;

    while (run(w, verify, at, how))
        at += 1 + at / dense;
    assert_true(at > 5);
    unmade(w);
}

/* ---- drops ---- */

static void test_one_of_many_is_dropped(void **state)
{
    at_every_read(what_is_new, IS_RECORDED, make_damaged_before, drop_one);
    at_every_read(what_is_new, AS_READER | IS_RECORDED, make_damaged_before, drop_one);
}

static void test_what_is_new_is_dropped(void **state)
{
    at_every_read(what_is_new, AS_READER | IS_RECORDED, make_history, drop_and_tidy_up);
    at_every_read(a_sample, AS_READER, make_history, drop_and_tidy_up);
}

static void test_one_of_all_is_dropped(void **state)
{
    at_every_read(quick, AS_READER, make_history, drop_and_tidy_up);
    at_every_read(full, AS_READER | IS_RECORDED, make_history, drop_and_tidy_up);
    at_every_read(full, IS_RECORDED, make_history, drop_and_tidy_up);
    at_every_read(quick, AS_READER, make_history, drop_too_late);
    at_every_read(full, AS_READER | IS_RECORDED, make_history, drop_too_late);
    at_every_read(full, IS_RECORDED, make_history, drop_too_late);
}

/* ---- the catalog is made anew ---- */

static void test_a_catalog_made_anew_is_no_damage(void **state)
{
    at_every_read(quick, AS_READER, make_history, rebuild_and_save);
    at_every_read(full, AS_READER | IS_RECORDED, make_history, rebuild_and_save);
    at_every_read(newest, AS_READER, make_history, rebuild_and_save);
    at_every_read(restored, AS_READER, make_history, rebuild_and_save);
}

static void test_parts_beside_a_catalog_made_anew(void **state)
{
    at_every_read(what_is_new, AS_READER | IS_RECORDED, make_history, rebuild_and_save);
    at_every_read(what_is_new, AS_READER | WAS_DAMAGED | IS_RECORDED, make_damaged_before,
                  rebuild_and_save);
    at_every_read(a_sample, AS_READER, make_history, rebuild_and_save);
}

static void test_a_catalog_that_is_half_made(void **state)
{
    static const unsigned writes[] = {0, 2, 5, 9, 20, 50};
    struct world *w = made(make_history, begin_to_make_anew);

    for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
        making.at = writes[i];
        for (unsigned at = (unsigned)i % 2; run(w, whole, at, AS_READER); at += 4)
            assert_true(making.stopped);
    }
    unmade(w);
}

/* What was read back the writer knows, not the copy in memory that a reader goes on with. */
static void test_parts_with_a_reader_in_memory(void **state)
{
    const struct repo_options in_memory = {.distrust = true};
    struct world *w = made(make_history, NULL);
    struct verify_result result;
    struct error e = ERROR_INIT;
    struct repo *reader;
    bool all = false;

    world_reopen(w, REPO_WRITE);
    OK(repo_open(w->path, REPO_READ, &in_memory, &reader, &e), e);
    const struct verify_part part = {.repo = reader, .record_in = w->repo};
    for (unsigned i = 0; !all; i++) {
        assert_true(i < 10);
        OK(verify_new(&part, 1, &result, &all, &e), e);
        assert_int_equal(result.errors, 0);
        verify_result_release(&result);
    }
    repo_close(reader);
    must_be_verified(w->repo, w->model.snapshots[w->model.count - 1].number);
    unmade(w);
}

static void test_damage_is_found_beside_a_catalog_made_anew(void **state)
{
    at_every_read(full, AS_READER | IS_DAMAGED, make_damaged, rebuild_and_save);
    at_every_read(newest, AS_READER | IS_DAMAGED, make_damaged, rebuild_and_save);
    at_every_read(what_is_new, AS_READER | IS_DAMAGED, make_damaged, rebuild_and_save);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_of_many_is_dropped),
        cmocka_unit_test(test_what_is_new_is_dropped),
        cmocka_unit_test(test_one_of_all_is_dropped),
        cmocka_unit_test(test_a_catalog_made_anew_is_no_damage),
        cmocka_unit_test(test_parts_beside_a_catalog_made_anew),
        cmocka_unit_test(test_a_catalog_that_is_half_made),
        cmocka_unit_test(test_parts_with_a_reader_in_memory),
        cmocka_unit_test(test_damage_is_found_beside_a_catalog_made_anew),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
