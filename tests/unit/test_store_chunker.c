#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/chunker.h"
#include "store_test.h"

#include "base/banned.h"

enum { LEN = 8 * 1024 * 1024, CUTS_MAX = 2000 };

/* All cut points of a stream, given whole. */
static size_t cuts_of(const struct chunker *c, const uint8_t *p, size_t n, size_t *cuts)
{
    size_t count = 0;

    for (size_t at = 0; at < n;) {
        size_t len = chunker_next(c, p + at, n - at, 1);
        assert_true(len > 0 && len <= n - at);
        assert_true(count < CUTS_MAX);
        at += len;
        cuts[count++] = at;
    }
    return count;
}

static void test_sizes_follow_the_stream(void **state)
{
    static const struct {
        uint64_t total;
        uint32_t page;
        size_t min, avg, max;
    } want[] = {
        {0, 0, 65536, 65536, 65536},
        {65536, 0, 65536, 65536, 65536},
        {65537, 0, 8192, 32768, 262144},
        {(UINT64_C(256) << 20) - 1, 0, 8192, 32768, 262144},
        {UINT64_C(256) << 20, 0, 32768, 131072, 1048576},
        {UINT64_C(4) << 30, 0, 131072, 524288, 4194304},
        {4096, 4096, 16384, 16384, 16384},
        {UINT64_C(4) << 30, 512, 16384, 16384, 16384},
        {UINT64_C(5) << 30, 4096, 32768, 32768, 32768},
        {UINT64_C(1) << 40, 4096, 65536, 65536, 65536},
        {65536, 65536, 65536, 65536, 65536},
    };

    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        struct chunker c = chunker_for(want[i].total, want[i].page);
        assert_int_equal(c.min, want[i].min);
        assert_int_equal(c.avg, want[i].avg);
        assert_int_equal(c.max, want[i].max);
        assert_true(c.max <= CHUNK_LEN_MAX);
    }
}

/* The cut points are part of the format in use: other cuts would store everything anew. The bytes
 * are SplitMix64's, the gear table is derived again from its seed, and the rule is told again here
 * in the plainest words. */
static size_t next_by_the_book(const uint8_t *p, size_t n)
{
    uint64_t seed = UINT64_C(0x776b676561723031), gear[256];

    for (int i = 0; i < 256; i++)
        gear[i] = next_random(&seed);
    for (size_t len = 8192 + 1; len <= n && len < 262144; len++) {
        uint64_t h = 0;
        for (size_t i = len - 64; i < len; i++)
            h = (h << 1) + gear[p[i]];
        int bits = len <= 32768 ? 17 : 13;
        if (h >> (64 - bits) == 0)
            return len;
    }
    return n < 262144 ? n : 262144;
}

static void test_cuts_are_those_of_the_format(void **state)
{
    static const size_t golden[] = {24472,  58685,  104177, 177992, 214033,  253246, 288083,
                                    325321, 368000, 413913, 449356, 488375,  530960, 580949,
                                    619270, 656576, 691482, 716772, 737719,  772342, 814664,
                                    841183, 898002, 931733, 980067, 1022649, 1048576};
    struct chunker c = chunker_for(1 << 20, 0);
    uint8_t *p = must_alloc(LEN);
    size_t cuts[CUTS_MAX];

    fill_random(p, 1 << 20, 1);
    size_t count = cuts_of(&c, p, 1 << 20, cuts);
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++)
        assert_int_equal(cuts[i], golden[i]);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        at += next_by_the_book(p + at, (1 << 20) - at);
        assert_int_equal(cuts[i], at);
    }
    free(p);
}

/* A cut just behind the minimum looks back beyond it: the hash covers 64 bytes everywhere. */
static void test_first_places_see_a_whole_window(void **state)
{
    struct chunker c = chunker_for(LEN, 0);
    uint8_t *p = must_alloc(1 << 17);
    size_t found = 0;

    for (uint64_t seed = 100; found == 0 || found > c.avg; seed++) {
        fill_random(p, 1 << 17, seed);
        found = next_by_the_book(p, 1 << 17);
    }
    for (size_t place = c.min + 1; place < c.min + 64; place += 7) {
        uint8_t *q = must_alloc(1 << 17);
        fill_random(q, 1 << 17, 99);
        memcpy(q + place - 64, p + found - 64, 64);
        assert_int_equal(chunker_next(&c, q, 1 << 17, 1), place);
        assert_int_equal(chunker_next(&c, q, 1 << 17, 1), next_by_the_book(q, 1 << 17));
        free(q);
    }
    free(p);
}

