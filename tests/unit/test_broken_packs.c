/* What is left when a write or a flush fails, and when bytes are given back on a full disk: the
 * ends of packs, for this handle, the next one and a rebuild. */
#include "disk_fixture.h"

#include "base/banned.h"

/* ---- packs that break ---- */

/* What the packs that are being emptied are called outlives it that everything is read anew. */
static void test_read_anew_after_a_compaction(void **state)
{
    struct world *w = *state;

    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(try_save(w, "app", "film", 2 * i + 1, LARGE), 0);
    must_drop(w, (const uint64_t[]){1, 2}, 2);
    assert_true(keep_up(w, true, true, DAY).packs_emptied > 0);
    disk.failing_syncs = 0x5; /* the log's, not that of the next pack's header, the fence's */
    assert_true(try_save(w, "app", "small", 8, 3000) < 0);
    assert_true(w->repo->refuse);
    assert_int_equal(try_save(w, "app", "small", 8, 3000), 0);
    assert_false(w->repo->refuse);
    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    keep_up(w, true, true, 0);
    check_rebuild(w);
    reopen(w);
    check(w);
}

/* A fence that came with a small commit is known after a kill. */
static void test_killed_after_a_fence(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    disk.writes = 50;
    assert_true(try_save(w, "app", "film", 3, 3 * LARGE) < 0);
    assert_int_equal(disk.writes, 0);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    kill_it(w);
    check(w);
    assert_int_equal(try_save(w, "app", "film", 3, 3 * LARGE), 0);
    check_rebuild(w);
}

/* The end of the log cannot be flushed, nor the fence before it; the catalog is made anew, and the
 * process is killed. What the next one finds there is in its catalog, and in that of a rebuild. */
static void test_killed_before_a_fence(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    disk.failing_syncs = 0x3; /* of the commit, of the next pack's header */
    assert_true(try_save(w, "app", "small", 4, 3000) < 0);
    assert_false(w->repo->refuse);
    OK(repo_rebuild(w->repo, &e), e);
    kill_it(w);
    assert_int_equal(try_save(w, "app", "small", 6, 3000), 0);
    size_t known = snapshot_count(w->repo);
    check_rebuild(w);
    assert_int_equal(snapshot_count(w->repo), known);
}

/* What stands behind the end of a pack that broke is not there, also before the fence is. */
static void test_verify_ends_at_a_fence_to_come(void **state)
{
    struct world *w = *state;

    assert_int_equal(try_save(w, "app", "small", 2, 3000), 0);
    for (unsigned i = 0; i < 2; i++) {
        disk.failing_syncs = i == 0 ? 0x1 : 0x3;
        assert_true(try_save(w, "app", "small", 4 + i, 3000) < 0);
    }
    assert_false(w->repo->refuse);
    verify(w->repo);
    check_rebuild(w);
}

static bool log_is_full;

static ssize_t write_to_a_full_log(int fd, const void *p, size_t n, off_t off)
{
    if (!log_is_full || !leads_to(fd, "/0-log-"))
        return disk_pwrite(fd, p, n, off);
    errno = ENOSPC;
    return -1;
}

/* The first write to a new log pack fails, and everything is read anew while its fence waits: it is
 * not taken for one that nobody used yet, since the fence would end it before all that came. */
static void test_a_new_log_that_broke_is_not_used(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;

    assert_int_equal(try_save(w, "app", "small", 2, 3000), 0);
    pthread_mutex_lock(&w->repo->write_lock);
    OK(repo_log_seal(w->repo, NULL, &e), e);
    pthread_mutex_unlock(&w->repo->write_lock);
    table.pwrite = write_to_a_full_log;
    log_is_full = true;
    assert_int_equal(try_save(w, "app", "small", 4, 3000), ERR_NOSPACE);
    log_is_full = false;
    OK(repo_rebuild(w->repo, &e), e);
    assert_int_equal(try_save(w, "app", "small", 6, 3000), 0);
    check_rebuild(w);
    reopen(w);
    check(w);
}

/* The list of a save that never was ends a log, the next write to which fails; the catalog is made
 * anew before the fence is written, and the process is killed. The list's number stays used. */
