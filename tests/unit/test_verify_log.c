/* Verify and the order of the log: packs that a checkpoint stands for are not missed, others are.
 */
#include "world_fixture.h"

#include "io/fileops.h"
#include "snapshot/verify.h"
#include "store/catalog_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>

#include "base/banned.h"

#define DAY 86400u
enum { NOISE = 900 * 1024 }; /* a save of that is small, and makes most of the log */

static void keep_up(struct world *w, uint64_t keep_s, size_t emptied)
{
    const struct upkeep u = {.keep_s = keep_s};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    assert_true(done.checkpoint_bytes > 0);
    assert_int_equal(done.packs_emptied, emptied);
}

static void save_noise(struct world *w, struct model_tree *tree, uint64_t *seed, unsigned times)
{
    while (times-- > 0) {
        tree_set(tree, "noise", *seed += 2, NOISE);
        must_save(w, "app", tree);
    }
}

static uint64_t errors_of(struct repo *r, enum verify_level level)
{
    const struct verify_request q = {.repo = r, .level = level};
    struct verify_result result;
    struct error e = ERROR_INIT;

    OK(verify_run(&q, &result, &e), e);
    uint64_t errors = result.errors;
    for (size_t i = 0; i < result.damaged_count; i++)
        print_message("%s: %s\n", result.damaged[i].pack ? result.damaged[i].pack : "-",
                      result.damaged[i].reason);
    verify_result_release(&result);
    return errors;
}

/* By the writer, by a reader with its catalog, and by one that has nothing but the packs. */
static void expect_clean(struct world *w)
{
    const struct repo_options distrust = {.distrust = true};
    struct error e = ERROR_INIT;
    struct repo *reader;

    assert_int_equal(errors_of(w->repo, VERIFY_QUICK), 0);
    assert_int_equal(errors_of(w->repo, VERIFY_FULL), 0);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    assert_int_equal(errors_of(reader, VERIFY_FULL), 0);
    repo_close(reader);
    OK(repo_open(w->path, REPO_READ, &distrust, &reader, &e), e);
    assert_int_equal(errors_of(reader, VERIFY_FULL), 0);
    repo_close(reader);
}

/* Most of the first pack of the log is needed and stays; the one behind it is not, and goes. */
static void empty_the_second(struct world *w, struct model_tree *tree, uint64_t keep_s)
{
    const uint64_t doomed[] = {5, 6, 7};
    uint64_t seed = 101;

    save_noise(w, tree, &seed, 4);
    keep_up(w, 0, 0);
    save_noise(w, tree, &seed, 3);
    tree_remove(tree, "noise");
    tree_set(tree, "small", 3, 500);
    must_save(w, "app", tree);
    must_drop(w, doomed, 3);
    keep_up(w, keep_s, 2); /* and the one that held no more than the first checkpoint */
}

static void a_pack_between_others_goes(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};

    empty_the_second(w, &tree, DAY);
    expect_clean(w);
    tree_set(&tree, "small", 5, 500);
    must_save(w, "app", &tree);
    expect_clean(w);
}

static void a_pack_between_others_is_removed(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};

    empty_the_second(w, &tree, 0);
    tree_set(&tree, "small", 5, 500);
    must_save(w, "app", &tree);
    expect_clean(w);
}

/* By the catalog as it came about, and by one that is made anew. */
static void expect_clean_twice(struct world *w)
{
    struct error e = ERROR_INIT;

    expect_clean(w);
    OK(repo_rebuild(w->repo, &e), e);
    expect_clean(w);
    check_model(w->repo, &w->model);
}

/* A file dies and another one lives on, in the packs of the first save. */
static void one_dies_one_lives(struct world *w, struct model_tree *tree)
{
    tree_set(tree, "dies", 1, 50000);
    tree_set(tree, "lives", 3, 50000);
    must_save(w, "app", tree);
    tree_remove(tree, "dies");
    must_save(w, "app", tree);
}

/* What was moved is moved once more before another checkpoint is written: the first compaction
 * finds its needs gone. */
static void what_was_moved_is_moved_again(void **state)
{
    const struct upkeep u = {.all = true, .pressed = true};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    one_dies_one_lives(w, &tree);
    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    assert_true(done.checkpoint_bytes > 0);
    assert_int_equal(done.packs_removed, 1); /* the log so far */
    must_drop(w, &w->model.snapshots[0].number, 1);
    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    assert_int_equal(done.checkpoint_bytes, 0);
    assert_int_equal(done.packs_removed, 1);
    expect_clean_twice(w);
}

