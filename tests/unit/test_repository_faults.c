/* What was acknowledged stays, wherever the process is killed or the power goes: for every
 * operation on files in turn until none is hit.
 *
 * kill: the operation and everything after it fails; a write is cut in half.
 * cut:  as kill, and then what was not flushed is lost, shortened, or comes out with holes. */
#include "save_faults.h"

#include <sys/wait.h>

#include "base/banned.h"

static void test_killed_anywhere(void **state)
{
    every_place(*state, &saves, OF_CHANGES, MODE_KILL, EIO);
}

static void test_power_cut_anywhere(void **state)
{
    every_place(*state, &saves, OF_CHANGES, MODE_CUT, EIO);
}

/* The flush of the commit fails: that save is not listed, later ones are, its number is not used
 * again, and the pack that failed is not written again. */
static void test_a_failed_flush(void **state)
{
    struct fault_base *b = *state;
    struct model m = b->model;
    struct error e = ERROR_INIT;
    struct model_tree a = *last_tree(&b->model, "app");
    struct stat before, after;
    struct repo *r;
    char log[256];

    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    snprintf(log, sizeof(log), "%s/packs/0-log-0000000000000001.wkp", b->path);
    faults_on(OF_CHANGES, MODE_FAIL, EIO, 2); /* write, flush */
    tree_set(&a, "one", 51, 3000);
    assert_int_equal(save(r, &m, "app", &a, &e), ERR_FAILED);
    assert_true(fault.hit);
    faults_off();
    assert_int_equal(stat(log, &before), 0);
    assert_int_equal(snapshot_count(r), 3);
    OK(save(r, &m, "app", &a, &e), e);
    assert_int_equal(m.snapshots[3].number, 5);
    assert_int_equal(stat(log, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    check_model(r, &m);
    repo_close(r);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    OK(repo_rebuild(r, &e), e);
    assert_int_equal(snapshot_count(r), 4);
    check_model(r, &m);
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
    struct fault_base *b = *state;
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
    faults_on(OF_CHANGES, MODE_NONE, 0, 0);
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
#define T(name) cmocka_unit_test_setup_teardown(name, saves_setup, fault_base_end)
        T(test_a_failed_flush),
        T(test_a_tail_is_flushed_before_it_is_believed),
        T(test_killed_anywhere),
        T(test_power_cut_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
