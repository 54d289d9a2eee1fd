/* Several saves at once, some of them large: their steps in any order, and between them all else
 * that the store is asked for, by a seed and in one thread. So that little is large here the bounds
 * of the handle are moved. WK_SEED repeats a run, WK_SEEDS makes it longer. */
#include "saves_fixture.h"

#include "base/banned.h"

enum { STEPS = 60, SEEDS = 100 };

/* What is in the files at this moment is what a process that is killed leaves. */
static void killed(void)
{
    char left[128];

    snprintf(left, sizeof(left), "%s/repo-%u", g.scratch->path, ++g.copies);
    copy_repo(g.path, left);
    close_it();
    memcpy(g.path, left, sizeof(left));
    open_again();
}

static void run(uint64_t seed)
{
    struct error e = ERROR_INIT;

    memset(&g, 0, sizeof(g));
    g.random = seed * 7919;
    assert_int_equal(scratch_setup((void **)&g.scratch), 0);
    snprintf(g.path, sizeof(g.path), "%s/repo-0", g.scratch->path);
    OK(repo_init(g.path, &e), e);
    open_again();
    for (unsigned n = 0; n < STEPS; n++)
        step(killed);
    close_it();
    open_again();
    check();
    rebuild();
    check();
    verify(g.repo, false);
    close_it();
    assert_int_equal(scratch_teardown((void **)&g.scratch), 0);
}

static int flush(int fd)
{
    if (is_here())
        between_flushing();
    return 0;
}

static void test_anything_between_the_steps_of_saves(void **state)
{
    const char *given = getenv("WK_SEED"), *many = getenv("WK_SEEDS");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;
    uint64_t count = many ? strtoull(many, NULL, 10) : given ? 1 : SEEDS;
    struct fileops ops = fileops_system;

    this_thread = pthread_self();
    ops.pread = pread_between;
    ops.gate = gate_between;
    ops.fdatasync = flush;
    ops.fsync = no_sync;
    fileops = &ops;
    for (uint64_t n = 0; n < count; n++) {
        print_message("WK_SEED=%" PRIu64 "\n", seed + n);
        run(seed + n);
    }
    fileops = &fileops_system;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_anything_between_the_steps_of_saves)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
