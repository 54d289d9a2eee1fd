/* Verify with a fault at every place in turn. What cannot be written costs the record of the result
 * alone. What cannot be read is told as that: it makes nothing damaged or lost, and nothing
 * verified.
 */
#include "no_memory.h"

#include "fault_fixture.h"

#include "snapshot/verify.h"

#include "base/banned.h"

static int setup(void **state)
{
    struct model_tree a = {.count = 0}, p = {.count = 0};
    struct error e = ERROR_INIT;
    struct fault_base *b;
    struct repo *r;

    if (fault_base_begin(state, &b, &r) != 0)
        return -1;
    tree_set(&a, "zero", 3, 5000);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "photo.jpg", 5, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    OK(repo_upkeep(r, &everything, NULL, &e), e);
    tree_set(&a, "zero", 6, 5100);
    OK(save(r, &b->model, "app", &a, &e), e);
    tree_set(&p, "long", 9, LARGE);
    OK(save(r, &b->model, "photos", &p, &e), e);
    repo_close(r);
    return 0;
}

/* ---- what a run told ---- */

static struct verify_result result;
static unsigned told; /* files and packs, by all runs of a test */

static bool is_told(uint64_t number)
{
    for (size_t i = 0; i < result.damaged_count; i++)
        for (size_t k = 0; k < result.damaged[i].snapshot_count; k++)
            if (result.damaged[i].snapshots[k] == number)
                return true;
    return false;
}

static void verify_as(struct fault_run *f, enum verify_level level, const uint64_t *some)
{
    struct error e = ERROR_INIT;
    struct repo *r;

    verify_result_release(&result);
    if (open_repo(f->path, REPO_WRITE, NULL, &r, &e) < 0)
        return;
    f->opened = true;
    const struct verify_request req = {.repo = r,
                                       .level = level,
                                       .snapshots = some,
                                       .count = some ? 2 : 0,
                                       .record = true,
                                       .workers = 1};
    int rc = verify_run(&req, &result, &e);
    f->failed += rc < 0 || result.errors > 0;
    f->tried++;
    told += result.damaged_count > 0 && result.damaged[0].snapshot_count > 0;
    for (size_t i = 0; i < result.damaged_count; i++)
        assert_true((f->kinds & (OF_FILES | OF_MEMORY)) && result.damaged[i].unread);
    repo_close(r);
}

static void verify_all(struct fault_run *f)
{
    verify_as(f, VERIFY_FULL, NULL);
}

static void verify_quickly(struct fault_run *f)
{
    verify_as(f, VERIFY_QUICK, NULL);
}

static void verify_two(struct fault_run *f)
{
    static const uint64_t some[] = {3, 4};

    verify_as(f, VERIFY_FULL, some);
}

/* ---- and afterwards ---- */

static int check_marks(void *ctx, const struct snapshot_row *s)
{
    assert_true(!s->damaged && s->whole);
    if (is_told(s->commit.number))
        assert_int_equal(s->verified.s, 0);
    return 0;
}

static void check(struct fault_run *f)
{
    struct error e = ERROR_INIT;
    struct verify_result again = {0};
    struct repo *r;

    OK(open_repo(f->path, REPO_WRITE, NULL, &r, &e), e);
    assert_int_equal(check_all_listed(r), f->model.count);
    check_model(r, &f->model);
    check_refs(r);
    OK(catalog_snapshots(repo_catalog(r), 0, 0, UINT64_MAX, false, check_marks, NULL, &e), e);
    const struct verify_request req = {.repo = r, .level = VERIFY_FULL, .record = true};
    OK(verify_run(&req, &again, &e), e);
    assert_int_equal(again.errors, 0);
    verify_result_release(&again);
    repo_close(r);
    verify_result_release(&result);
}

static const struct fault_plan full = {verify_all, check, 12, 7};
static const struct fault_plan quick = {verify_quickly, check, 3, 7};
static const struct fault_plan some = {verify_two, check, 12, 7};

USUAL_FAULTS(full)
EVERY_PLACE(test_some_with_no_write_from_anywhere_on, some, OF_CHANGES, MODE_STICKY, 0)
EVERY_PLACE(test_no_read_from_anywhere_on, full, OF_READS, MODE_STICKY, EIO)
EVERY_PLACE(test_a_quick_look_with_a_read_error, quick, OF_READS, MODE_FAIL, EIO)
EVERY_PLACE(test_a_quick_look_with_no_read_from_anywhere_on, quick, OF_READS, MODE_STICKY, EIO)
EVERY_PLACE(test_some_snapshots_with_a_read_error, some, OF_READS, MODE_FAIL, EIO)
EVERY_PLACE(test_some_snapshots_with_unreadable_packs, some, OF_FILES, MODE_STICKY, EIO)
EVERY_PLACE(test_no_memory_anywhere, full, OF_MEMORY, MODE_FAIL, ENOMEM)
EVERY_PLACE(test_some_snapshots_without_memory, some, OF_MEMORY, MODE_FAIL, ENOMEM)

static void test_unreadable_packs(void **state)
{
    told = 0;
    every_place(*state, &full, OF_FILES, MODE_STICKY, EIO);
    assert_true(told > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        USUAL_FAULT_TESTS,
        FAULT_TEST(test_some_with_no_write_from_anywhere_on),
        FAULT_TEST(test_no_read_from_anywhere_on),
        FAULT_TEST(test_unreadable_packs),
        FAULT_TEST(test_a_quick_look_with_a_read_error),
        FAULT_TEST(test_a_quick_look_with_no_read_from_anywhere_on),
        FAULT_TEST(test_some_snapshots_with_a_read_error),
        FAULT_TEST(test_some_snapshots_with_unreadable_packs),
        FAULT_TEST(test_no_memory_anywhere),
        FAULT_TEST(test_some_snapshots_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
