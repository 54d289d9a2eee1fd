#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/random.h"

#include <string.h>

#include "base/banned.h"

static void test_integers_are_little_endian(void **state)
{
    static const uint8_t want[] = {0xab, 0x02, 0x01, 0x06, 0x05, 0x04, 0x03, 0x0e,
                                   0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08, 0x07, 0xfe,
                                   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct buffer b = BUFFER_INIT;

    put_u8(&b, 0xab);
    put_u16(&b, 0x0102);
    put_u32(&b, 0x03040506);
    put_u64(&b, UINT64_C(0x0708090a0b0c0d0e));
    put_i64(&b, -2);
    assert_true(buffer_ok(&b));
    assert_int_equal(b.len, sizeof(want));
    assert_memory_equal(b.data, want, sizeof(want));

    struct reader r = reader_of(b.data, b.len);
    assert_int_equal(take_u8(&r), 0xab);
    assert_int_equal(take_u16(&r), 0x0102);
    assert_int_equal(take_u32(&r), 0x03040506);
    assert_true(take_u64(&r) == UINT64_C(0x0708090a0b0c0d0e));
    assert_false(reader_done(&r));
    assert_int_equal(take_i64(&r), -2);
    assert_true(reader_done(&r));
    buffer_release(&b);
}

static void test_load_gives_back_what_store_put(void **state)
{
    uint8_t p[8];

    store_u16(p, 0xfedc);
    assert_int_equal(load_u16(p), 0xfedc);
    store_u32(p, 0xfedcba98u);
    assert_true(load_u32(p) == 0xfedcba98u);
    store_u64(p, UINT64_MAX - 1);
    assert_true(load_u64(p) == UINT64_MAX - 1);
}

static void test_reader_stays_inside(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3};
    struct reader r = reader_of(bytes, sizeof(bytes));

    assert_int_equal(take_u32(&r), 0); /* one byte short */
    assert_true(r.bad);
    assert_int_equal(take_u8(&r), 0); /* and it stays bad */
    assert_null(take_bytes(&r, 0));
    assert_false(reader_done(&r));

    r = reader_of(bytes, sizeof(bytes));
    assert_null(take_bytes(&r, SIZE_MAX));
    assert_false(reader_done(&r));

    r = reader_of(bytes, sizeof(bytes));
    assert_ptr_equal(take_bytes(&r, 3), bytes);
    assert_non_null(take_bytes(&r, 0));
    assert_true(reader_done(&r));

    r = reader_of(NULL, 0);
    assert_non_null(take_bytes(&r, 0));
    assert_true(reader_done(&r));
}

static void test_varints(void **state)
{
    static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
    static const int64_t around[] = {0, -1, 1, -2, INT64_MAX, INT64_MIN};
    static const char *const bad[] = {"\x80", "\x80\x00", "\xff\x80\x00", /* cut off, too long */
                                      "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"};
    static const size_t bad_lens[] = {1, 2, 3, 10};

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct buffer b = BUFFER_INIT;
        put_varint(&b, values[i]);
        struct reader r = reader_of(b.data, b.len);
        assert_true(take_varint(&r) == values[i] && reader_done(&r));
        buffer_release(&b);
    }
    for (size_t i = 0; i < sizeof(around) / sizeof(around[0]); i++)
        assert_true(unzigzag(zigzag(around[i])) == around[i]);
    assert_true(zigzag(-1) == 1 && zigzag(1) == 2 && zigzag(INT64_MIN) == UINT64_MAX);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct reader r = reader_of(bad[i], bad_lens[i]);
        take_varint(&r);
        assert_true(r.bad);
    }
}

static void test_buffer_grows(void **state)
{
    struct buffer b = BUFFER_INIT;

    assert_string_equal(buffer_cstr(&b), "");
    buffer_append(&b, NULL, 0);
    buffer_append_str(&b, "pack ");
    buffer_printf(&b, "%d of %s", 7, "nine");
    assert_string_equal(buffer_cstr(&b), "pack 7 of nine");
    assert_int_equal(b.len, 14);
    buffer_clear(&b);
    assert_string_equal(buffer_cstr(&b), "");
    for (unsigned i = 0; i < 100000; i++)
        put_u8(&b, (uint8_t)(i * 31));
    assert_int_equal(b.len, 100000);
    for (unsigned i = 0; i < 100000; i++)
        assert_int_equal(b.data[i], (uint8_t)(i * 31));
    uint8_t *tail = buffer_grow(&b, 10);
    assert_ptr_equal(tail, b.data + 100000);
    assert_non_null(buffer_grow(&b, 0));
    assert_int_equal(b.len, 100010);
    buffer_release(&b);
    assert_null(b.data);
}

static void test_buffer_remembers_no_memory(void **state)
{
    struct buffer b = BUFFER_INIT;

    buffer_append_str(&b, "kept");
    assert_null(buffer_grow(&b, SIZE_MAX));
    assert_false(buffer_ok(&b));
    buffer_append_str(&b, "never");
    buffer_printf(&b, "%d", 1);
    assert_int_equal(b.len, 4);
    assert_string_equal(buffer_cstr(&b), "");
    buffer_release(&b);
    assert_true(buffer_ok(&b));
    assert_false(buffer_reserve(&b, SIZE_MAX - 1));
    buffer_release(&b);
}

static void test_random_bytes_differ(void **state)
{
    uint8_t a[600] = {0};
    uint8_t b[600] = {0};

    random_bytes(a, sizeof(a));
    random_bytes(b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
    assert_memory_not_equal(a + 300, b + 300, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers_are_little_endian),
        cmocka_unit_test(test_load_gives_back_what_store_put),
        cmocka_unit_test(test_reader_stays_inside),
        cmocka_unit_test(test_varints),
        cmocka_unit_test(test_buffer_grows),
        cmocka_unit_test(test_buffer_remembers_no_memory),
        cmocka_unit_test(test_random_bytes_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
