/* What other threads do while the repository's lock is let go: each case drives one order of
 * events.
 */
#include "disk_fixture.h"

#include <stdatomic.h>

#include "base/banned.h"

/* ---- packs that are being emptied ---- */

static struct txn *waiting; /* keeps the packs from being sealed until it is given up */
static struct world *world;

static void save_some(void)
{
    catch_up(world);
    assert_int_equal(try_save(world, "log", "large", 15, LARGE), 0);
}

static void give_up(void)
{
    txn_abort(waiting);
    disk.emptying = save_some;
}

/* A data pack that has ended without a seal is not gone on with while it is being emptied. */
static void test_a_pack_being_emptied_is_not_written(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    assert_int_equal(try_save(w, "app", "film", 1, 4 * LARGE), 0);
    assert_int_equal(try_save(w, "app", "film", 3, LARGE), 0);
    must_drop(w, (const uint64_t[]){1}, 1);
    repo_min_free(w->repo, UINT64_MAX / 4, 0);
    assert_int_equal(try_save(w, "app", "film", 5, LARGE), ERR_NOSPACE);
    repo_min_free(w->repo, 0, 0);
    assert_null(w->repo->data);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(try_save(w, "log", "small", 2 * i + 1, 3000), 0);
    world = w;
    OK(begin_save(w->repo, "other", &waiting, &e), e);
    disk.at_read = give_up;
    struct upkeep_result done = keep_up(w, false, true, 0);
    assert_null(disk.at_read);
    assert_null(disk.emptying);
    assert_true(done.packs_emptied > 0);
    check_rebuild(w);
}

static void rebuild(void)
{
    struct error e = ERROR_INIT;

    OK(repo_rebuild(disk.repo, &e), e);
}

/* The catalog is made anew while packs are emptied, and a chunk that stands in two places has
 * another one from then on: in the pack that is to go. */
static void test_a_catalog_made_anew_while_packs_are_emptied(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct hash any = {{1}};
    struct txn *small, *large;
    uint64_t number;

    OK(begin_save(w->repo, "small", &small, &e), e);
    OK(txn_claim(small, &any, &e), e); /* what it knows is fixed here */
    OK(begin_save(w->repo, "large", &large, &e), e);
    tree_set(&tree, "same", 1, 20000);
    tree_set(&tree, "large", 3, LARGE);
    OK(put_changes(large, &none, &tree, &e), e);
    txn_abort(large);
    tree.count = 1;
    OK(put_changes(small, &none, &tree, &e), e);
    OK(end_save(small, NULL, &tree, &number, &e), e);
    model_add(&w->model, "small", number, &tree);
    check(w);
    disk.emptying = rebuild;
    keep_up(w, true, false, 0);
    assert_null(disk.emptying);
    check(w);
    keep_up(w, true, false, 0);
    check_rebuild(w);
}

static atomic_bool stop; /* the upkeep */

static void cancel(void)
{
    stop = true;
}

/* What was moved to a pack by a compaction that was broken off stands behind the pack that is
 * emptied later, also where packs are taken in by id. */
static void test_what_moves_goes_to_the_newest_pack(void **state)
{
    const struct upkeep u = {.keep_s = DAY, .cancel = &stop};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    stop = false;
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    be_short(w);
    tree_set(&tree, "stays", 3, CHUNK);
    tree_set(&tree, "goes", 5, 32 * CHUNK);
    tree_set(&tree, "goes too", 7, 32 * CHUNK);
    w->repo->pack_full = 65 * CHUNK; /* the last block ends it */
    must_save(w, "other", &tree);
    assert_null(w->repo->data);
    tree.count = 1;
    must_save(w, "other", &tree);
    must_drop(w, (const uint64_t[]){2}, 1);
    catch_up(w);
    disk.moved = true;
    disk.emptying = cancel;
    assert_int_equal(repo_upkeep(w->repo, &u, &done, &e), ERR_CANCELLED);
    assert_null(disk.emptying);
    keep_up(w, false, true, DAY);
    check_rebuild(w);
}

static void flip(const struct world *w, const char *pack, off_t off)
{
    char path[256];
    uint8_t b;

    snprintf(path, sizeof(path), "%s/packs/%s", w->path, pack);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, off), 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, off), 1);
    close(fd);
}

/* A block that nothing needs was damaged when its pack was emptied. What stood there is not known,
 * though the file stays for a day: it goes. */
static void test_nothing_is_known_in_an_emptied_pack(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    assert_int_equal(try_save(w, "app", "film", 2, 3000), 0);
    must_drop(w, (const uint64_t[]){1}, 1);
    flip(w, "1-data-0000000000000002.wkp", 20000);
    assert_int_equal(keep_up(w, true, false, DAY).packs_emptied, 1);
    reopen(w);
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    keep_up(w, false, false, 0);
    check_rebuild(w);
}

/* ---- the end of a save ---- */

static struct {
    struct world *w;
    struct txn *large;
    struct model_tree tree;
    uint64_t number;
    pthread_t thread;
    atomic_int tid;
} ending;

static void *end_large(void *unused)
{
    struct error e = ERROR_INIT;

    ending.tid = gettid();
    OK(end_save(ending.large, NULL, &ending.tree, &ending.number, &e), e);
    return NULL;
}

/* The end of a large save waits for the flush; meanwhile another one is acknowledged of which the
 * catalog, being full, does not learn. */
static void end_meanwhile(void)
{
    assert_int_equal(pthread_create(&ending.thread, NULL, end_large, NULL), 0);
    for (unsigned asleep = 0; asleep < 100; sched_yield())
        asleep = is_asleep(ending.tid) && nothing_is_locked(disk.repo) ? asleep + 1 : 0;
    disk.catalog = ENOSPC;
    assert_int_equal(try_save(ending.w, "small", "small", 8, 3000), 0);
    assert_true(disk.repo->catalog_stale);
    disk.catalog = 0;
}

static void test_a_commit_waits_beside_another(void **state)
{
    struct world *w = *state;
    const struct model_tree none = {.count = 0};
    struct error e = ERROR_INIT;

    memset(&ending, 0, sizeof(ending));
    ending.w = w;
    w->repo->pack_full = 2 * LARGE;
    OK(begin_save(w->repo, "large", &ending.large, &e), e);
    tree_set(&ending.tree, "film", 1, LARGE);
    OK(put_changes(ending.large, &none, &ending.tree, &e), e);
    disk.at_flush = end_meanwhile;
    assert_int_equal(try_save(w, "full", "film", 3, 2 * LARGE), 0);
    assert_null(disk.at_flush);
    assert_int_equal(pthread_join(ending.thread, NULL), 0);
    model_add(&w->model, "large", ending.number, &ending.tree);
    check_rebuild(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_pack_being_emptied_is_not_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_catalog_made_anew_while_packs_are_emptied, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_moves_goes_to_the_newest_pack, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_known_in_an_emptied_pack, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_commit_waits_beside_another, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
