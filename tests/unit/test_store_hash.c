#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/hash.h"
#include "store_test.h"

#include "base/banned.h"

/* FIPS 180-2, appendix B. */
static void test_sha256_of_known_texts(void **state)
{
    struct hash h;

    hash_sha256("abc", 3, &h);
    assert_hex(h.b, HASH_LEN, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256(NULL, 0, &h);
    assert_hex(h.b, HASH_LEN, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, &h);
    assert_hex(h.b, HASH_LEN, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_stream_gives_what_one_call_gives(void **state)
{
    uint8_t bytes[10000];
    struct hash whole, pieces;
    struct hash_stream *s = hash_stream_new();

    fill_random(bytes, sizeof(bytes), 1);
    hash_sha256(bytes, sizeof(bytes), &whole);
    assert_non_null(s);
    for (size_t at = 0, n = 1; at < sizeof(bytes); at += n, n = n * 2 + 1) {
        if (n > sizeof(bytes) - at)
            n = sizeof(bytes) - at;
        hash_stream_update(s, bytes + at, n);
    }
    hash_stream_final(s, &pieces);
    hash_stream_free(s);
    hash_stream_free(NULL);
    assert_true(hash_equal(&whole, &pieces));
    pieces.b[31] ^= 1;
    assert_false(hash_equal(&whole, &pieces));
}

static void test_zero_hash_is_told_apart(void **state)
{
    struct hash h = {{0}};

    assert_true(hash_is_zero(&h));
    h.b[31] = 1;
    assert_false(hash_is_zero(&h));
}

static void test_fast_hash_depends_on_secret_and_every_byte(void **state)
{
    uint8_t secret[FAST_SECRET_LEN], other[FAST_SECRET_LEN];
    uint8_t bytes[5000];
    struct fast_hash a, b;

    fill_random(secret, sizeof(secret), 2);
    fill_random(other, sizeof(other), 3);
    fill_random(bytes, sizeof(bytes), 4);
    hash_fast(bytes, sizeof(bytes), secret, &a);
    hash_fast(bytes, sizeof(bytes), secret, &b);
    assert_memory_equal(a.b, b.b, sizeof(a.b));
    hash_fast(bytes, sizeof(bytes), other, &b);
    assert_memory_not_equal(a.b, b.b, sizeof(a.b));
    for (size_t i = 0; i < sizeof(bytes); i += 7) {
        bytes[i] ^= 0x10;
        hash_fast(bytes, sizeof(bytes), secret, &b);
        assert_memory_not_equal(a.b, b.b, sizeof(a.b));
        bytes[i] ^= 0x10;
    }
}

/* From the sanity checks of xxHash: XXH3-64 of nothing, with seed 0. */
static void test_guard_is_xxh3(void **state)
{
    assert_true(hash_guard(NULL, 0, 0) == UINT64_C(0x2d06800538d394c2));
    assert_true(hash_guard("x", 1, 1) != hash_guard("x", 1, 2));
}

static void test_state_sum_forgets_order_and_cancels(void **state)
{
    struct state_sum a = {{0}}, b = {{0}};
    static const struct state_sum zero;

    for (uint32_t i = 0; i < 1000; i++)
        state_sum_add(&a, &i, sizeof(i));
    for (uint32_t i = 1000; i-- > 0;)
        state_sum_add(&b, &i, sizeof(i));
    assert_memory_equal(a.b, b.b, sizeof(a.b));
    assert_memory_not_equal(a.b, zero.b, sizeof(a.b));
    for (uint32_t i = 0; i < 1000; i++)
        state_sum_sub(&a, &i, sizeof(i));
    assert_memory_equal(a.b, zero.b, sizeof(a.b));
    state_sum_sub(&a, "x", 1); /* below zero and back */
    state_sum_add(&a, "x", 1);
    assert_memory_equal(a.b, zero.b, sizeof(a.b));
}

static void test_state_sum_golden(void **state)
{
    struct state_sum s = {{0}};

    state_sum_add(&s, "abc", 3);
    assert_hex(s.b, sizeof(s.b), "ba7816bf8f01cfea414140de5dae2223");
    state_sum_add(&s, "", 0);
    /* 0x2322ae5dde404141eacf018fbf1678ba + 0x24b96f99c8f4fb9a141cfc9842c4b0e3, little-endian */
    assert_hex(s.b, sizeof(s.b), "9d29db0128feebfedb3c35a7f71ddc47");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_of_known_texts),
        cmocka_unit_test(test_stream_gives_what_one_call_gives),
        cmocka_unit_test(test_zero_hash_is_told_apart),
        cmocka_unit_test(test_fast_hash_depends_on_secret_and_every_byte),
        cmocka_unit_test(test_guard_is_xxh3),
        cmocka_unit_test(test_state_sum_forgets_order_and_cancels),
        cmocka_unit_test(test_state_sum_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
