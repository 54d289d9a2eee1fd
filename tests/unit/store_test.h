/* store_test.h - what the tests of the store share: bytes from a seed, and golden bytes as hex. */
#ifndef WK_TESTS_STORE_TEST_H
#define WK_TESTS_STORE_TEST_H

#include "base/buffer.h"
#include "base/text.h"
#include "store/hash.h"

#include <stdlib.h>
#include <string.h>

/* SplitMix64: the same bytes on every machine. */
static inline uint64_t next_random(uint64_t *seed)
{
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline void fill_random(void *p, size_t n, uint64_t seed)
{
    uint8_t *b = p;

    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)(next_random(&seed) >> 56);
}

/* Lines like those of a log: they compress well, and no two are the same. */
static inline void fill_text(void *p, size_t n, uint64_t seed)
{
    static const char *const words[] = {"watch", "snapshot", "record", "chunk",
                                        "pack",  "commit",   "flush",  "fence"};
    struct buffer b = BUFFER_INIT;

    while (b.len < n)
        buffer_printf(&b, "%s %u %s\n", words[next_random(&seed) % 8],
                      (unsigned)(next_random(&seed) % 1000000), words[next_random(&seed) % 8]);
    assert_true(buffer_ok(&b));
    memcpy(p, b.data, n);
    buffer_release(&b);
}

static inline void *must_alloc(size_t n)
{
    void *p = malloc(n ? n : 1);

    assert_non_null(p);
    return p;
}

static inline void assert_hex(const void *p, size_t n, const char *want)
{
    char *got = must_alloc(2 * n + 1);

    text_hex(p, n, got);
    assert_string_equal(got, want);
    free(got);
}

#define OK(call, e)                                                                         \
    do {                                                                                    \
        int rc_ = (call);                                                                   \
        if (rc_ < 0) {                                                                      \
            print_error("%s:%d: %s: %d %s\n", __FILE__, __LINE__, #call, rc_, (e).message); \
            fail();                                                                         \
        }                                                                                   \
    } while (0)

#endif