static void test_the_number_of_a_list_before_a_fence(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *t;

    assert_int_equal(try_save(w, "app", "small", 2, 3000), 0);
    OK(begin_save(w->repo, "other", &t, &e), e);
    tree_set(&tree, "small", 3, 3000);
    OK(put_changes(t, &none, &tree, &e), e);
    pthread_mutex_lock(&w->repo->write_lock);
    OK(txn_spill_ops(t, &e), e);
    pthread_mutex_unlock(&w->repo->write_lock);
    txn_abort(t);
    reopen(w); /* which makes sure of it */
    table.pwrite = write_to_a_full_log;
    log_is_full = true;
    assert_int_equal(try_save(w, "app", "small", 4, 3000), ERR_NOSPACE);
    OK(repo_rebuild(w->repo, &e), e);
    kill_it(w);
    log_is_full = false;
    assert_int_equal(try_save(w, "app", "small", 6, 3000), 0);
    verify(w->repo);
    check_rebuild(w);
}

static void count_problem(void *ctx, uint64_t pack_id, const char *text)
{
    print_message("%" PRIu64 ": %s\n", pack_id, text);
    ++*(unsigned *)ctx;
}

static unsigned problems(struct repo *r)
{
    struct error e = ERROR_INIT;
    struct pack_row *rows;
    unsigned told = 0;
    size_t count;

    OK(repo_packs(r, &rows, &count, count_problem, &told, &e), e);
    free(rows);
    return told;
}

