/* What others do beside a verification: snapshots are dropped, and what they stood in goes. It
 * comes at every read of the verification's own thread in turn, and the answer is the one of a
 * verification that was left alone. */
#include "fault_fixture.h"
#include "world_fixture.h"

#include "snapshot/verify.h"
#include "store/repo_private.h"

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

static bool nothing_is_locked(struct repo *r)
{
    pthread_mutex_t *const locks[] = {&r->write_lock, &r->pool_lock, &r->packs_lock};
    size_t taken = 0;

    while (taken < 3 && pthread_mutex_trylock(locks[taken]) == 0)
        taken++;
    for (size_t i = taken; i > 0; i--)
        pthread_mutex_unlock(locks[i - 1]);
    return taken == 3;
}

static void at_a_read(void)
{
    if (!pthread_equal(pthread_self(), beside.verifier) || !beside.within ||
        !nothing_is_locked(beside.w->repo) || beside.reads++ != beside.at)
        return;
    beside.within = false;
    beside.comes(beside.w);
    beside.within = true;
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
    return 0;
}

/* Nothing here depends on what the disk has got. */
static int no_sync(int fd)
{
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

typedef int (*verification)(struct repo *r, struct world *w, struct verify_result *result,
                            struct error *e);

/* ---- runs ---- */

enum { AS_READER = 1, IS_DAMAGED = 2, IS_RECORDED = 4 };

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
    struct world w = {.model = made->model};
    struct verify_result result = {0};
    struct error e = ERROR_INIT;

    snprintf(w.path, sizeof(w.path), "%s/copy-%u", made->scratch->path, at);
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
    if (rc < 0 || (result.errors > 0) != ((how & IS_DAMAGED) != 0))
        print_error("at read %u: %d %s, %" PRIu64 " errors: %s\n", at, rc, e.message, result.errors,
                    result.damaged_count ? result.damaged[0].reason : "-");
    assert_int_equal(rc, 0);
    assert_int_equal(result.errors > 0, (how & IS_DAMAGED) != 0);
    verify_result_release(&result);
    repo_close(reader);
    if (how & IS_RECORDED)
        must_be_verified(w.repo, number);
    repo_close(w.repo);
    return beside.reads > at;
}

static void at_every_read(verification verify, unsigned how, void (*prepare)(struct world *w),
                          void (*comes)(struct world *w))
{
    struct fileops ops = fileops_system;
    struct world *w = NULL;
    unsigned at = 0;

    ops.pread = pread_beside;
    ops.gate = gate_beside;
    ops.fdatasync = ops.fsync = no_sync;
    fileops = &ops;
    assert_int_equal(world_open((void **)&w), 0);
    prepare(w);
    repo_close(w->repo);
    w->repo = NULL;
    beside.verifier = pthread_self();
    beside.comes = comes;
    while (run(w, verify, at, how))
        at++;
    assert_true(at > 5);
    assert_int_equal(world_end((void **)&w), 0);
    fileops = &fileops_system;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_of_many_is_dropped),
        cmocka_unit_test(test_what_is_new_is_dropped),
        cmocka_unit_test(test_one_of_all_is_dropped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
