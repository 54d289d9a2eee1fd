/* random.h - bytes from the kernel (getrandom). */
#ifndef WK_BASE_RANDOM_H
#define WK_BASE_RANDOM_H

#include <stddef.h>

/* Fill p; never fails on Linux once booted (aborts the process otherwise). Any thread. */
void random_bytes(void *p, size_t n);

#endif
