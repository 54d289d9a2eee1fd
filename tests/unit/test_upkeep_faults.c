/* Upkeep that breaks off at any operation on files loses nothing: seals, checkpoint, compaction,
 * drop and removal, failing once, for good, killed, and with the power cut. */
#include "fault_fixture.h"

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

struct base {
    struct scratch *scratch;
    char path[128];
    struct model model;
};

struct outcome {
    struct model model;
    bool opened, drop_tried, dropped;
    unsigned failed; /* saves, drops, upkeeps */
};

static const struct upkeep everything = {.all = true, .keep_s = 0};

/* A history that leaves something to do for each part: blocks in the log and in data packs, dead
 * and alive, a checkpoint that is there already, a data pack that has ended. */
static int setup(void **state)
{
    struct base *b = calloc(1, sizeof(*b));
    struct model_tree a = {.count = 0}, p = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;

    if (!b || memory_scratch(&b->scratch) != 0)
        return -1;
    snprintf(b->path, sizeof(b->path), "%s/base", b->scratch->path);
    OK(repo_init(b->path, &e), e);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&a, "zero", 3, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    tree_set(&p, "small", 8, 3000);
    OK(save(r, &b->model, "photos", &p, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    tree_set(&a, "zero", 7, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 9, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    tree_set(&a, "one", 11, 6000);
    OK(save(r, &b->model, "app", &a, &e), e);
    repo_close(r);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct base *b = *state;

    faults_off();
    int rc = scratch_teardown((void **)&b->scratch);
    free(b);
    return rc;
}

static void run(const char *path, struct outcome *o)
{
    const uint64_t doomed[] = {1, 2};
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&o->model, "app");
    struct repo *r;

    if (open_repo(path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    o->drop_tried = true;
    o->dropped = repo_drop(r, doomed, 2, &e) == 0;
    o->failed += !o->dropped;
    o->failed += repo_upkeep(r, &everything, NULL, &e) < 0;
    tree_set(&a, "two", 51, 3000);
    o->failed += save(r, &o->model, "app", &a, &e) < 0;
    o->failed += repo_upkeep(r, &everything, NULL, &e) < 0;
    repo_close(r);
}

static void check_rebuild(struct repo *r, const char *path)
{
    struct error e = ERROR_INIT;
    size_t listed = check_all_listed(r);

    check_refs(r);
    char *live = dump_catalog(path);
    OK(repo_rebuild(r, &e), e);
    char *rebuilt = dump_catalog(path);
    assert_int_equal(check_all_listed(r), listed);
    char *end_live = strstr(live, "SELECT chain"), *end_rebuilt = strstr(rebuilt, "SELECT chain");
    *end_live = *end_rebuilt = '\0'; /* but the next number may be higher in the one that lived */
    assert_string_equal(live, rebuilt);
    free(live);
    free(rebuilt);
}

static void check_after(const char *path, struct outcome *o)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    OK(open_repo(path, REPO_READ, NULL, &r, &e), e);
    for (size_t i = 0; i < 2; i++) {
        bool there = catalog_snapshot(repo_catalog(r), i + 1, &row, &e) == 0;
        if (there)
            snapshot_row_release(&row);
        assert_false(there && o->dropped);
        assert_true(there || o->drop_tried);
        o->model.snapshots[i].dropped = !there;
    }
    check_model(r, &o->model);
    check_refs(r);
    repo_close(r);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &o->model);
    check_rebuild(r, path);
    /* What was broken off is done now, and nothing is left over. */
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    check_model(r, &o->model);
    check_rebuild(r, path);
    uint64_t newest = o->model.snapshots[o->model.count - 1].number;
    struct model_tree c = {.count = 0};
    tree_set(&c, "later", 61, LARGE);
    OK(save(r, &o->model, "third", &c, &e), e);
    assert_true(o->model.snapshots[o->model.count - 1].number > newest);
    check_model(r, &o->model);
    check_rebuild(r, path);
    repo_close(r);
}

/* One run with the fault at its place; false when nothing was hit any more. */
static bool run_with_fault(struct base *b, enum mode mode, int error, unsigned at)
{
    struct outcome o = {.model = b->model};
    struct error e = ERROR_INIT;
    char path[160];

    snprintf(path, sizeof(path), "%s/run", b->scratch->path);
    copy_repo(b->path, path);
    faults_on(mode, error, at);
    if (mode == MODE_CUT)
        all_is_flushed(path);
    run(path, &o);
    bool hit = fault.hit;
    faults_off();
    if (mode == MODE_CUT)
        cut_power(path, at);
    if (getenv("WK_TEST_NOTICES"))
        print_message("mode %d at %u: %u failed\n", mode, at, o.failed);
    if (mode == MODE_FAIL && o.opened)
        assert_true(o.failed <= 1); /* the handle goes on */
    if (!hit)
        assert_true(o.opened && o.failed == 0 && o.dropped);
    check_after(path, &o);
    OK(remove_tree(b->scratch->fd, "run", &e), e);
    return hit;
}

static void every_place(struct base *b, enum mode mode, int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 11 : 1; /* a sanitizer run takes a sample */
    unsigned at = 1;

    while (run_with_fault(b, mode, error, at))
        at += step;
    assert_true(at > 60); /* the table is in use */
}

static void test_input_output_error_anywhere(void **state)
{
    every_place(*state, MODE_FAIL, EIO);
}

static void test_disk_full_from_anywhere_on(void **state)
{
    every_place(*state, MODE_STICKY, ENOSPC);
}

static void test_read_only_from_anywhere_on(void **state)
{
    every_place(*state, MODE_STICKY, EROFS);
}

static void test_killed_anywhere(void **state)
{
    every_place(*state, MODE_KILL, EIO);
}

static void test_power_cut_anywhere(void **state)
{
    every_place(*state, MODE_CUT, EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_input_output_error_anywhere), T(test_disk_full_from_anywhere_on),
        T(test_read_only_from_anywhere_on),  T(test_killed_anywhere),
        T(test_power_cut_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
