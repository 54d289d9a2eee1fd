/* The first start, from nothing to the first save, with a fault at every place in turn: what was
 * acknowledged is there afterwards, and what was not can be begun again. */
#include "fault_fixture.h"

#include "base/banned.h"

#define LARGE (SMALL_SAVE_MAX + 20000u)

static void first_start(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0}, b = {.count = 0};
    struct repo *r;

    if (repo_init(f->path, &e) < 0 || open_repo(f->path, REPO_WRITE, NULL, &r, &e) < 0) {
        f->failed++;
        return;
    }
    f->opened = true;
    tree_set(&a, "small", 2, 3000);
    f->failed += save(r, &f->model, "app", &a, &e) < 0;
    tree_set(&b, "large", 3, LARGE);
    f->failed += save(r, &f->model, "photos", &b, &e) < 0;
    repo_close(r);
}

static void check_second_start(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct model_tree a = {.count = 0};
    struct repo *r;

    int rc = repo_init(f->path, &e);
    OK(rc, e);
    assert_true(rc == 1 || f->model.count == 0); /* it was there */
    OK(open_repo(f->path, REPO_WRITE, NULL, &r, &e), e);
    check_model(r, &f->model);
    assert_true(check_all_listed(r) >= f->model.count);
    tree_set(&a, "later", 6, 900);
    OK(save(r, &f->model, "third", &a, &e), e);
    check_model(r, &f->model);
    check_refs(r);
    OK(repo_rebuild(r, &e), e);
    check_model(r, &f->model);
    repo_close(r);
}

static bool start_with_fault(struct scratch *s, unsigned kinds, enum mode mode, int error,
                             unsigned at)
{
    char path[160];
    struct fault_run f = {.path = path, .kinds = kinds, .mode = mode, .at = at};
    struct error e = ERROR_INIT;

    snprintf(path, sizeof(path), "%s/deep", s->path);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/deep/down/repo", s->path);
    faults_on(kinds, mode, error, at);
    first_start(&f);
    f.hit = fault.hit;
    faults_off();
    if (mode == MODE_CUT && f.opened)
        cut_power(path, at);
    if (mode == MODE_FAIL)
        assert_true(f.failed <= 1);
    if (!f.hit)
        assert_true(f.failed == 0 && f.model.count == 2);
    check_second_start(&f);
    OK(remove_tree(s->fd, "deep", &e), e);
    return f.hit;
}

static void start_everywhere(void **state, unsigned kinds, enum mode mode)
{
    static const int errors[] = {EIO, ENOSPC, EDQUOT, EROFS, EFBIG};
    unsigned at = 1;

    while (start_with_fault(*state, kinds, mode, errors[at % 5], at))
        at++;
    if (mode != MODE_RAGGED)
        assert_true(at > (kinds == OF_CHANGES ? 40 : 5));
}

static void test_an_error_anywhere(void **state)
{
    start_everywhere(state, OF_CHANGES, MODE_FAIL);
}

static void test_no_write_from_anywhere_on(void **state)
{
    start_everywhere(state, OF_CHANGES, MODE_STICKY);
}

static void test_killed_anywhere(void **state)
{
    start_everywhere(state, OF_CHANGES, MODE_KILL);
}

static void test_power_cut_anywhere(void **state)
{
    start_everywhere(state, OF_CHANGES, MODE_CUT);
}

static void test_a_read_error_anywhere(void **state)
{
    start_everywhere(state, OF_READS, MODE_FAIL);
}

static void test_no_close_anywhere(void **state)
{
    start_everywhere(state, OF_CLOSES, MODE_FAIL);
}

static void test_short_and_interrupted_transfers(void **state)
{
    start_everywhere(state, 0, MODE_RAGGED);
}

static int setup(void **state)
{
    return memory_scratch((struct scratch **)state);
}

static int teardown(void **state)
{
    faults_off();
    return scratch_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_an_error_anywhere),
        T(test_no_write_from_anywhere_on),
        T(test_killed_anywhere),
        T(test_power_cut_anywhere),
        T(test_a_read_error_anywhere),
        T(test_no_close_anywhere),
        T(test_short_and_interrupted_transfers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