/* The same, and the checkpoint between the two names the packs that were emptied first. */
static void what_was_moved_is_moved_after_a_checkpoint(void **state)
{
    struct upkeep u = {.all = true, .pressed = true, .keep_s = DAY};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    one_dies_one_lives(w, &tree);
    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    assert_int_equal(done.packs_emptied, 1);
    assert_int_equal(done.packs_removed, 0);
    must_drop(w, &w->model.snapshots[0].number, 1);
    tree_set(&tree, "more", 5, 9000);
    must_save(w, "app", &tree);
    u.keep_s = 0;
    OK(repo_upkeep(w->repo, &u, &done, &e), e);
    assert_true(done.checkpoint_bytes > 0);
    assert_true(done.packs_removed > 2);
    expect_clean_twice(w);
}

/* ---- one that nothing stands for ---- */

static atomic_bool cancelled;

static int cancel_at_new_log(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) && strncmp(name, "0-log-", 6) == 0)
        atomic_store(&cancelled, true);
    return fileops_system.openat(dirfd, name, flags, mode);
}

/* The log pack is sealed, and the checkpoint that this was for does not come. */
static void end_log_pack(struct world *w)
{
    const struct upkeep u = {.all = true, .cancel = &cancelled};
    struct fileops ops = fileops_system;
    struct upkeep_result done;
    struct error e = ERROR_INIT;

    ops.openat = cancel_at_new_log;
    atomic_store(&cancelled, false);
    fileops = &ops;
    assert_int_equal(repo_upkeep(w->repo, &u, &done, &e), ERR_CANCELLED);
    fileops = &fileops_system;
}

static uint64_t log_pack(struct world *w)
{
    struct catalog_position p;
    struct error e = ERROR_INIT;

    OK(catalog_position(repo_catalog(w->repo), &p, &e), e);
    return p.log_pack;
}

static void a_pack_behind_the_checkpoint_is_missed(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0}, other = {.count = 0};
    char name[40], path[256];

    empty_the_second(w, &tree, 0);
    tree_set(&tree, "small", 7, 20000);
    must_save(w, "app", &tree);
    end_log_pack(w);
    tree_set(&other, "of another watch", 1, 20000);
    must_save(w, "other", &other);
    uint64_t ended = log_pack(w);
    end_log_pack(w);
    tree_set(&tree, "small", 5, 500);
    must_save(w, "app", &tree);
    assert_int_not_equal(log_pack(w), ended);
    expect_clean(w);

    pack_file_name(PACK_LOG, ended, name);
    snprintf(path, sizeof(path), "%s/packs/%s", w->path, name);
    repo_close(w->repo);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof(path), "%s/catalog.db", w->path);
    assert_int_equal(unlink(path), 0);
    w->repo = NULL;
    world_reopen(w, REPO_WRITE);
    assert_int_equal(errors_of(w->repo, VERIFY_QUICK), 1);
}

/* ---- a seal behind fences ---- */

static ssize_t pwrite_fails(int fd, const void *p, size_t n, off_t off)
{
    errno = EIO;
    return -1;
}

/* A data pack breaks under a save that is given up: its fence waits for the next write to the log,
 * which is the seal. */
static void a_seal_counts_the_fences_before_it(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0}, more;
    struct fileops ops = fileops_system;
    struct error e = ERROR_INIT;
    struct txn *t;

    tree_set(&tree, "film", 1, 3 * 1024 * 1024);
    must_save(w, "app", &tree);
    tree_set(&tree, "small", 3, 20000);
    must_save(w, "app", &tree);
    more = tree;
    tree_set(&more, "film", 5, 3 * 1024 * 1024);
    OK(begin_save(w->repo, "app", &t, &e), e);
    ops.pwrite = pwrite_fails;
    fileops = &ops;
    assert_true(put_changes(t, &tree, &more, &e) < 0);
    fileops = &fileops_system;
    txn_abort(t);
    end_log_pack(w);
    tree_set(&tree, "small", 5, 500);
    must_save(w, "app", &tree);
    expect_clean(w);
}

/* ---- file lists ---- */

