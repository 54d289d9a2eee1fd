/* At the last byte: the disk takes nothing while the reserve stands, and a little once it is gone.
 * And before that: what is left to others. */
#include "world_fixture.h"

#include "snapshot/verify.h"
#include "store/repo_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/statvfs.h>

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

static struct {
    bool full;
    char reserve[160];
    bool no_catalog; /* it takes no write */
    bool loses_data; /* what is written to the data pack; who did not write it is told nothing */
    struct repo *rebuilt; /* while a data pack is being flushed */
    struct world *saving; /* once, while a data pack that has ended is being read for its seal */
    struct repo *saved_to;
} disk;

static bool refuses(void)
{
    return disk.full && access(disk.reserve, F_OK) == 0;
}

static ssize_t full_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if (!refuses())
        return fileops_system.pwrite(fd, p, n, off);
    errno = ENOSPC;
    return -1;
}

static int full_gate(int op, const char *path)
{
    if (op == FILEOP_WRITE && disk.no_catalog)
        return EIO;
    return op == FILEOP_WRITE && refuses() ? ENOSPC : 0;
}

static unsigned syncs;         /* so far */
static uint64_t failing_syncs; /* bit n: the nth one fails */

/* Open for writing, and more than begun. */
static bool is_data_pack(int fd)
{
    char name[32], path[256];
    struct stat st;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, "/1-data-") && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR &&
           fstat(fd, &st) == 0 && st.st_size > PACK_HEADER_LEN;
}

static int counted_sync(int fd)
{
    if ((disk.loses_data || disk.rebuilt) && is_data_pack(fd)) {
        struct error e = ERROR_INIT;
        if (disk.rebuilt)
            OK(repo_rebuild(disk.rebuilt, &e), e);
        errno = EIO;
        return disk.loses_data ? -1 : fileops_system.fdatasync(fd);
    }
    if (syncs < 64 && failing_syncs >> syncs++ & 1) {
        errno = EIO;
        return -1;
    }
    return fileops_system.fdatasync(fd);
}

/* The catalog is made anew, and a save follows. */
static void save_meanwhile(void)
{
    struct world *w = disk.saving;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;

    disk.saving = NULL;
    tree_set(&tree, "meanwhile", 13, LARGE);
    OK(repo_rebuild(disk.saved_to, &e), e);
    OK(save(disk.saved_to, &w->model, "other", &tree, &e), e);
}

static ssize_t counted_pread(int fd, void *p, size_t n, off_t off)
{
    if (disk.saving && is_data_pack(fd))
        save_meanwhile();
    return fileops_system.pread(fd, p, n, off);
}

static struct fileops table;

static int setup(void **state)
{
    if (world_make(state) != 0)
        return -1;
    snprintf(disk.reserve, sizeof(disk.reserve), "%s/reserve", ((struct world *)*state)->path);
    disk.full = disk.no_catalog = disk.loses_data = false;
    disk.rebuilt = NULL;
    disk.saving = NULL;
    table = fileops_system;
    table.pread = counted_pread;
    table.pwrite = full_pwrite;
    table.gate = full_gate;
    table.fdatasync = counted_sync;
    failing_syncs = 0;
    fileops = &table;
    return 0;
}

static int teardown(void **state)
{
    fileops = &fileops_system;
    return world_end(state);
}

static struct repo *open_with_reserve(const struct world *w)
{
    struct repo_options opt = {.codec = CODEC_ZSTD, .reserve = true};
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(repo_open(w->path, REPO_WRITE, &opt, &r, &e), e);
    return r;
}

static struct repo *with_two_saves(struct world *w)
{
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r = open_with_reserve(w);

    tree_set(&tree, "large", 5, LARGE);
    OK(save(r, &w->model, "app", &tree, &e), e);
    tree_set(&tree, "small", 6, 4000);
    OK(save(r, &w->model, "app", &tree, &e), e);
    assert_int_equal(access(disk.reserve, F_OK), 0);
    return r;
}

/* A save leaves the reserve alone; dropping a snapshot takes it, and it comes back with room. */
static void test_a_drop_at_the_last_byte(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree more = *last_tree(&w->model, "app");

    disk.full = true;
    tree_set(&more, "more", 8, 5000);
    assert_int_equal(save(r, &w->model, "app", &more, &e), ERR_NOSPACE);
    assert_true(refuses());
    OK(repo_drop(r, &w->model.snapshots[0].number, 1, &e), e);
    w->model.snapshots[0].dropped = true;
    assert_int_equal(snapshot_count(r), 1);
    disk.full = false;
    OK(save(r, &w->model, "app", &more, &e), e);
    OK(repo_idle(r, &e), e);
    assert_int_equal(access(disk.reserve, F_OK), 0);
    repo_close(r);
    r = open_with_reserve(w);
    check_model(r, &w->model);
    check_refs(r);
    repo_close(r);
}

