/* What was acknowledged stays, whatever operation on files fails, and wherever the process is
 * killed or the power goes: for every operation in turn until none is hit.
 *
 * fail: the operation fails once, the process goes on and closes properly.
 * kill: it and everything after it fails; a write is cut in half.
 * cut:  as kill, and then what was not flushed is lost, shortened, or comes out with holes. */
#include "fault_fixture.h"

#include <sys/wait.h>

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

/* ---- the scenario ---- */

struct outcome {
    struct model model;
    unsigned tried, failed; /* saves */
    bool opened, drop_tried, dropped;
};

static void try_save(struct repo *r, struct outcome *o, const char *watch, const char *name,
                     const struct model_tree *tree)
{
    struct error e = ERROR_INIT;

    o->tried++;
    if (save_named(r, &o->model, watch, name, tree, &e) < 0)
        o->failed++;
}

static void try_two_at_once(struct repo *r, struct outcome *o)
{
    struct model_tree a = *last_tree(&o->model, "app");
    struct error e = ERROR_INIT;
    struct txn *given_up, *t;
    uint64_t number;

    tree_set(&a, "both", 41, LARGE);
    if (begin_save(r, "given-up", &given_up, &e) < 0)
        return;
    put_changes(given_up, &(struct model_tree){.count = 0}, &a, &e);
    if (begin_save(r, "app", &t, &e) == 0) {
        o->tried++;
        int rc = put_changes(t, last_tree(&o->model, "app"), &a, &e);
        if (rc < 0) {
            txn_abort(t);
        } else {
            rc = end_save(t, NULL, &a, &number, &e);
            if (rc == 0)
                model_add(&o->model, "app", number, &a);
        }
        o->failed += rc < 0;
    }
    txn_abort(given_up);
}

static void try_drop(struct repo *r, struct outcome *o)
{
    struct error e = ERROR_INIT;
    uint64_t number = o->model.snapshots[0].number;

    o->drop_tried = true;
    if (repo_drop(r, &number, 1, &e) == 0)
        o->dropped = true;
}

static void run(const char *path, struct outcome *o)
{
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&o->model, "app"), b = *last_tree(&o->model, "photos");
    struct repo *r;

    if (open_repo(path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    tree_set(&a, "one", 51, 3000);
    try_save(r, o, "app", "named", &a);
    tree_set(&b, "large", 53, LARGE);
    tree_remove(&b, "photo.jpg");
    try_save(r, o, "photos", NULL, &b);
    try_drop(r, o);
    try_two_at_once(r, o);
    repo_idle(r, &e);
    a = *last_tree(&o->model, "app");
    tree_set(&a, "two", 52, 9000);
    try_save(r, o, "app", NULL, &a);
    repo_close(r);
}

static void check_after(const char *path, struct outcome *o, bool exact)
{
    struct error e = ERROR_INIT;
    struct snapshot_row row;
    struct repo *r;

    /* A reader comes first: it finds the same without changing anything. */
    OK(open_repo(path, REPO_READ, NULL, &r, &e), e);
    o->model.snapshots[0].dropped = o->drop_tried;
    check_model(r, &o->model);
    repo_close(r);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &o->model);
    size_t listed = check_all_listed(r);
    bool first_is_there =
        catalog_snapshot(repo_catalog(r), o->model.snapshots[0].number, &row, &e) == 0;
    if (first_is_there)
        snapshot_row_release(&row);
    assert_false(first_is_there && o->dropped);
    size_t acknowledged = o->model.count - 1 + first_is_there;
    if (exact)
        assert_int_equal(listed, acknowledged);
    assert_true(listed >= acknowledged && listed <= acknowledged + 1);
    check_refs(r);
    uint64_t newest = o->model.snapshots[o->model.count - 1].number;
    struct model_tree c = {.count = 0};
    tree_set(&c, "later", 61, LARGE);
    OK(save(r, &o->model, "third", &c, &e), e);
    assert_true(o->model.snapshots[o->model.count - 1].number > newest);
    check_model(r, &o->model);
    char *live = dump_catalog(path);
    OK(repo_rebuild(r, &e), e);
    assert_int_equal(check_all_listed(r), listed + 1);
    char *rebuilt = dump_catalog(path);
    char *end_live = strstr(live, "SELECT chain"), *end_rebuilt = strstr(rebuilt, "SELECT chain");
    *end_live = *end_rebuilt = '\0'; /* but the next number may be higher in the one that lived */
    assert_string_equal(live, rebuilt);
    free(live);
    free(rebuilt);
    repo_close(r);
}