static void test_lengths_stay_in_bounds(void **state)
{
    struct chunker c = chunker_for(LEN, 0);
    uint8_t *p = must_alloc(LEN);
    size_t cuts[CUTS_MAX];

    fill_random(p, LEN, 2);
    size_t count = cuts_of(&c, p, LEN, cuts);
    for (size_t i = 0; i + 1 < count; i++) {
        size_t len = cuts[i] - (i ? cuts[i - 1] : 0);
        assert_in_range(len, c.min, c.max);
    }
    assert_in_range(LEN / count, 24 * 1024, 48 * 1024);
    memset(p, 0, LEN); /* nothing to cut at: the longest, each time */
    count = cuts_of(&c, p, LEN, cuts);
    assert_int_equal(count, LEN / c.max);
    free(p);
}

static size_t common(const size_t *a, size_t na, const size_t *b, size_t nb, size_t shift)
{
    size_t i = 0, j = 0, same = 0;

    while (i < na && j < nb) {
        if (a[i] + shift == b[j]) {
            same++;
            i++;
            j++;
        } else if (a[i] + shift < b[j]) {
            i++;
        } else {
            j++;
        }
    }
    return same;
}

/* One byte more in the middle moves every cut behind it by one, but for a few beside it. */
static void test_insertion_stays_local(void **state)
{
    struct chunker c = chunker_for(LEN, 0);
    uint8_t *p = must_alloc(LEN + 1);
    size_t *before = must_alloc(CUTS_MAX * sizeof(*before));
    size_t *after = must_alloc(CUTS_MAX * sizeof(*after));

    for (uint64_t seed = 3; seed < 13; seed++) {
        size_t place = LEN / 2 + (size_t)seed * 1000;
        fill_random(p, LEN, seed);
        size_t n = cuts_of(&c, p, LEN, before);
        memmove(p + place + 1, p + place, LEN - place);
        p[place] = 0x5a;
        size_t m = cuts_of(&c, p, LEN + 1, after);
        size_t first = 0;
        while (before[first] <= place)
            first++;
        assert_memory_equal(before, after, first * sizeof(*before));
        assert_true(common(before + first, n - first, after, m, 1) + 8 >= n - first);
    }
    free(before);
    free(after);
    free(p);
}

/* Fed in pieces, the cuts are the same. */
static void test_more_bytes_are_asked_for(void **state)
{
    struct chunker c = chunker_for(LEN, 0);
    uint8_t *p = must_alloc(LEN);
    size_t cuts[CUTS_MAX], at = 0;

    fill_random(p, LEN, 14);
    size_t count = cuts_of(&c, p, LEN, cuts);
    for (size_t i = 0; i < count; i++) {
        size_t n = 0, len = 0;
        while (len == 0 && n < LEN - at) {
            n = n + 5000 < LEN - at ? n + 5000 : LEN - at;
            len = chunker_next(&c, p + at, n, n == LEN - at);
            assert_true(len > 0 || n < c.max);
        }
        at += len;
        assert_int_equal(at, cuts[i]);
    }
    assert_int_equal(chunker_next(&c, p, 0, 0), 0);
    assert_int_equal(chunker_next(&c, p, 0, 1), 0);
    free(p);
}

static void test_pages_are_never_split(void **state)
{
    struct chunker c = chunker_for(1000000, 4096);
    uint8_t *p = must_alloc(65536);

    fill_random(p, 65536, 15);
    assert_int_equal(chunker_next(&c, p, 65536, 0), 16384);
    assert_int_equal(chunker_next(&c, p, 16384, 0), 16384);
    assert_int_equal(chunker_next(&c, p, 16383, 0), 0);
    assert_int_equal(chunker_next(&c, p, 8192, 1), 8192);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_follow_the_stream),
        cmocka_unit_test(test_cuts_are_those_of_the_format),
        cmocka_unit_test(test_first_places_see_a_whole_window),
        cmocka_unit_test(test_lengths_stay_in_bounds),
        cmocka_unit_test(test_insertion_stays_local),
        cmocka_unit_test(test_more_bytes_are_asked_for),
        cmocka_unit_test(test_pages_are_never_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
