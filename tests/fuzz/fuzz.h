/* fuzz.h - the one function that a fuzz target defines, as libFuzzer calls it. */
#ifndef WK_TESTS_FUZZ_H
#define WK_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
