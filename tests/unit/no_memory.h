/* no_memory.h - the product's allocations among what fault_table.h lets fail (OF_MEMORY). Include
 * it before anything else, in the one file of a test that CMakeLists.txt links for it. */
#ifndef WK_TESTS_NO_MEMORY_H
#define WK_TESTS_NO_MEMORY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* The linker leads every call to the first ones; the test's own are not to fail. */
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t count, size_t n);
void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t count, size_t n);
#define malloc __real_malloc
#define calloc __real_calloc

#include "fault_table.h"

void *__wrap_malloc(size_t n)
{
    return strike(OF_MEMORY) ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t count, size_t n)
{
    return strike(OF_MEMORY) ? NULL : __real_calloc(count, n);
}

void *__wrap_realloc(void *p, size_t n)
{
    return strike(OF_MEMORY) ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t count, size_t n)
{
    return strike(OF_MEMORY) ? NULL : __real_reallocarray(p, count, n);
}

#endif
