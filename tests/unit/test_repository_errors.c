/* What was acknowledged stays, whatever operation on files fails, once or for good: for every one
 * in turn until none is hit. While nothing can be written, everything can be read. */
#include "save_faults.h"

#include "base/banned.h"

static void test_input_output_error_anywhere(void **state)
{
    every_place(*state, &saves, OF_CHANGES, MODE_FAIL, EIO);
}

static void test_disk_full_anywhere(void **state)
{
    every_place(*state, &saves, OF_CHANGES, MODE_FAIL, ENOSPC);
}

static void test_no_write_from_anywhere_on(void **state)
{
    every_place(*state, &saves, OF_CHANGES, MODE_STICKY, 0);
}

static void test_no_close_anywhere(void **state)
{
    every_place(*state, &saves, OF_CLOSES, MODE_FAIL, EIO);
}

static void test_short_and_interrupted_transfers(void **state)
{
    every_place(*state, &saves, 0, MODE_RAGGED, EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, saves_setup, fault_base_end)
        T(test_input_output_error_anywhere),     T(test_disk_full_anywhere),
        T(test_no_write_from_anywhere_on),       T(test_no_close_anywhere),
        T(test_short_and_interrupted_transfers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