static void test_a_rebuild_at_the_last_byte(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);

    disk.full = true;
    OK(repo_rebuild(r, &e), e);
    check_model(r, &w->model);
    check_refs(r);
    repo_close(r);
}

/* The save that failed works now, and all that was acknowledged is whole, also for a rebuild. */
static void works_again(struct world *w, struct repo *r, const struct model_tree *tree)
{
    struct error e = ERROR_INIT;

    OK(save(r, &w->model, "app", tree, &e), e);
    check_model(r, &w->model);
    check_refs(r);
    OK(repo_rebuild(r, &e), e);
    check_model(r, &w->model);
    repo_close(r);
}

static off_t bytes_of_packs(const struct world *w)
{
    struct error e = ERROR_INIT;
    struct pack_row *rows;
    struct repo *r;
    size_t count;
    off_t sum = 0;

    OK(open_repo(w->path, REPO_READ, NULL, &r, &e), e);
    OK(repo_packs(r, &rows, &count, NULL, NULL, &e), e);
    for (size_t i = 0; i < count; i++)
        sum += (off_t)rows[i].bytes;
    free(rows);
    repo_close(r);
    return sum;
}

/* A save that the full disk stopped gives its blocks back, and what it had put there is not taken
 * for stored afterwards. */
static void test_a_save_that_does_not_fit(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree more = *last_tree(&w->model, "app");
    struct txn *t;
    uint64_t number;

    off_t before = bytes_of_packs(w);
    tree_set(&more, "too-big", 11, LARGE);
    OK(begin_save(r, "app", &t, &e), e);
    OK(put_changes(t, last_tree(&w->model, "app"), &more, &e), e);
    disk.full = true;
    assert_int_equal(end_save(t, NULL, &more, &number, &e), ERR_NOSPACE);
    disk.full = false;
    assert_true(bytes_of_packs(w) < before + 10000);
    check_model(r, &w->model);
    works_again(w, r, &more);
}

/* While another save is open nothing is cut: its blocks stand there too. */
static void test_not_beneath_another_save(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree a = *last_tree(&w->model, "app"), b = {.count = 0};
    struct txn *first, *second;
    uint64_t number;

    tree_set(&a, "a", 11, LARGE);
    tree_set(&b, "b", 13, LARGE);
    OK(begin_save(r, "other", &second, &e), e);
    OK(put_changes(second, &(struct model_tree){.count = 0}, &b, &e), e);
    OK(begin_save(r, "app", &first, &e), e);
    OK(put_changes(first, last_tree(&w->model, "app"), &a, &e), e);
    disk.full = true;
    assert_int_equal(end_save(first, NULL, &a, &number, &e), ERR_NOSPACE);
    disk.full = false;
    OK(end_save(second, NULL, &b, &number, &e), e);
    model_add(&w->model, "other", number, &b);
    check_model(r, &w->model);
    OK(repo_idle(r, &e), e);
    check_model(r, &w->model);
    repo_close(r);
    r = open_with_reserve(w);
    check_model(r, &w->model);
    check_refs(r);
    repo_close(r);
}

static void must_be_sound(const struct world *w)
{
    struct verify_result result;
    struct error e = ERROR_INIT;
    struct repo *r;

    OK(open_repo(w->path, REPO_READ, NULL, &r, &e), e);
    const struct verify_request q = {.repo = r, .level = VERIFY_FULL};
    OK(verify_run(&q, &result, &e), e);
    for (size_t i = 0; i < result.damaged_count; i++)
        print_error("%s: %s\n", result.damaged[i].pack, result.damaged[i].reason);
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
    repo_close(r);
}

static off_t size_of_packs(const struct world *w)
{
    char path[256], folder[160];
    struct dirent *entry;
    struct stat st;
    off_t sum = 0;

    snprintf(folder, sizeof(folder), "%s/packs", w->path);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%.64s", folder, entry->d_name);
        sum += stat(path, &st) == 0 && S_ISREG(st.st_mode) ? st.st_size : 0;
    }
    closedir(dir);
    return sum;
}

/* A write breaks a pack of which a part was flushed. What nothing needs of it is cut, before its
 * fence is written or afterwards: the fence then speaks of bytes that nobody misses. */
