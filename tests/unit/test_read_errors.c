/* A read that the disk refuses is an error: never the end of a log, never damage, never a loss. */
#include "save_faults.h"

#include "base/banned.h"

static void test_saves_with_a_read_error(void **state)
{
    every_place(*state, &saves, OF_READS, MODE_FAIL, EIO);
}

static void test_saves_while_nothing_can_be_read(void **state)
{
    every_place(*state, &saves, OF_READS, MODE_STICKY, EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, saves_setup, fault_base_end)
        T(test_saves_with_a_read_error),
        T(test_saves_while_nothing_can_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