/* Saves of other watches come between the lists of a large one. */
static void lists_with_others_between_them(void **state)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct commit c = {.kind = SNAPSHOT_CHANGE};
    struct model_tree other = {.count = 0};
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct txn *t;

    OK(begin_save(w->repo, "links", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    for (unsigned i = 0; i < 4; i++) {
        put_links(t, 20000 * i, 20000);
        tree_set(&other, "small", 2 * i + 1, 500);
        must_save(w, "other", &other);
    }
    OK(txn_commit(t, &c, &e), e);
    assert_true(c.list_count > 2);
    expect_clean(w);
}

static int find_list(void *ctx, uint64_t from, uint64_t to, const struct record_header *h,
                     const uint8_t *body)
{
    if (h && h->type == RECORD_FILE_LIST)
        *(uint64_t *)ctx = from;
    return 0;
}

/* The last file list of the log pack that is written. */
static void damage_a_list(struct world *w)
{
    uint64_t at = 0, id = log_pack(w);
    char name[40], path[256];
    struct error e = ERROR_INIT;
    struct pack *p;
    uint8_t byte;

    snprintf(path, sizeof(path), "%s/packs", w->path);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    OK(pack_open(folder, PACK_LOG, id, repo_id(w->repo), false, &p, &e), e);
    OK(pack_walk(p, 0, UINT64_MAX, find_list, &at, NULL, &e), e);
    pack_close(p);
    assert_true(at > 0);
    pack_file_name(PACK_LOG, id, name);
    int fd = openat(folder, name, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at + 100), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at + 100), 1);
    close(fd);
    close(folder);
}

/* A checkpoint stands for the lists before it, and for none behind it. */
static void a_list_behind_the_checkpoint_is_missed(void **state)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct commit c = {.kind = SNAPSHOT_CHANGE};
    struct model_tree tree = {.count = 0};
    struct world *w = *state;
    struct verify_result result;
    struct error e = ERROR_INIT;
    bool named = false;
    struct txn *t;

    empty_the_second(w, &tree, 0);
    OK(begin_save(w->repo, "links", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    put_links(t, 0, 2000);
    OK(txn_commit(t, &c, &e), e);
    assert_int_equal(c.list_count, 1);
    expect_clean(w);
    damage_a_list(w);
    const struct verify_request q = {.repo = w->repo, .level = VERIFY_FULL};
    OK(verify_run(&q, &result, &e), e);
    assert_true(result.errors > 0);
    for (size_t i = 0; i < result.damaged_count; i++)
        for (size_t n = 0; n < result.damaged[i].snapshot_count; n++)
            named |= result.damaged[i].snapshots[n] == c.number;
    assert_true(named);
    verify_result_release(&result);
}

/* The list of a save that was given up is in the log, and its sequence number used, however often
 * the repository is opened before anything else is written. */
static void a_list_without_a_commit_uses_its_number(void **state)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct model_tree tree = {.count = 0};
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct txn *t;

    OK(begin_save(w->repo, "links", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    put_links(t, 0, 20000);
    txn_abort(t);
    for (unsigned i = 0; i < 3; i++)
        world_reopen(w, REPO_WRITE);
    tree_set(&tree, "small", 1, 500);
    must_save(w, "other", &tree);
    expect_clean(w);
    check_model(w->repo, &w->model);
}

/* ---- beside a writer ---- */

static _Atomic(struct world *) saves_meanwhile; /* several threads read */

/* At the first look into the catalog a save makes a data pack. */
static int gate_saves(int op, const char *path)
{
    struct model_tree tree = {.count = 0};
    struct world *w = op == FILEOP_READ ? atomic_exchange(&saves_meanwhile, NULL) : NULL;

    if (w) {
        tree_set(&tree, "film", 3, 3 * 1024 * 1024);
        must_save(w, "large", &tree);
    }
    return 0;
}

static void count_problem(void *ctx, uint64_t pack_id, const char *text)
{
    print_message("pack %" PRIu64 ": %s\n", pack_id, text);
    ++*(unsigned *)ctx;
}

static void a_pack_that_comes_meanwhile_is_not_missed(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct fileops ops = fileops_system;
    struct error e = ERROR_INIT;
    struct repo *reader;
    struct pack_row *rows;
    unsigned problems = 0;
    size_t count;

    tree_set(&tree, "small", 1, 500);
    must_save(w, "app", &tree);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    ops.gate = gate_saves;
    saves_meanwhile = w;
    fileops = &ops;
    OK(repo_packs(reader, &rows, &count, count_problem, &problems, &e), e);
    fileops = &fileops_system;
    assert_null(saves_meanwhile);
    assert_int_equal(problems, 0);
    free(rows);
    repo_close(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, world_open, world_end)
        T(a_pack_between_others_goes),
        T(a_pack_between_others_is_removed),
        T(what_was_moved_is_moved_again),
        T(what_was_moved_is_moved_after_a_checkpoint),
        T(a_pack_behind_the_checkpoint_is_missed),
        T(a_seal_counts_the_fences_before_it),
        T(lists_with_others_between_them),
        T(a_list_behind_the_checkpoint_is_missed),
        T(a_list_without_a_commit_uses_its_number),
        T(a_pack_that_comes_meanwhile_is_not_missed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