static void break_a_pack(struct world *w, bool fenced_before)
{
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree was = *last_tree(&w->model, "app"), more = was;
    struct txn *t, *open = NULL;

    off_t before = size_of_packs(w);
    tree_set(&more, "flushed", 11, LARGE);
    OK(begin_save(r, "app", &t, &e), e);
    OK(put_changes(t, &was, &more, &e), e);
    pthread_mutex_lock(&r->write_lock);
    OK(repo_data_settle(r, &e), e);
    pthread_mutex_unlock(&r->write_lock);
    was = more;
    tree_set(&more, "refused", 13, LARGE);
    if (fenced_before)
        OK(begin_save(r, "other", &open, &e), e); /* nothing is cut while it is open */
    disk.full = true;
    assert_int_equal(put_changes(t, &was, &more, &e), ERR_NOSPACE);
    disk.full = false;
    txn_abort(t);
    assert_int_equal(size_of_packs(w) < before + 10000, !fenced_before);
    more = *last_tree(&w->model, "app");
    tree_set(&more, "small", 14, 4000);
    OK(save(r, &w->model, "app", &more, &e), e);
    if (fenced_before)
        txn_abort(open);
    OK(repo_idle(r, &e), e);
    assert_true(size_of_packs(w) < before + 10000);
    must_be_sound(w);
    OK(repo_rebuild(r, &e), e);
    must_be_sound(w);
    repo_close(r);
    r = open_with_reserve(w);
    must_be_sound(w);
    repo_close(r);
}

static void test_a_broken_pack_is_cut(void **state)
{
    break_a_pack(*state, false);
}

static void test_a_fenced_pack_is_cut(void **state)
{
    break_a_pack(*state, true);
}

/* One that reads packs without a lease, as a sample does, knows how long they were. */
static void test_nothing_is_cut_beneath_a_reader(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w), *reader;
    struct model_tree was = *last_tree(&w->model, "app"), more = was;
    uint64_t number;
    struct txn *t;

    off_t before = size_of_packs(w);
    tree_set(&more, "too-big", 11, LARGE);
    OK(begin_save(r, "app", &t, &e), e);
    OK(put_changes(t, &was, &more, &e), e);
    off_t put = size_of_packs(w);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    disk.full = true;
    assert_int_equal(end_save(t, NULL, &more, &number, &e), ERR_NOSPACE);
    disk.full = false;
    assert_true(put > before + LARGE / 2 && size_of_packs(w) >= put);
    repo_close(reader);
    OK(repo_idle(r, &e), e);
    assert_true(size_of_packs(w) < before + 10000);
    repo_close(r);
    must_be_sound(w);
}

/* Whatever flushes fail, one after the other: what was acknowledged stays, and the same handle
 * saves again as soon as the disk does. */
static void test_a_fence_that_cannot_be_flushed(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    unsigned failed = 0;

    for (uint64_t mask = 1; mask < 32; mask++) {
        struct model_tree more = *last_tree(&w->model, "app");
        syncs = 0;
        failing_syncs = mask;
        tree_set(&more, "more", 100 + 2 * mask, mask % 2 ? 4000 : LARGE);
        failed += save(r, &w->model, "app", &more, &e) < 0;
        failing_syncs = 0;
        tree_set(&more, "again", 101 + 2 * mask, 3000);
        OK(save(r, &w->model, "app", &more, &e), e);
        if (mask % 8 == 0)
            check_model(r, &w->model);
    }
    assert_true(failed > 10);
    check_refs(r);
    repo_close(r);
    r = open_with_reserve(w);
    check_model(r, &w->model);
    check_refs(r);
    repo_close(r);
}

/* ---- what is left to others ---- */