/* A pack that broke on a full disk is cut before its fence: it is as long as it has to be. */
static void test_a_pack_is_cut_before_its_fence(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *first, *second;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    OK(begin_save(w->repo, "first", &first, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    OK(put_changes(first, &none, &tree, &e), e);
    OK(begin_save(w->repo, "second", &second, &e), e);
    tree_set(&tree, "film", 5, LARGE);
    OK(put_changes(second, &none, &tree, &e), e);
    txn_abort(second); /* what it put is flushed, and all before it */
    disk.full = true;
    disk.writes = 3;
    tree_set(&tree, "film", 7, LARGE);
    assert_int_equal(put_changes(first, &none, &tree, &e), ERR_NOSPACE);
    txn_abort(first);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    assert_int_equal(problems(w->repo), 0);
    kill_it(w);
    assert_int_equal(problems(w->repo), 0);
    check_rebuild(w);
    assert_int_equal(problems(w->repo), 0);
    assert_int_equal(try_save(w, "first", "film", 3, LARGE), 0);
    check_rebuild(w);
}

/* Nothing of one is cut, and no commit has told the catalog of its fence: it ends there all the
 * same. */
static void test_a_fence_outlives_what_is_given_back(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct error e = ERROR_INIT;
    uint64_t number;
    struct txn *t;

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    OK(begin_save(w->repo, "other", &t, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    disk.full = true;
    disk.writes = 1;
    assert_int_equal(put_changes(t, &none, &tree, &e), ERR_NOSPACE);
    assert_int_equal(end_save(t, NULL, &tree, &number, &e), ERR_NOSPACE);
    assert_int_equal(try_save(w, "other", "small", 8, 3000), 0);
    kill_it(w);
    assert_int_equal(try_save(w, "other", "film", 3, LARGE), 0);
    check_rebuild(w);
}

/* ---- bytes that are given back ---- */

/* A commit names all of a pack that is flushed, also what a save beside it was given up with. That
 * stays when the commit is told by a checkpoint alone: else the pack would seem cut off. */
static void test_what_a_folded_commit_names_stays(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree kept = {.count = 0}, other = {.count = 0};
    struct error e = ERROR_INIT;
    struct txn *first, *second;
    uint64_t number;

    tree_set(&kept, "film", 1, LARGE);
    tree_set(&other, "film", 3, LARGE);
    OK(begin_save(w->repo, "app", &first, &e), e);
    OK(put_changes(first, &none, &kept, &e), e);
    OK(begin_save(w->repo, "other", &second, &e), e);
    OK(put_changes(second, &none, &other, &e), e);
    txn_abort(second);
    OK(end_save(first, NULL, &kept, &number, &e), e);
    model_add(&w->model, "app", number, &kept);
    save_links(w);
    assert_true(keep_up(w, false, true, 0).packs_removed > 0);
    be_short(w);
    verify(w->repo);
    check_rebuild(w);
    verify(w->repo);
}

/* Snapshots 1 and 2 are large, and nothing but them needs the end of the data pack. */
static void make_what_may_be_cut(struct world *w)
{
    const struct model_tree none = {.count = 0};

    assert_int_equal(try_save(w, "app", "film", 1, LARGE), 0);
    assert_int_equal(try_save(w, "other", "film", 3, LARGE), 0);
    save_links(w);
    must_save(w, "other", &none);
    assert_true(keep_up(w, false, true, 0).packs_removed > 0);
}

/* What was read where bytes were given back is not what is written there next. */
static void test_written_again_where_it_was_cut(void **state)
{
    const struct model_tree none = {.count = 0};
    struct world *w = *state;

    make_what_may_be_cut(w);
    must_drop(w, (const uint64_t[]){2}, 1); /* its list of chunks is read */
    be_short(w);
    catch_up(w);
    assert_non_null(w->repo->data);
    assert_int_equal(try_save(w, "other", "film", 7, LARGE), 0);
    uint64_t number = w->model.snapshots[w->model.count - 1].number;
    must_save(w, "other", &none);
    must_drop(w, &number, 1);
    check_rebuild(w);
}

/* Where the newest data pack ends; what stands shortly before that is spoilt when it is asked. */
static off_t end_of_data(struct world *w, bool spoil)
{
    char path[256];
    struct stat st;
    uint8_t byte;

    for (uint64_t id = w->repo->next_pack; id > 0; id--) {
        snprintf(path, sizeof(path), "%s/packs/1-data-%016" PRIx64 ".wkp", w->path, id);
        if (stat(path, &st) == 0)
            break;
    }
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, st.st_size - 1000), 1);
    byte ^= 1;
    if (spoil)
        assert_int_equal(pwrite(fd, &byte, 1, st.st_size - 1000), 1);
    close(fd);
    return st.st_size;
}

/* A repository that is opened while the disk is full and somebody reads: as soon as nobody does any
 * more the bytes are given back, before a save has to fail for them. */
static void test_given_back_when_the_reader_has_gone(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *reader;

    make_what_may_be_cut(w);
    off_t before = end_of_data(w, false);
    must_drop(w, (const uint64_t[]){2}, 1);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    disk.short_of_space = true;
    reopen(w);
    OK(repo_idle(w->repo, &e), e);
    assert_int_equal(end_of_data(w, false), before);
    repo_close(reader);
    OK(repo_idle(w->repo, &e), e);
    assert_true(end_of_data(w, false) < before);
    disk.short_of_space = false;
    check_rebuild(w);
}

/* The catalog cannot be told of it, as the disk is full: to a reader the pack is no damage, since
 * nothing that anybody needs is gone. */
static void test_a_cut_that_the_catalog_does_not_know(void **state)
{
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct repo *reader;

    make_what_may_be_cut(w);
    off_t before = end_of_data(w, false);
    must_drop(w, (const uint64_t[]){2}, 1);
    disk.catalog = ENOSPC;
    be_short(w);
    assert_true(end_of_data(w, false) < before);
    OK(open_repo(w->path, REPO_READ, NULL, &reader, &e), e);
    verify(reader);
    repo_close(reader);
    disk.catalog = 0;
    check_rebuild(w);
}

static uint64_t damage_in_news(struct world *w)
{
    const struct verify_part part = {.repo = w->repo, .record_in = w->repo};
    struct verify_result result;
    struct error e = ERROR_INIT;
    bool all;

    OK(verify_new(&part, UINT64_MAX, &result, &all, &e), e);
    uint64_t errors = result.errors;
    verify_result_release(&result);
    return errors;
}

/* Bytes were verified, and given back: what is written there later is new. */
static void test_what_comes_after_a_cut_is_verified(void **state)
{
    struct world *w = *state;

    make_what_may_be_cut(w);
    assert_int_equal(damage_in_news(w), 0);
    off_t verified = end_of_data(w, false);
    must_drop(w, (const uint64_t[]){2}, 1);
    be_short(w);
    assert_true(end_of_data(w, false) < verified);
    reopen(w);
    assert_int_equal(try_save(w, "other", "film", 7, LARGE), 0);
    end_of_data(w, true);
    assert_true(damage_in_news(w) > 0);
}

/* A save took what another snapshot needed for stored, and is acknowledged when that one is gone;
 * the catalog, being full, did not learn of it. What it says is no ground to cut anything. */
static void test_nothing_is_given_back_by_a_stale_catalog(void **state)
{
    const struct upkeep u = {.keep_s = DAY};
    const struct model_tree none = {.count = 0};
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct error e = ERROR_INIT;
    struct txn *t;
    uint64_t number;

    make_what_may_be_cut(w);
    OK(begin_save(w->repo, "late", &t, &e), e);
    tree_set(&tree, "film", 3, LARGE);
    OK(put_changes(t, &none, &tree, &e), e);
    must_drop(w, (const uint64_t[]){2}, 1);
    disk.catalog = ENOSPC;
    OK(end_save(t, NULL, &tree, &number, &e), e);
    model_add(&w->model, "late", number, &tree);
    assert_int_equal(repo_upkeep(w->repo, &u, &done, &e), ERR_NOSPACE);
    disk.catalog = 0;
    OK(repo_idle(w->repo, &e), e);
    check_rebuild(w);
}

static unsigned log_syncs;

/* The catalog takes writes again once the commit was flushed, and read again to be caught up. */
static int sync_and_mend(int fd)
{
    if (leads_to(fd, "/0-log-") && ++log_syncs > 2)
        disk.catalog = 0;
    return disk_sync(fd);
}

/* A log that is too full ends behind a commit of which the catalog, being full, did not learn: its
 * position does not move past that one. */
static void test_a_log_ends_behind_an_unknown_commit(void **state)
{
    struct world *w = *state;

    w->repo->pack_full = 1;
    log_syncs = 0;
    table.fdatasync = sync_and_mend;
    disk.catalog = ENOSPC;
    assert_int_equal(try_save(w, "app", "small", 4, 3000), 0);
    assert_true(log_syncs >= 2);
    disk.catalog = 0;
    assert_int_equal(try_save(w, "other", "small", 6, 3000), 0);
    check_rebuild(w);
}

/* The power goes behind the record of a compaction, and takes the catalog's news of it; the disk is
 * full when the repository is opened next. What was moved is kept: the record says that it counts.
 */
static void test_what_was_moved_is_not_given_back(void **state)
{
    struct world *w = *state;
    struct model_tree tree = {.count = 0};
    char before[128], a[160], b[160];

    tree_set(&tree, "stays", 3, 8 * CHUNK);
    tree_set(&tree, "goes", 5, 2 * LARGE);
    must_save(w, "app", &tree);
    tree.count = 1;
    must_save(w, "app", &tree);
    must_drop(w, (const uint64_t[]){1}, 1);
    reopen(w); /* the catalog is in its file */
    snprintf(before, sizeof(before), "%s/before", w->scratch->path);
    copy_repo(w->path, before);
    assert_int_equal(keep_up(w, true, false, DAY).packs_emptied, 1);
    repo_close(w->repo);
    w->repo = NULL;
    snprintf(a, sizeof(a), "%s/catalog.db", before);
    snprintf(b, sizeof(b), "%s/catalog.db", w->path);
    assert_int_equal(rename(a, b), 0);
    disk.short_of_space = true;
    reopen(w);
    disk.short_of_space = false;
    check(w);
    assert_int_equal(try_save(w, "other", "film", 7, 2 * LARGE), 0);
    check_rebuild(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_anew_after_a_compaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_after_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_before_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify_ends_at_a_fence_to_come, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_new_log_that_broke_is_not_used, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_number_of_a_list_before_a_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_pack_is_cut_before_its_fence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fence_outlives_what_is_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_a_folded_commit_names_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_written_again_where_it_was_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given_back_when_the_reader_has_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_cut_that_the_catalog_does_not_know, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_comes_after_a_cut_is_verified, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_given_back_by_a_stale_catalog, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_log_ends_behind_an_unknown_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_moved_is_not_given_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
