/* A prune that breaks off at any operation on files: nothing outside of the plan is lost, the floor
 * holds, and the next prune does the rest. It fails once, for good, is killed, and the power goes.
 */
#include "prune_fixture.h"

#include "fault_fixture.h"

#include "base/banned.h"

enum { SNAPSHOTS = 9 };

struct base {
    struct scratch *scratch;
    char path[128];
    struct model model;
    bool planned[SNAPSHOTS + 1]; /* by number: may go */
};

static struct pruner pruner_of(void)
{
    struct pruner p = {.policy.snapshots.keep_last = 1};

    p.request.pressed = true; /* all that is dead is moved out of, and unlinked */
    return p;
}

/* Nine snapshots of four days, large and small content, none verified, one of them named. */
static int setup(void **state)
{
    struct base *b = calloc(1, sizeof(*b));
    struct model_tree t = {.count = 0};
    struct error e = ERROR_INIT;
    struct repo *r;

    if (!b || memory_scratch(&b->scratch) != 0)
        return -1;
    snprintf(b->path, sizeof(b->path), "%s/base", b->scratch->path);
    OK(repo_init(b->path, &e), e);
    OK(open_repo(b->path, REPO_WRITE, NULL, &r, &e), e);
    tree_set(&t, "still", 2, 9000);
    for (int i = 1; i <= SNAPSHOTS; i++) {
        fixture_time = BEGIN + i * 8 * HOUR;
        tree_set(&t, "file", 100 + (uint64_t)i, i == 2 ? SMALL_SAVE_MAX + 20000u : 5000);
        OK(save_named(r, &b->model, "app", i == 4 ? "named" : NULL, &t, &e), e);
    }
    repo_close(r);
    for (uint64_t n = 1; n <= SNAPSHOTS; n++) /* 5, 8 and 9 are the last of their days */
        b->planned[n] = n == 1 || n == 2 || n == 3 || n == 6;
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

struct outcome {
    struct model model;
    bool opened, done;
    unsigned failed;
};

static void run(const char *path, struct outcome *o)
{
    struct error e = ERROR_INIT;
    struct pruner p = pruner_of();
    struct model_tree t = *last_tree(&o->model, "app");
    struct repo *r;

    if (open_repo(path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    o->opened = true;
    o->done = prune(r, &p, &e) == 0 && p.result.frozen_count == 0;
    o->failed += !o->done;
    prune_result_release(&p.result);
    tree_set(&t, "after", 51, 3000);
    o->failed += save(r, &o->model, "app", &t, &e) < 0;
    repo_close(r);
}

/* What is gone was planned; what is there is whole. done: all of the plan is. again: 7 may have
 * gone as well, once the later save was among the three newest. */
static void check(struct repo *r, const struct base *b, struct outcome *o, bool done, bool again)
{
    for (size_t i = 0; i < o->model.count; i++) {
        struct model_snapshot *s = &o->model.snapshots[i];
        s->dropped = !there(r, s->number);
        bool planned = s->number <= SNAPSHOTS && b->planned[s->number];
        assert_true(planned || !s->dropped || (again && s->number == 7));
        assert_true(s->dropped || !planned || !done);
    }
    check_model(r, &o->model);
    check_refs(r);
}

static void check_after(const char *path, const struct base *b, struct outcome *o)
{
    struct error e = ERROR_INIT;
    struct pruner p = pruner_of();
    struct repo *r;

    OK(open_repo(path, REPO_READ, NULL, &r, &e), e);
    check(r, b, o, o->done, false);
    repo_close(r);
    OK(open_repo(path, REPO_WRITE, NULL, &r, &e), e);
    OK(prune(r, &p, &e), e);
    assert_int_equal(p.result.frozen_count, 0);
    check(r, b, o, true, true);
    check_rebuilt_after_fault(r, path);
    check(r, b, o, true, true);
    prune_result_release(&p.result);
    repo_close(r);
}

/* One run with the fault at its place; false when nothing was hit any more. */
static bool prune_with_fault(struct base *b, enum mode mode, int error, unsigned at)
{
    struct outcome o = {.model = b->model};
    struct error e = ERROR_INIT;
    char path[160];

    snprintf(path, sizeof(path), "%s/run", b->scratch->path);
    copy_repo(b->path, path);
    faults_on(OF_CHANGES, mode, error, at);
    if (mode == MODE_CUT)
        all_is_flushed(path);
    run(path, &o);
    bool hit = fault.hit;
    faults_off();
    if (mode == MODE_CUT)
        cut_power(path, at);
    if (mode == MODE_FAIL && o.opened)
        assert_true(o.failed <= 1); /* the handle goes on */
    if (!hit)
        assert_true(o.opened && o.failed == 0 && o.done);
    check_after(path, b, &o);
    OK(remove_tree(b->scratch->fd, "run", &e), e);
    return hit;
}

static void prune_everywhere(struct base *b, enum mode mode, int error)
{
    const char *sanitized = getenv("WK_SANITIZE");
    unsigned step = sanitized && *sanitized ? 11 : 1; /* a sanitizer run takes a sample */
    unsigned at = 1;

    while (prune_with_fault(b, mode, error, at))
        at += step;
    assert_true(at > 60); /* the table is in use */
}

static void test_input_output_error_anywhere(void **state)
{
    prune_everywhere(*state, MODE_FAIL, EIO);
}

static void test_disk_full_from_anywhere_on(void **state)
{
    prune_everywhere(*state, MODE_STICKY, ENOSPC);
}

static void test_killed_anywhere(void **state)
{
    prune_everywhere(*state, MODE_KILL, EIO);
}

static void test_power_cut_anywhere(void **state)
{
    prune_everywhere(*state, MODE_CUT, EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_input_output_error_anywhere),
        T(test_disk_full_from_anywhere_on),
        T(test_killed_anywhere),
        T(test_power_cut_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
