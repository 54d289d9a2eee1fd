/* The catalog is made anew while other threads read through the same handle, and where that fails
 * half way: nobody is given a part of it. */
#include "threads_fixture.h"
#include "world_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/banned.h"

static void make_history(struct world *w)
{
    struct model_tree tree = {.count = 0};

    for (uint64_t i = 0; i < 12; i++) {
        tree_set(&tree, "keys", 2 * i + 2, 3000);
        must_save(w, "app", &tree);
    }
}

/* ---- another thread ---- */

static struct {
    struct world *w;
    atomic_int id;
    atomic_bool ended;
    size_t seen; /* snapshots */
} other;

static int count_seen(struct repo *r, size_t *seen, struct error *e)
{
    struct catalog *c;

    *seen = 0;
    int rc = repo_catalog_open(r, &c, e);
    if (rc < 0)
        return rc;
    rc = catalog_snapshots(c, 0, 0, UINT64_MAX, false, count_snapshot, seen, e);
    repo_catalog_close(r, c);
    return rc;
}

static void *reads(void *unused)
{
    struct error e = ERROR_INIT;

    other.id = gettid();
    OK(count_seen(other.w->repo, &other.seen, &e), e);
    other.ended = true;
    return NULL;
}

/* True when the thread can do nothing before somebody else does something. */
static bool waits(void)
{
    return other.ended || is_asleep(other.id);
}

/* ---- at a write of the one that makes it ---- */

static struct {
    pthread_t maker, reader;
    unsigned at, writes;
    bool full;          /* from that write on nothing can be written */
    atomic_bool within; /* both threads come to the gate */
} making;

static int gate_making(int op, const char *path)
{
    if (op != FILEOP_WRITE || !making.within || !pthread_equal(pthread_self(), making.maker) ||
        making.writes++ < making.at)
        return 0;
    if (making.full)
        return ENOSPC;
    if (making.writes == making.at + 1) {
        assert_int_equal(pthread_create(&making.reader, NULL, reads, NULL), 0);
        while (!waits())
            sched_yield();
    }
    return 0;
}

static bool rebuild(struct world *w, unsigned at, bool full, int *rc)
{
    struct fileops ops = fileops_system;
    struct error e = ERROR_INIT;

    other.w = w;
    other.id = 0;
    other.ended = false;
    making.maker = pthread_self();
    making.at = at;
    making.writes = 0;
    making.full = full;
    ops.gate = gate_making;
    fileops = &ops;
    making.within = true;
    *rc = repo_rebuild(w->repo, &e);
    making.within = false;
    bool reached = making.writes > at;
    if (reached && !full)
        assert_int_equal(pthread_join(making.reader, NULL), 0);
    fileops = &fileops_system;
    return reached;
}

static void test_a_thread_that_reads_meanwhile(void **state)
{
    struct world *w = *state;
    unsigned at;
    int rc;

    make_history(w);
    for (at = 0; rebuild(w, at, false, &rc); at++) {
        assert_int_equal(rc, 0);
        assert_int_equal(other.seen, w->model.count);
    }
    assert_true(at > 5);
}

static void test_it_fails_half_way(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    unsigned at;
    size_t seen;
    int rc;

    make_history(w);
    for (at = 0; rebuild(w, at, true, &rc); at++) {
        struct catalog_try tried = repo_catalog_try(w->repo);
        assert_int_equal(rc, ERR_NOSPACE);
        rc = count_seen(w->repo, &seen, &e);
        assert_true(rc == ERR_CATALOG || (rc == 0 && seen == w->model.count));
        assert_int_equal(snapshot_count(w->repo), w->model.count);
        if (rc == ERR_CATALOG)
            assert_true(repo_catalog_replaced(w->repo, rc, &tried));
        check_model(w->repo, &w->model);
        check_refs(w->repo);
    }
    assert_true(at > 5);
}

static ino_t catalog_file(const struct world *w)
{
    char path[160];
    struct stat st;

    snprintf(path, sizeof(path), "%s/catalog.db", w->path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

/* Two that met the same failure: it is made anew once for both, and again for who fails again. */
static void test_once_for_all_who_met_it(void **state)
{
    struct world *w = *state;

    make_history(w);
    struct catalog_try first = repo_catalog_try(w->repo), second = first;
    ino_t before = catalog_file(w);
    assert_true(repo_catalog_replaced(w->repo, ERR_CATALOG, &first));
    ino_t then = catalog_file(w);
    assert_true(then != before);
    assert_true(repo_catalog_replaced(w->repo, ERR_CATALOG, &second));
    assert_true(catalog_file(w) == then);
    assert_true(repo_catalog_replaced(w->repo, ERR_CATALOG, &second));
    assert_true(catalog_file(w) != then);
    assert_false(repo_catalog_replaced(w->repo, ERR_CATALOG, &first));
    assert_false(repo_catalog_replaced(w->repo, ERR_CATALOG, &second));
    check_model(w->repo, &w->model);
}

/* A save has it caught up before anything else. */
static void test_a_save_goes_on_half_way(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    unsigned at;
    int rc;

    make_history(w);
    for (at = 0; at < 40 && rebuild(w, at, true, &rc); at += 3) {
        tree_set(&tree, "keys", 100 + at, 2000);
        must_save(w, "app", &tree);
        check_model(w->repo, &w->model);
        check_refs(w->repo);
    }
    assert_true(at > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_thread_that_reads_meanwhile, world_open, world_end),
        cmocka_unit_test_setup_teardown(test_once_for_all_who_met_it, world_open, world_end),
        cmocka_unit_test_setup_teardown(test_it_fails_half_way, world_open, world_end),
        cmocka_unit_test_setup_teardown(test_a_save_goes_on_half_way, world_open, world_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