struct base {
    struct scratch *scratch;
    char path[128];
    struct model model;
};

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
    tree_set(&a, "zero", 2, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&a, "zero", 4, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
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

static void remove_repo(const struct base *b, const char *path)
{
    struct error e = ERROR_INIT;

    OK(remove_tree(b->scratch->fd, path + strlen(b->scratch->path) + 1, &e), e);
}

/* One run with the fault at its place; false when nothing was hit any more. */
static bool run_with_fault(struct base *b, enum mode mode, int error, unsigned at)
{
    struct outcome o = {.model = b->model};
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
        print_message("mode %d at %u: %u of %u saves failed\n", mode, at, o.failed, o.tried);
    if (mode == MODE_FAIL && o.opened)
        assert_true(o.failed <= 1); /* the handle goes on */
    if (!hit)
        assert_true(o.opened && o.failed == 0 && o.dropped);
    check_after(path, &o, mode == MODE_FAIL || !hit);
    remove_repo(b, path);
    return hit;
}

static void every_place(struct base *b, enum mode mode, int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 7 : 1; /* a sanitizer run takes a sample */
    unsigned at = 1;

    while (run_with_fault(b, mode, error, at))
        at += step;
    assert_true(at > 30); /* the table is in use */
}

static void test_killed_anywhere(void **state)
{
    every_place(*state, MODE_KILL, EIO);
}

static void test_power_cut_anywhere(void **state)
{
    every_place(*state, MODE_CUT, EIO);
}

static void test_input_output_error_anywhere(void **state)
{
    every_place(*state, MODE_FAIL, EIO);
}

static void test_disk_full_anywhere(void **state)
{
    every_place(*state, MODE_FAIL, ENOSPC);
}

/* A making that is broken off anywhere can be begun again. */
static void test_init_killed_anywhere(void **state)
{
    struct base *b = *state;
    struct error e = ERROR_INIT;
    struct repo *r;
    char path[160];
    bool hit = true;

    snprintf(path, sizeof(path), "%s/new", b->scratch->path);
    for (unsigned at = 1; hit; at++) {
        faults_on(MODE_KILL, EIO, at);
        repo_init(path, &e);
        hit = fault.hit;
        faults_off();
        OK(repo_init(path, &e), e);
        OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
        repo_close(r);
        remove_repo(b, path);
    }
}

/* The flush of the commit fails: that save is not listed, later ones are, its number is not used
 * again, and the pack that failed is not written again. */
static void test_a_failed_flush(void **state)
{
    struct base *b = *state;
    struct outcome o = {.model = b->model};
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&b->model, "app");
    struct stat before, after;
    struct repo *r;
    char log[256];

    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    snprintf(log, sizeof(log), "%s/packs/0-log-0000000000000001.wkp", b->path);
    faults_on(MODE_FAIL, EIO, 2); /* write, flush */
    tree_set(&a, "one", 51, 3000);
    assert_int_equal(save(r, &o.model, "app", &a, &e), ERR_FAILED);
    assert_true(fault.hit);
    faults_off();
    assert_int_equal(stat(log, &before), 0);
    assert_int_equal(snapshot_count(r), 3);
    OK(save(r, &o.model, "app", &a, &e), e);
    assert_int_equal(o.model.snapshots[3].number, 5);
    assert_int_equal(stat(log, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    check_model(r, &o.model);
    repo_close(r);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    OK(repo_rebuild(r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    check_model(r, &o.model);
    repo_close(r);
}

static int die(int fd)
{
    _exit(0);
}

/* Killed at its flush a save may be whole in the file all the same: the next writer flushes it
 * before anybody sees it. */
static void test_a_tail_is_flushed_before_it_is_believed(void **state)
{
    struct base *b = *state;
    struct model_tree a = *last_tree(&b->model, "app");
    struct error e = ERROR_INIT;
    struct stat st;
    struct repo *r;
    char log[256];
    int status;

    tree_set(&a, "one", 51, 3000);
    pid_t pid = fork();
    if (pid == 0) {
        OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
        fault_ops = fileops_system;
        fault_ops.fdatasync = die;
        fileops = &fault_ops;
        save(r, &b->model, "app", &a, &e);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    faults_on(MODE_NONE, 0, 0);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    faults_off();
    assert_int_equal(snapshot_count(r), 4);
    snprintf(log, sizeof(log), "%s/packs/0-log-0000000000000001.wkp", b->path);
    assert_int_equal(stat(log, &st), 0);
    assert_true(flushed_len(st.st_ino) == st.st_size);
    repo_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_a_failed_flush),       T(test_a_tail_is_flushed_before_it_is_believed),
        T(test_init_killed_anywhere), T(test_killed_anywhere),
        T(test_power_cut_anywhere),   T(test_input_output_error_anywhere),
        T(test_disk_full_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
