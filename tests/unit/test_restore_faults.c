/* Restore with a fault at every place in turn: a file under its final name is whole, the old one or
 * the new one; what is called restored is; and a second try brings everything. */
#include "fault_fixture.h"

#include "base/log.h"
#include "snapshot/restore.h"

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

static const char old_content[] = "what stood there before";

static int setup(void **state)
{
    struct model_tree a = {.count = 0};
    struct error e = ERROR_INIT;
    struct fault_base *b;
    struct repo *r;

    if (fault_base_begin(state, &b, &r) != 0)
        return -1;
    tree_set(&a, "a", 3, 5000);
    tree_set(&a, "b", 4, 70000);
    tree_set(&a, "large", 5, LARGE);
    tree_set(&a, "empty", 7, 0);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&a, "b", 6, 300);
    OK(save(r, &b->model, "app", &a, &e), e);
    repo_close(r);
    return 0;
}

/* ---- files ---- */

/* 1: as in the snapshot, 0: as it was before, -1: there is none. */
static int look_at(const char *folder, const struct model_file *f)
{
    static uint8_t got[LARGE + 1];
    char path[300];

    snprintf(path, sizeof(path), "%s/%s", folder, f->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, got, sizeof(got));
    close(fd);
    if ((size_t)n == sizeof(old_content) && memcmp(got, old_content, sizeof(old_content)) == 0)
        return 0;
    assert_int_equal(n, f->len);
    assert_memory_equal(got, kept_content(f), f->len);
    return 1;
}

static size_t entries(const char *folder)
{
    struct dirent *entry;
    size_t n = 0;

    DIR *dir = opendir(folder);
    while (dir && (entry = readdir(dir)))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir)
        closedir(dir);
    return n;
}

static bool is_named(const struct restore_result *result, const char *name)
{
    for (size_t i = 0; i < result->problem_count; i++)
        if (strcmp(result->problems[i].path, name) == 0)
            return true;
    return false;
}

/* ---- a run ---- */

static int restore(const struct fault_run *f, const char *to, bool overwrite,
                   struct restore_result *result)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    *result = (struct restore_result){0};
    int rc = open_repo(f->path, REPO_READ, NULL, &r, &e);
    if (rc < 0)
        return rc;
    rc = catalog_snapshot(repo_catalog(r), f->model.snapshots[1].number, &row, &e);
    if (rc == 0) {
        const struct restore_request req = {
            .repo = r, .snapshot = &row, .target = to, .overwrite = overwrite, .workers = 1};
        rc = restore_run(&req, result, &e);
        snapshot_row_release(&row);
    }
    repo_close(r);
    return rc;
}

static void target_of(const struct fault_run *f, char out[200])
{
    snprintf(out, 200, "%s/out", f->aside);
}

static void put_old_files(const struct fault_run *f)
{
    static const char *const names[] = {"b", "large", "mine"};
    char to[200], path[256];

    target_of(f, to);
    assert_int_equal(mkdir(to, 0755), 0);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", to, names[i]);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        assert_int_equal(write(fd, old_content, sizeof(old_content)), sizeof(old_content));
        close(fd);
    }
}

static void try_restore(struct fault_run *f, bool overwrite)
{
    const struct model_tree *tree = &f->model.snapshots[1].tree;
    struct restore_result result;
    char to[200];

    target_of(f, to);
    int rc = restore(f, to, overwrite, &result);
    f->opened = true;
    f->tried++;
    f->failed += rc < 0;
    for (size_t i = 0; i < tree->count; i++) {
        const struct model_file *file = &tree->files[i];
        int found = look_at(to, file); /* whole, whatever it is */
        if (rc == 0)
            assert_int_equal(found, 1);
        else if (result.finished)
            assert_true(found == 1 || is_named(&result, file->name));
        else if (!overwrite) /* all or nothing */
            assert_int_equal(found, look_at(to, &tree->files[0]));
    }
    /* What could be cleared away was. */
    if (f->mode == MODE_FAIL && (f->kinds & OF_CHANGES) == 0)
        assert_true(entries(f->aside) <= 1);
    restore_result_release(&result);
}

static void restore_anew(struct fault_run *f)
{
    try_restore(f, false);
}

static void restore_over(struct fault_run *f)
{
    put_old_files(f);
    try_restore(f, true);
}

static void check(struct fault_run *f)
{
    const struct model_tree *tree = &f->model.snapshots[1].tree;
    const struct model_file mine = {.name = "mine"};
    struct restore_result result;
    char to[200];

    target_of(f, to);
    size_t before = look_at(to, &mine) == 0;
    assert_int_equal(restore(f, to, true, &result), 0);
    restore_result_release(&result);
    for (size_t i = 0; i < tree->count; i++)
        assert_int_equal(look_at(to, &tree->files[i]), 1);
    assert_int_equal(entries(to), tree->count + before);
    assert_int_equal(entries(f->aside), 1); /* what a killed one left is gone too */
}

static const struct fault_plan anew = {restore_anew, check, 8, 3};
static const struct fault_plan over = {restore_over, check, 8, 3};

static void test_an_error_anywhere(void **state)
{
    every_place(*state, &anew, OF_CHANGES, MODE_FAIL, 0);
    every_place(*state, &over, OF_CHANGES, MODE_FAIL, 0);
}

static void test_no_write_from_anywhere_on(void **state)
{
    every_place(*state, &anew, OF_CHANGES, MODE_STICKY, 0);
    every_place(*state, &over, OF_CHANGES, MODE_STICKY, 0);
}

static void test_killed_anywhere(void **state)
{
    every_place(*state, &anew, OF_CHANGES, MODE_KILL, EIO);
    every_place(*state, &over, OF_CHANGES, MODE_KILL, EIO);
}

static void test_no_close_anywhere(void **state)
{
    every_place(*state, &anew, OF_CLOSES, MODE_FAIL, EIO);
    every_place(*state, &over, OF_CLOSES, MODE_FAIL, EDQUOT);
}

static void test_a_read_error_anywhere(void **state)
{
    every_place(*state, &anew, OF_READS, MODE_FAIL, EIO);
    every_place(*state, &over, OF_READS, MODE_FAIL, EIO);
}

static void test_no_read_from_anywhere_on(void **state)
{
    every_place(*state, &anew, OF_FILES, MODE_STICKY, EIO);
    every_place(*state, &over, OF_FILES, MODE_STICKY, EIO);
}

static void test_in_fragments(void **state)
{
    every_place(*state, &anew, 0, MODE_RAGGED, EIO);
    every_place(*state, &over, 0, MODE_RAGGED, EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, fault_base_end)
        T(test_an_error_anywhere),     T(test_no_write_from_anywhere_on),
        T(test_killed_anywhere),       T(test_no_close_anywhere),
        T(test_a_read_error_anywhere), T(test_no_read_from_anywhere_on),
        T(test_in_fragments),
    };

    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT); /* what could not be cleared away is warned of */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
