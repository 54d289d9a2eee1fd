/* What a power cut leaves of one write, page by page. */
#include "fault_fixture.h"
#include "snapshot/verify.h"
#include "store/repo_private.h"
#include "world_fixture.h"

#include <sys/statvfs.h>

#include "base/banned.h"

enum { PAGE = 4096, LOG = 1 };

static void log_path(const struct world *w, char path[200])
{
    snprintf(path, 200, "%s/packs/0-log-%016x.wkp", w->path, LOG);
}

static off_t log_len(const struct world *w)
{
    char path[200];
    struct stat st;

    log_path(w, path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void note(struct world *w, size_t text_len)
{
    struct error e = ERROR_INIT;
    char text[2 * PAGE + 1];
    uint64_t number = 1;
    const struct mark m = {
        .type = MARK_NOTE, .count = 1, .snapshots = &number, .text = text, .time = {.s = 1}};

    memset(text, 'n', text_len);
    text[text_len] = '\0';
    OK(repo_mark(w->repo, &m, &e), e);
}

/* So that the next write begins so many bytes before the end of a page. */
static void fill_log_up_to(struct world *w, off_t before)
{
    const off_t from = log_len(w);

    note(w, 8);
    off_t least = log_len(w) - from;
    off_t missing = (3 * PAGE - before - (log_len(w) + least) % PAGE) % PAGE;
    note(w, 8 + (size_t)missing);
    assert_int_equal(log_len(w) % PAGE, (PAGE - before) % PAGE);
}

static void verify_all(struct world *w)
{
    const struct verify_request q = {.repo = w->repo, .level = VERIFY_FULL, .workers = 1};
    struct verify_result result;
    struct error e = ERROR_INIT;

    OK(verify_run(&q, &result, &e), e);
    assert_int_equal(result.errors, 0);
    verify_result_release(&result);
}

/* The catalog is lost too, so that all of it is read. */
static void check_left(struct world *w)
{
    struct error e = ERROR_INIT;
    char path[200];

    snprintf(path, sizeof(path), "%s/catalog.db", w->path);
    assert_int_equal(unlink(path), 0);
    OK(open_repo(w->path, REPO_WRITE, &w->notices, &w->repo, &e), e);
    check_model(w->repo, &w->model);
    verify_all(w);
    check_rebuilt_after_fault(w->repo, w->path);
    verify_all(w);
}

/* Those bytes of the log never came to the disk. */
static void lose(struct world *w, off_t from, off_t len)
{
    static const uint8_t zeros[PAGE];
    char path[200];

    log_path(w, path);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, zeros, (size_t)len, from), len);
    close(fd);
}

/* A save whose log lost them before anybody was told of it. */
static void save_torn(struct world *w, const struct model_tree *tree, off_t from, off_t len)
{
    size_t acknowledged = w->model.count;

    must_save(w, "app", tree);
    w->model.count = acknowledged;
    repo_close(w->repo);
    w->repo = NULL;
    lose(w, from, len);
}

/* One page of a small save was not written, that in which it begins; its commit was. */
static void tear_at(struct world *w, off_t before)
{
    struct model_tree tree = {.count = 0};

    world_reopen(w, REPO_WRITE);
    tree_set(&tree, "a", 1, 20001);
    must_save(w, "app", &tree);
    fill_log_up_to(w, before);
    off_t from = log_len(w);
    size_t acknowledged = w->model.count;
    tree_set(&tree, "b", 3, 20003);
    save_torn(w, &tree, from, before);
    check_left(w);
    assert_int_equal(check_all_listed(w->repo), acknowledged);
    must_save(w, "app", &tree);
    check_model(w->repo, &w->model);
}

#define TORN(name, before)         \
    static void name(void **state) \
    {                              \
        tear_at(*state, before);   \
    }

TORN(test_without_its_first_page, PAGE)
TORN(test_without_some_of_its_first_page, 1104)
TORN(test_without_what_is_in_one_sector, 504)
TORN(test_without_a_header, 40)
TORN(test_without_eight_bytes, 8)

static ssize_t write_no_first_record(int fd, const void *p, size_t n, off_t off)
{
    if (off != PACK_HEADER_LEN)
        return fileops_system.pwrite(fd, p, n, off);
    errno = ENOSPC;
    return -1;
}