static uint64_t available(const struct world *w)
{
    struct statvfs fs;

    assert_int_equal(statvfs(w->path, &fs), 0);
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static uint64_t moved(struct repo *r, uint64_t min_free)
{
    const struct upkeep pressed = {.pressed = true};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    repo_min_free(r, min_free, 0);
    OK(repo_upkeep(r, &pressed, &done, &e), e);
    return done.bytes_moved;
}

/* Where the disk has less than min_free, what lives in a pack that is mostly dead is moved out of
 * it all the same, as that gives room: but not into the last quarter. */
static void test_upkeep_leaves_others_a_quarter(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r = open_with_reserve(w);
    const uint64_t doomed[] = {1, 2, 3};

    for (uint64_t i = 0; i < 4; i++) {
        tree_set(&tree, "film", 2 * i + 1, 3 * LARGE);
        tree_set(&tree, "same", 99, LARGE);
        OK(save(r, &w->model, "app", &tree, &e), e);
    }
    OK(repo_drop(r, doomed, 3, &e), e);
    for (size_t i = 0; i < 3; i++)
        w->model.snapshots[i].dropped = true;
    off_t before = bytes_of_packs(w);
    assert_int_equal(moved(r, available(w) * 5), 0);
    assert_true(bytes_of_packs(w) >= before);
    assert_true(moved(r, available(w) * 2) > 0);
    assert_true(bytes_of_packs(w) < before - (off_t)LARGE);
    /* A save is no such thing: it leaves all of min_free. */
    tree_set(&tree, "more", 7, LARGE);
    assert_int_equal(save(r, &w->model, "app", &tree, &e), ERR_NOSPACE);
    repo_min_free(r, 0, 0);
    OK(save(r, &w->model, "app", &tree, &e), e);
    check_model(r, &w->model);
    check_refs(r);
    repo_close(r);
}

/* The catalog is caught up, or made anew, while blocks stand in a data pack of which the handle
 * does not know yet that it cannot be flushed. What is fenced off then is not taken for stored. */
static void catalog_beside_a_pack_that_breaks(struct world *w, bool anew)
{
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree more = *last_tree(&w->model, "app"), other = {.count = 0};
    struct txn *t;
    uint64_t number;

    tree_set(&more, "large", 7, LARGE);
    OK(begin_save(r, "app", &t, &e), e);
    OK(put_changes(t, last_tree(&w->model, "app"), &more, &e), e);
    if (anew)
        OK(repo_rebuild(r, &e), e);
    disk.no_catalog = !anew; /* it is behind then */
    tree_set(&other, "small", 5, 3000);
    OK(save(r, &w->model, "other", &other, &e), e);
    disk.no_catalog = false;
    disk.loses_data = true;
    assert_true(end_save(t, NULL, &more, &number, &e) < 0);
    disk.loses_data = false;
    works_again(w, r, &more);
}

static void test_a_catalog_caught_up_meanwhile(void **state)
{
    catalog_beside_a_pack_that_breaks(*state, false);
}

static void test_a_catalog_made_anew_meanwhile(void **state)
{
    catalog_beside_a_pack_that_breaks(*state, true);
}

/* A save that fills a data pack; the catalog is made anew while that is flushed. 0, or how the
 * flush ended. */
static int fill_a_pack(struct world *w, struct repo *r, struct model_tree *more, struct txn **t)
{
    struct error e = ERROR_INIT;

    *more = *last_tree(&w->model, "app");
    tree_set(more, "a", 7, PACK_SEAL_LEN / 2);
    tree_set(more, "b", 9, PACK_SEAL_LEN / 2);
    OK(begin_save(r, "app", t, &e), e);
    disk.rebuilt = r;
    int rc = put_changes(*t, last_tree(&w->model, "app"), more, &e);
    disk.rebuilt = NULL;
    return rc;
}

/* The same of a pack that is full: others go on while it is flushed. */
static void test_a_catalog_made_anew_beside_a_full_pack(void **state)
{
    struct world *w = *state;
    struct repo *r = with_two_saves(w);
    struct model_tree more;
    struct txn *t;

    disk.loses_data = true;
    assert_true(fill_a_pack(w, r, &more, &t) < 0);
    disk.loses_data = false;
    txn_abort(t);
    works_again(w, r, &more);
}

/* And where that flush goes well, the save does too. */
static void test_a_full_pack_that_holds_meanwhile(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree more;
    struct txn *t;
    uint64_t number;

    assert_int_equal(fill_a_pack(w, r, &more, &t), 0);
    OK(end_save(t, NULL, &more, &number, &e), e);
    model_add(&w->model, "app", number, &more);
    tree_set(&more, "small", 11, 3000);
    works_again(w, r, &more);
}

/* Nobody goes on with a pack that is being sealed. */
static void test_a_save_beside_a_seal(void **state)
{
    const struct upkeep u = {.pressed = true};
    struct world *w = *state;
    struct upkeep_result done;
    struct error e = ERROR_INIT;
    struct repo *r = with_two_saves(w);
    struct model_tree more = *last_tree(&w->model, "app");

    disk.saved_to = r;
    disk.saving = w;
    OK(repo_upkeep(r, &u, &done, &e), e);
    assert_null(disk.saving);
    assert_true(done.packs_sealed > 0);
    check_model(r, &w->model);
    tree_set(&more, "small", 11, 3000);
    works_again(w, r, &more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_drop_at_the_last_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_rebuild_at_the_last_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_save_that_does_not_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_beneath_another_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broken_pack_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fenced_pack_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_cut_beneath_a_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fence_that_cannot_be_flushed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upkeep_leaves_others_a_quarter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_catalog_caught_up_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_catalog_made_anew_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_catalog_made_anew_beside_a_full_pack, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_full_pack_that_holds_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_save_beside_a_seal, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
