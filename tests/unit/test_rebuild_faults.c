/* The catalog made anew, by command or because it is gone, with a fault at every place in turn:
 * every snapshot is there afterwards, and the same as before. */
#include "no_memory.h"

#include "fault_fixture.h"

#include "base/banned.h"

/* Packs of every kind: a checkpoint twice, blocks that were moved, a torn tail that is fenced off,
 * and a log that goes on behind it. */
static int setup(void **state)
{
    struct model_tree a = {.count = 0}, p = {.count = 0};
    const uint64_t doomed = 1;
    struct error e = ERROR_INIT;
    struct fault_base *b;
    struct repo *r;

    if (fault_base_begin(state, &b, &r) != 0)
        return -1;
    tree_set(&a, "zero", 3, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    OK(save_named(r, &b->model, "photos", "first", &p, &e), e);
    tree_set(&a, "zero", 7, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    OK(repo_drop(r, &doomed, 1, &e), e);
    b->model.snapshots[0].dropped = true;
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    tree_set(&a, "one", 11, 6000);
    faults_on(OF_CHANGES, MODE_FAIL, EIO, 1);
    assert_true(save(r, &b->model, "app", &a, &e) < 0);
    faults_off();
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "more", 9, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    repo_close(r);
    return 0;
}

static void remove_catalog(const char *repo)
{
    char path[200];

    snprintf(path, sizeof(path), "%s/catalog.db", repo);
    unlink(path);
}

static void rebuild(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct repo *r;

    if (open_repo(f->path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    f->opened = true;
    f->failed += repo_rebuild(r, &e) < 0;
    repo_close(r);
}

static void open_without_catalog(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct repo *r;

    remove_catalog(f->path);
    if (open_repo(f->path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    f->opened = true;
    repo_close(r);
}

/* A reader gets everything or an error. */
static void read_without_catalog(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct repo *r;

    remove_catalog(f->path);
    if (open_repo(f->path, REPO_READ, NULL, &r, &e) < 0)
        return;
    f->opened = true;
    faults_off();
    assert_int_equal(snapshot_count(r), f->model.count - 1);
    check_model(r, &f->model);
    repo_close(r);
}

static void check(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct model_tree c = {.count = 0};
    struct repo *r;

    OK(open_repo(f->path, REPO_READ, NULL, &r, &e), e);
    check_model(r, &f->model);
    repo_close(r);
    OK(open_repo(f->path, REPO_WRITE, NULL, &r, &e), e);
    assert_int_equal(check_all_listed(r), f->model.count - 1);
    check_model(r, &f->model);
    check_refs(r);
    uint64_t newest = f->model.snapshots[f->model.count - 1].number;
    tree_set(&c, "later", 6, 900);
    OK(save(r, &f->model, "third", &c, &e), e);
    assert_true(f->model.snapshots[f->model.count - 1].number > newest);
    check_model(r, &f->model);
    repo_close(r);
}

static const struct fault_plan rebuilds = {rebuild, check, 30, 7};
static const struct fault_plan writers = {open_without_catalog, check, 30, 7};
static const struct fault_plan readers = {read_without_catalog, check, 30, 7};

USUAL_FAULTS(rebuilds)
EVERY_PLACE(test_no_read_from_anywhere_on, rebuilds, OF_READS, MODE_STICKY, EIO)
EVERY_PLACE(test_a_writer_with_a_read_error, writers, OF_READS, MODE_FAIL, EIO)
EVERY_PLACE(test_a_writer_without_writes, writers, OF_CHANGES, MODE_STICKY, 0)
EVERY_PLACE(test_a_reader_with_a_read_error, readers, OF_READS, MODE_FAIL, EIO)
EVERY_PLACE(test_a_reader_without_reads, readers, OF_READS, MODE_STICKY, EIO)
EVERY_PLACE(test_a_writer_without_memory, writers, OF_MEMORY, MODE_FAIL, ENOMEM)
EVERY_PLACE(test_a_reader_without_memory, readers, OF_MEMORY, MODE_FAIL, ENOMEM)

int main(void)
{
    const struct CMUnitTest tests[] = {
        USUAL_FAULT_TESTS,
        FAULT_TEST(test_no_read_from_anywhere_on),
        FAULT_TEST(test_a_writer_with_a_read_error),
        FAULT_TEST(test_a_writer_without_writes),
        FAULT_TEST(test_a_reader_with_a_read_error),
        FAULT_TEST(test_a_reader_without_reads),
        FAULT_TEST(test_a_writer_without_memory),
        FAULT_TEST(test_a_reader_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