/* Who cut it off is killed before the fence that says so is written. */
static void test_killed_before_it_is_fenced_off(void **state)
{
    struct fileops table = fileops_system;
    struct model_tree tree = {.count = 0};
    struct world *w = *state;
    char path[200], left[100];

    world_reopen(w, REPO_WRITE);
    tree_set(&tree, "a", 1, 20001);
    must_save(w, "app", &tree);
    fill_log_up_to(w, PAGE);
    off_t from = log_len(w);
    size_t acknowledged = w->model.count;
    tree_set(&tree, "b", 3, 5003); /* a block that is whole */
    tree_set(&tree, "c", 5, 20003);
    save_torn(w, &tree, from + 2 * PAGE, PAGE);
    snprintf(path, sizeof(path), "%s/catalog.db", w->path);
    assert_int_equal(unlink(path), 0);
    table.pwrite = write_no_first_record;
    fileops = &table;
    world_reopen(w, REPO_WRITE);
    snprintf(left, sizeof(left), "%s/left", w->scratch->path);
    copy_repo(w->path, left);
    fileops = &fileops_system;
    repo_close(w->repo);
    w->repo = NULL;
    memcpy(w->path, left, sizeof(left));
    world_reopen(w, REPO_WRITE);
    must_save(w, "app", &tree);
    repo_close(w->repo);
    w->repo = NULL;
    check_left(w);
    assert_int_equal(check_all_listed(w->repo), acknowledged + 1);
}

/* A list of a save that is open is flushed with the next record, whose page comes to the disk when
 * its own does not. */
static void test_a_list_that_a_mark_was_to_flush(void **state)
{
    const struct node root = {.type = NODE_FOLDER, .mode = 0755};
    struct model_tree tree = {.count = 0};
    const off_t list = 88;
    struct world *w = *state;
    struct error e = ERROR_INIT;
    struct txn *t;
    char left[100];

    world_reopen(w, REPO_WRITE);
    tree_set(&tree, "a", 1, 20001);
    must_save(w, "app", &tree);
    fill_log_up_to(w, list);
    const off_t from = log_len(w);
    OK(begin_save(w->repo, "long", &t, &e), e);
    OK(txn_node_put(t, NODE_ROOT, &root, &e), e);
    pthread_mutex_lock(&w->repo->write_lock);
    OK(txn_spill_ops(t, &e), e);
    pthread_mutex_unlock(&w->repo->write_lock);
    assert_int_equal(log_len(w), from + list);
    note(w, 8);
    snprintf(left, sizeof(left), "%s/left", w->scratch->path);
    copy_repo(w->path, left);
    txn_abort(t);
    repo_close(w->repo);
    w->repo = NULL;
    memcpy(w->path, left, sizeof(left));
    lose(w, from, list);
    check_left(w);
}

static bool has_log(const struct world *w, unsigned id)
{
    char path[200];

    snprintf(path, sizeof(path), "%s/packs/0-log-%016x.wkp", w->path, id);
    return access(path, F_OK) == 0;
}

/* So that upkeep moves no more than that at a time. */
static void leave_room_for(struct world *w, uint64_t bytes)
{
    struct statvfs fs;

    assert_int_equal(statvfs(w->path, &fs), 0);
    w->repo->pack_full = bytes;
    repo_min_free(w->repo, 2 * (uint64_t)fs.f_bavail * fs.f_frsize, 0);
}

/* The pack whose fence says so has gone; a checkpoint says it since. */
static void test_a_torn_tail_told_by_a_checkpoint(void **state)
{
    static const uint8_t zeros[88];
    const struct upkeep all = {.all = true, .pressed = true};
    struct model_tree tree = {.count = 0};
    struct upkeep_result done;
    struct world *w = *state;
    struct error e = ERROR_INIT;
    char path[200];

    world_reopen(w, REPO_WRITE);
    tree_set(&tree, "a", 1, 20001);
    must_save(w, "app", &tree);
    repo_close(w->repo);
    w->repo = NULL;
    log_path(w, path);
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
    close(fd);
    world_reopen(w, REPO_WRITE);
    assert_true(has_log(w, LOG + 1));
    note(w, 8);
    leave_room_for(w, 4096); /* what stands in the first pack is more */
    OK(repo_upkeep(w->repo, &all, &done, &e), e);
    assert_true(has_log(w, LOG) && !has_log(w, LOG + 1));
    repo_close(w->repo);
    w->repo = NULL;
    w->notices = (struct notices){0};
    check_left(w);
    assert_null(strstr(w->notices.all, "damaged"));
}

/* A new pack whose header did not come to the disk is none, and no damage. */
static void test_a_blank_data_pack(void **state)
{
    static const uint8_t zeros[128];
    struct world *w = *state;
    char path[200];

    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/packs/1-data-%016x.wkp", w->path, 7 + i);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(write(fd, zeros, i ? sizeof(zeros) : 0), i ? sizeof(zeros) : 0);
        close(fd);
    }
    for (int i = 0; i < 2; i++) {
        world_reopen(w, REPO_WRITE);
        assert_string_equal(w->notices.all, "");
        verify_all(w);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_make, world_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_without_its_first_page),
        T(test_without_some_of_its_first_page),
        T(test_without_what_is_in_one_sector),
        T(test_without_a_header),
        T(test_without_eight_bytes),
        T(test_killed_before_it_is_fenced_off),
        T(test_a_list_that_a_mark_was_to_flush),
        T(test_a_torn_tail_told_by_a_checkpoint),
        T(test_a_blank_data_pack),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
